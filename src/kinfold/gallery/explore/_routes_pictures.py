"""Pictures: thumbnails and originals, never by path, and never markup."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from kinfold.errors import InputError
from kinfold.gallery.explore._answers import fail, read_number
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._explorer import Explorer
from kinfold.gallery.explore._thumbs import SIDES
from kinfold.images import sniff

_SHOWN_AS = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}
_KEEP = "private, no-cache"


def router(explorer: Explorer) -> APIRouter:
    """Return the routes of pictures."""
    routes = APIRouter()

    @routes.get("/thumb/{number}")
    async def thumb(number: str, request: Request, side: int = 128) -> Response:
        row = read_number(number, "image")
        explorer.place(row)
        if side not in SIDES:
            raise InputError(f"thumbnails have a side of {' or '.join(map(str, SIDES))} pixels")
        return await _give(request, explorer.thumbnails.get(row, side), f'"{explorer.base}-{row}-{side}"')

    @routes.get("/image/{number}")
    async def original(number: str, request: Request) -> Response:
        row = read_number(number, "image")
        explorer.place(row)
        try:
            data = await run_in_threadpool(explorer.originals.read, row)
        except NotFoundError as error:
            return _gone(error)
        kind = _SHOWN_AS.get(sniff(data) or "")
        if kind is not None:
            return Response(data, media_type=kind, headers={"Cache-Control": _KEEP})
        return await _give(request, explorer.thumbnails.get_large(row), None)

    return routes


async def _give(request: Request, making: Coroutine[Any, Any, bytes], etag: str | None) -> Response:
    """Return a picture, unless whoever asked has it or has gone; then it isn't made."""
    headers = {"Cache-Control": _KEEP, **({"ETag": etag} if etag else {})}
    if etag is not None and etag in request.headers.get("if-none-match", ""):
        making.close()
        return Response(status_code=304, headers=headers)
    made, gone = asyncio.ensure_future(making), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            return Response(status_code=499)
        return Response(made.result(), media_type="image/webp", headers=headers)
    except NotFoundError as error:
        return _gone(error)
    finally:
        gone.cancel()
        made.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _gone(error: NotFoundError) -> Response:
    reason = " ".join(str(error).encode("ascii", "backslashreplace").decode("ascii").split())[:300]
    return fail(404, str(error), **{"X-Reason": reason})
