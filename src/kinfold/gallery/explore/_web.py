"""The page's own files: listed once when the server starts, served by name from that list alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from kinfold.gallery.explore._errors import NotFoundError

WEB_FOLDER = Path(__file__).with_name("web")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True)
class WebFile:
    """One of the page's files, in memory."""

    content: bytes
    kind: str
    etag: str


def list_files(folder: Path = WEB_FOLDER) -> Mapping[str, WebFile]:
    """Return the page's files by name: regular files of known kinds directly in the folder, no links."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind = _KINDS.get(path.suffix)
        if kind is not None and path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found[path.name] = WebFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return found


def router(files: Mapping[str, WebFile]) -> APIRouter:
    """Return the routes of the shell and of the files under ``/web/``."""
    routes = APIRouter()

    def give(name: str, request: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise NotFoundError("there is no such file")
        headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers={**headers, "Content-Type": file.kind})

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def shell(request: Request) -> Response:
        return give("index.html", request)

    @routes.api_route("/web/{name}", methods=["GET", "HEAD"])
    async def web(name: str, request: Request) -> Response:
        return give(name, request)

    return routes
