"""The application: middleware, routes, the page's own files, start and end."""

from __future__ import annotations

import hashlib
import html
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from kinfold.corrections import switch_level
from kinfold.features import Features
from kinfold.gallery.explore._answers import fail, handle_errors
from kinfold.gallery.explore._current import Current, TakeLevel
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._explorer import Explorer, Options
from kinfold.gallery.explore._routes_groups import group_routes, level_routes
from kinfold.gallery.explore._routes_images import image_routes, map_routes, picture_routes
from kinfold.gallery.explore._routes_run import edit_routes, refine_routes, run_routes
from kinfold.gallery.explore._security import Guard
from kinfold.images import ImageSource
from kinfold.run import Run

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

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_LIMIT = 1 << 30  # bytes of kept thumbnails, 1 GiB
_ROUTES = (
    run_routes,
    group_routes,
    image_routes,
    picture_routes,
    edit_routes,
    refine_routes,
    map_routes,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WebFile:
    """One of the page's own files, in memory."""

    content: bytes
    kind: str
    etag: str


def list_files(folder: Path = WEB_FOLDER) -> Mapping[str, WebFile]:
    """Return the page's own files by name: regular files of known suffixes in the folder, no links.

    They are listed once and served from this mapping alone, so that no request can name another file.
    """
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind = _KINDS.get(path.suffix)
        if kind is not None and path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found[path.name] = WebFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
    return found


def web_routes(files: Mapping[str, WebFile]) -> APIRouter:
    """Return the routes of ``/`` and of the files under ``/web/``."""
    routes = APIRouter()

    def give(name: str, request: Request) -> Response:
        file = files.get(name)
        if file is None:
            raise NotFoundError(f"there is no file {name[:100]!r}")
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


def create_app(
    run: Run,
    *,
    images: ImageSource | str | Path | None = None,
    features: Features | str | Path | None = None,
    token: str | None = None,
    hosts: Sequence[str] = LOCAL_HOSTS,
    allowed: Sequence[str] = (),
    root_path: str = "",
    read_only: bool = False,
    thumbnail_limit: int = DEFAULT_LIMIT,
    n_workers: int | None = None,
    device: str = "auto",
    take_level: TakeLevel = switch_level,
    warm: bool = False,
) -> FastAPI:
    """Return the ASGI application that shows a run and takes corrections.

    Parameters
    ----------
    run : Run
        An opened run. Only corrections, proposals, the map and thumbnails are written to it.
    images : ImageSource or path, optional
        The images, or where they are now, if they were moved. Without images the page shows keys.
    features : Features or path, optional
        The features, or where they are now, if they were moved. Without features, search by image and
        similarity are not available.
    token : str, optional
        Secret that the first request must have as ``?token=``. None lets every request in.
    hosts : sequence of str
        Allowed names in the Host header, without port; ``"*"`` adds every IP address. With a token any name
        is let in.
    allowed : sequence of str
        Further allowed names, such as that of a proxy, whose pages may also send requests.
    root_path : str
        Path of a proxy in front of the server; it may or may not take it off.
    read_only : bool
        Refuse corrections, and write nothing to the run.
    thumbnail_limit : int
        Bytes that ``RUN/thumbnails.sqlite`` may take.
    n_workers : int, optional
        Processes that make thumbnails; one for each core by default.
    device : str
        Device that embeds dropped images.
    take_level : callable
        Makes another level the run's groups; called with the run's path, the number of groups (None for those
        of the fit), and ``features``.
    warm : bool
        Start a thread that prepares what later requests would wait for.

    Returns
    -------
    FastAPI
        Its ``state.current`` is closed when it shuts down.

    Raises
    ------
    FormatError
        The run or its corrections are damaged; :func:`create_trouble_app` makes a page that says so.
    """
    options = Options(images, features, read_only, thumbnail_limit, n_workers, device)
    current = Current(run, options, _run_app, take_level)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if warm:
            current.explorer.warm()
        try:
            yield
        finally:
            current.close()

    app = _bare_app(lifespan)
    app.state.current = current
    app.include_router(web_routes(list_files()))
    app.mount("", current)
    handle_errors(app)
    # outside all routes: no code of a route runs before its checks
    app.add_middleware(Guard, hosts=hosts, token=token, allowed=allowed, root_path=root_path)
    return app


def _run_app(current: Current, explorer: Explorer) -> FastAPI:
    """Return the application of the routes of a run as it was opened."""
    app = _bare_app(None)
    for routes in _ROUTES:
        app.include_router(routes(explorer))
    app.include_router(level_routes(current, explorer))
    handle_errors(app)
    return app


def create_trouble_app(
    title: str,
    trouble: str,
    *,
    token: str | None = None,
    hosts: Sequence[str] = LOCAL_HOSTS,
    allowed: Sequence[str] = (),
    root_path: str = "",
) -> FastAPI:
    """Return an application with one page that says why a run can't be shown.

    Parameters
    ----------
    title : str
        Path of the run.
    trouble : str
        Reason, and how to mend it.
    token, hosts, allowed, root_path
        As for :func:`create_app`.
    """
    app = _bare_app(None)
    page = _TROUBLE.format(title=html.escape(title), trouble=html.escape(trouble))

    @app.api_route("/", methods=["GET", "HEAD"])
    async def shell() -> Response:
        return Response(page, 200, media_type="text/html; charset=utf-8")

    @app.api_route("/api/{rest:path}", methods=["GET", "POST"])
    async def api(rest: str, request: Request) -> Response:
        return fail(503, trouble)

    handle_errors(app)
    app.add_middleware(Guard, hosts=hosts, token=token, allowed=allowed, root_path=root_path)
    return app


def _bare_app(lifespan: Any) -> FastAPI:
    # No OpenAPI pages: they load scripts from another site, which the policy forbids.
    return FastAPI(
        title="Kinfold",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )


_TROUBLE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>Kinfold: this run can't be shown</title></head>
<body><main><h1>This run can't be shown</h1><p><code>{title}</code></p><p>{trouble}</p>
<p>Nothing was changed. Mend it, and start <code>kinfold explore</code> again.</p></main></body></html>
"""
