"""Serve a run to a browser until Ctrl-C."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.errors import FormatError, InputError
from kinfold.run import Run, is_run

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")
_GRACE_SECONDS = 3  # for running requests when the server stops; an edit takes less


@dataclass(frozen=True)
class Address:
    """URL of a running server.

    Attributes
    ----------
    url : str
        URL to open, with the token if there is one.
    trouble : str
        Why the run can't be shown; empty where it can.
    """

    url: str
    trouble: str = ""


def serve(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    token: str | None = None,
    source: str | Path | None = None,
    features: str | Path | None = None,
    read_only: bool = False,
    thumbnail_limit: int = 1 << 30,
    device: str = "auto",
    on_ready: Callable[[Address], None] | None = None,
) -> None:
    """Show a run in the browser until Ctrl-C or SIGTERM.

    Parameters
    ----------
    path : path
        The run. For a damaged one a page says what is wrong.
    host : str
        Address to listen on. Any but those of this machine need a token: one is generated if none is given.
    port : int
        Port to listen on; 0 takes a free one.
    open_browser : bool
        Whether to open the page in a browser.
    token : str, optional
        Secret that the first request must have as ``?token=``.
    source, features : path, optional
        Where the images and the features are now, if they were moved.
    read_only : bool
        Refuse corrections, and write nothing to the run.
    thumbnail_limit : int
        Largest size of the cache of thumbnails in bytes.
    device : str
        Device that embeds dropped images.
    on_ready : callable, optional
        Called with the address once the server listens.

    Raises
    ------
    InputError
        There is no run at ``path``, or the server can't listen on the address.
    """
    path = Path(path)
    # others on the network could otherwise see the images and change the groups
    if token is None and host not in _LOOPBACK:
        token = secrets.token_urlsafe(24)
    access: dict[str, Any] = {"hosts": _names_of(host), "token": token}
    options = {"read_only": read_only, "thumbnail_limit": thumbnail_limit, "device": device}
    listening = _listen(host, port)
    try:
        app, trouble = _make_app(path, access, images=source, features=features, **options)
        address = Address(_url(host, listening, token), trouble)
        _run(app, listening, lambda: _announce(address, open_browser, on_ready))
    finally:
        listening.close()


def _make_app(path: Path, access: dict[str, Any], **options: Any) -> tuple[FastAPI, str]:
    """Return the application of a run and "", or for a damaged run the page that says so and the reason."""
    from kinfold.gallery.explore._app import create_app, create_trouble_app

    try:
        return create_app(Run.open(path), warm=True, **access, **options), ""
    except FormatError as error:
        trouble = str(error)
    except InputError as error:
        if not is_run(path):
            raise
        trouble = str(error)
    _log.error("%s can't be shown: %s", path, trouble)
    return create_trouble_app(str(path), trouble, **access), trouble


def _run(app: FastAPI, listening: socket.socket, announce: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=64 << 10,
    )
    try:
        Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn ends in order and then raises it again
        _log.info("stopped")


def _announce(address: Address, open_browser: bool, on_ready: Callable[[Address], None] | None) -> None:
    if on_ready is not None:
        on_ready(address)
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(address.url,), daemon=True).start()


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; :class:`InputError` if that isn't possible."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"host must be an address of this machine; {host!r} isn't one ({error})") from error
    try:
        # without it, a port that was just in use can't be taken again for a minute
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(
            f"can't listen on {host}, port {port}: {error.strerror or error}; "
            "choose another port (--port), or leave it out for a free one"
        ) from error
    return listening


def _names_of(host: str) -> list[str]:
    """Return the allowed names in the Host header of a server that listens on ``host``."""
    if host in _EVERYWHERE:
        return [*_LOOPBACK, socket.gethostname(), socket.getfqdn(), "*"]
    return [*_LOOPBACK, host]


def _url(host: str, listening: socket.socket, token: str | None) -> str:
    port = listening.getsockname()[1]
    name = "127.0.0.1" if host in _EVERYWHERE[:1] else "[::1]" if host in _EVERYWHERE[1:] else host
    name = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
