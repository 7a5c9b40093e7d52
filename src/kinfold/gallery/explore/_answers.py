"""Reading requests and writing responses: JSON that is safe for any name, and errors with their status."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kinfold.errors import InputError, KinfoldError, MissingExtraError, UnwritableError
from kinfold.gallery.explore._errors import ConflictError, ForbiddenError, NotFoundError, UnavailableError
from kinfold.gallery.explore._security import TooLongError

MOST_NUMBER = 2**53 - 1
"""Larger integers aren't exact in JavaScript."""

_log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,16}\Z")
# An edit is flat: few lists, of many numbers. Small objects take thirty times their text in memory.
_MOST_OPENINGS = 1000
_MOST_QUOTES = 10_000
_MOST_CLIENT = 100  # characters; the page sends a short random identifier
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (ForbiddenError, 403),
    (UnavailableError, 503),
    (MissingExtraError, 503),
    (TooLongError, 413),
    (UnwritableError, 503),
    (InputError, 400),
    (KinfoldError, 503),
    (sqlite3.Error, 503),
)


def answer(content: Any, status: int = 200, **headers: str) -> Response:
    """Return a response of JSON in ASCII, which lone surrogates and line separators in names can't break."""
    # NaN isn't JSON: better an error here than a page that can't parse it
    body = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def fail(status: int, text: str, **headers: str) -> Response:
    """Return a response of ``{"error": text}``."""
    return answer({"error": text}, status, **headers)


def read_number(text: str, what: str) -> int:
    """Return a number from a URL; :class:`NotFoundError` for anything else."""
    if _NUMBER.match(text) is None or int(text) > MOST_NUMBER:
        raise NotFoundError(f"there is no {what} {text[:20]!r}")
    return int(text)


def client_of(request: Request) -> str:
    """Return the identifier of the browser tab that sent a request."""
    name = request.headers.get("x-client", "")
    if len(name) > _MOST_CLIENT or not (name.isascii() and name.isprintable()):
        raise InputError(f"X-Client must be at most {_MOST_CLIENT} printable ASCII characters")
    return name


async def read_json(request: Request) -> Any:
    """Return the parsed JSON of a request's body."""
    body = await request.body()
    if (
        body.count(b"{") > _MOST_OPENINGS
        or body.count(b"[") > _MOST_OPENINGS
        or body.count(b'"') > _MOST_QUOTES
    ):
        raise InputError("the body of the request isn't an edit: it holds too many lists, objects or strings")
    try:
        # in a thread: an edit of millions of rows would block the event loop
        return await run_in_threadpool(json.loads, body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body of the request isn't valid JSON: {error}") from error


def handle_errors(app: FastAPI) -> None:
    """Answer every error with its status and ``{"error": text}``; unexpected ones are logged."""
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


def _handler(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        if status == 503:
            _log.warning("%s: %s", request.url.path, error)
        return fail(status, str(error) or type(error).__name__)

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {404: "there is nothing at this URL", 405: "this URL doesn't take requests of this method"}
    return fail(status, texts.get(status, "the request can't be answered"))


async def _validation_error(request: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    where = first.get("loc", ("", ""))[-1]
    return fail(400, f"{where}: {first.get('msg', 'invalid value')}")


async def _gone(request: Request, error: Exception) -> Response:
    return fail(499, "the client closed the connection before the request was complete")


async def _bug(request: Request, error: Exception) -> Response:
    _log.error("%s failed", request.url.path, exc_info=error)
    return fail(500, "this is a bug in Kinfold; see what `kinfold explore` printed")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} isn't JSON")
