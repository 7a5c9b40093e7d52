"""How requests are read and answers written: JSON that holds whatever a name holds, errors in plain words."""

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
"""Larger numbers aren't exact in a browser."""

_log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,16}\Z")
_MOST_CLIENT = 100
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
    """Return content as JSON, in ASCII: lone surrogates and separators in names pass unharmed."""
    body = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Response(body, status, headers, media_type="application/json")


def fail(status: int, text: str, **headers: str) -> Response:
    """Return an error."""
    return answer({"error": text}, status, **headers)


def read_number(text: str, what: str) -> int:
    """Return a number out of an address; raises :class:`NotFoundError` for anything else."""
    if _NUMBER.match(text) is None or int(text) > MOST_NUMBER:
        raise NotFoundError(f"there is no such {what}")
    return int(text)


def client_of(request: Request) -> str:
    """Return which tab asks."""
    name = request.headers.get("x-client", "")
    if len(name) > _MOST_CLIENT or not (name.isascii() and name.isprintable()):
        raise InputError(f"X-Client is a name of at most {_MOST_CLIENT} printable characters")
    return name


async def read_json(request: Request) -> Any:
    """Return the JSON that a request brings."""
    body = await request.body()
    try:
        return await run_in_threadpool(json.loads, body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError("the request is no valid JSON") from error


def handle_errors(app: FastAPI) -> None:
    """Answer every error with its status and ``{"error": text}``; what isn't foreseen is logged."""
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
    texts = {404: "there is nothing at this address", 405: "this address isn't asked in this way"}
    return fail(status, texts.get(status, "this request can't be answered"))


async def _validation_error(request: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    where = first.get("loc", ("", ""))[-1]
    return fail(400, f"{where}: {first.get('msg', 'not as it should be')}")


async def _gone(request: Request, error: Exception) -> Response:
    return fail(499, "whoever asked went away before all of it had come")


async def _bug(request: Request, error: Exception) -> Response:
    _log.error("%s failed", request.url.path, exc_info=error)
    return fail(500, "this is a bug in Kinfold; what `kinfold explore` printed says more")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
