"""Serve a run to a browser until Ctrl-C; find the browser, and never start one that lives in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.errors import FormatError, InputError
from kinfold.run import Run, is_run

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kinfold.gallery.explore._current import TakeLevel

_log = logging.getLogger(__name__)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")
_GRACE_SECONDS = 0.4  # for running requests when the server stops; most edits take less
# Addresses of documentation: connecting a datagram socket sends nothing, but chooses the interface.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


@dataclass(frozen=True)
class Address:
    """URL of a running server.

    Attributes
    ----------
    url : str
        URL to open, with the token if there is one; where others are let in, one that they can reach.
    local : str
        URL to open on this machine.
    trouble : str
        Why the run can't be shown; empty where it can.
    """

    url: str
    local: str = ""
    trouble: str = ""


def serve(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
    token: str | None = None,
    allow_hosts: Sequence[str] = (),
    root_path: str = "",
    source: str | Path | None = None,
    features: str | Path | None = None,
    predictions: str | Path | None = None,
    read_only: bool = False,
    thumbnail_limit: int = 1 << 30,
    device: str = "auto",
    take_level: TakeLevel | None = None,
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
    allow_hosts : sequence of str
        Names that a browser may call the server by, besides those of this machine: that of a proxy or tunnel.
    root_path : str
        Path of a proxy in front of the server, such as ``/user/ann/proxy/8000`` of JupyterHub; needed only
        where the proxy doesn't take it off.
    source, features : path, optional
        Where the images and the features are now, if they were moved.
    predictions : path, optional
        Show these predictions of the run's model in its place, by group and read-only; ``source`` is where
        their images are.
    read_only : bool
        Refuse corrections, and write nothing to the run.
    thumbnail_limit : int
        Largest size of the cache of thumbnails in bytes.
    device : str
        Device that embeds dropped images.
    take_level : callable, optional
        Makes another level the run's groups, as for :func:`create_app`.
    on_ready : callable, optional
        Called with the address once the server listens.

    Raises
    ------
    InputError
        There is no run at ``path``, or the server can't listen on the address.
    """
    path = Path(path)
    allowed, root_path = [_check_name(name) for name in allow_hosts], _check_root_path(root_path)
    # others on the network could otherwise see the images and change the groups
    if token is None and host not in _LOOPBACK:
        token = secrets.token_urlsafe(24)
    access: dict[str, Any] = {
        "hosts": _names_of(host),
        "token": token,
        "allowed": allowed,
        "root_path": root_path,
    }
    places: dict[str, Any] = {"images": source, "features": features}
    options: dict[str, Any] = {
        "read_only": read_only,
        "thumbnail_limit": thumbnail_limit,
        "device": device,
        **({} if take_level is None else {"take_level": take_level}),
    }
    with contextlib.ExitStack() as stack:
        if predictions is not None:
            from kinfold.gallery.explore._predictions import predictions_as_run

            made = predictions_as_run(Run.open(path), Path(predictions), source)
            shown, images = stack.enter_context(made)
            path, places = shown.path, {"images": images, "features": None}
            options["read_only"] = True
        listening = stack.enter_context(contextlib.closing(_listen(host, port)))
        app, trouble = _make_app(path, access, **places, **options)
        local, outer = (
            _url(name, listening, root_path, token)
            for name in (_local_name(host), _outer_name(host, listening))
        )
        address = Address(outer, local, trouble)
        _run(app, listening, lambda: _announce(address, open_browser, on_ready))


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

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # requests that are cut off now are no errors
            for name in ("uvicorn.error", "asyncio"):
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=_GRACE_SECONDS,  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        h11_max_incomplete_event_size=64 << 10,
    )
    # Not asyncio.run: it would wait for threads, such as those that decode images.
    loop = asyncio.new_event_loop()
    levels = {name: logging.getLogger(name).level for name in ("uvicorn.error", "asyncio")}
    try:
        loop.run_until_complete(Server(config).serve(sockets=[listening]))
    except KeyboardInterrupt:  # uvicorn ends in order and then raises it again
        _log.info("stopped")
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is given up on purpose
        loop.close()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _announce(address: Address, open_browser: bool, on_ready: Callable[[Address], None] | None) -> None:
    if on_ready is not None:
        on_ready(address)
    if open_browser:
        open_in_browser(address.local or address.url)


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


def _local_name(host: str) -> str:
    """Return the name by which this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _outer_name(host: str, listening: socket.socket) -> str:
    """Return the name by which other machines reach it: the address of the interface to the network."""
    if host not in _EVERYWHERE:
        return host
    for family in (socket.AF_INET, socket.AF_INET6) if host != "::" else (socket.AF_INET6, socket.AF_INET):
        if family == socket.AF_INET6 and listening.family != socket.AF_INET6:
            continue
        found = _interface_address(family)
        if found is not None:
            return found
    return _local_name(host)


def _interface_address(family: int) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[socket.AddressFamily(family)], 9))
            found = str(probe.getsockname()[0])
    except OSError:
        return None  # no network of this family
    return None if found.startswith(("127.", "0.", "::1", "fe80")) or found == "::" else found


def _url(name: str, listening: socket.socket, root_path: str, token: str | None) -> str:
    port = listening.getsockname()[1]
    name = f"[{name}]" if ":" in name and not name.startswith("[") else name
    return f"http://{name}:{port}{root_path}/" + (f"?token={token}" if token else "")


def _check_name(name: str) -> str:
    """Return a name for the Host header as it is compared, without port; :class:`InputError` for others."""
    from kinfold.gallery.explore._security import host_name

    found = host_name(name.strip().removeprefix("http://").removeprefix("https://").rstrip("/"))
    if found is None or found == "*":
        raise InputError(f"--allow-host takes the name of a machine, such as box.local; got {name!r}")
    return found


def _check_root_path(path: str) -> str:
    """Return the path of a proxy without its last slash; :class:`InputError` if it can't be one."""
    parts = path.removesuffix("/").split("/")[1:]
    wrong = any(c in path for c in "?#\\%<>\"'") or not path.isprintable() or ".." in parts or "" in parts
    if path and (not path.startswith("/") or wrong):
        raise InputError(
            "--root-path takes the path of a proxy, which begins with /, such as /user/ann/proxy/8000; got "
            f"{path!r}"
        )
    return path.rstrip("/")


_IN_TEXT = frozenset(
    {"browsh", "carbonyl", "cha", "chawan", "elinks", "links", "links2"}
    | {"lynx", "netrik", "retawq", "w3m", "w3mman", "www-browser"}
)
_OPEN = "import sys, webbrowser; webbrowser.open(sys.argv[1])"


def open_in_browser(url: str) -> bool:
    """Open a URL in a browser with windows; False where there is none, which then is no error.

    Python's own ``webbrowser`` runs in a process without a terminal: what it starts can take none over, and
    Ctrl-C doesn't end it.
    """
    environment = find_environment(os.environ)
    if environment is None:
        return False
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _OPEN, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError:
        return False
    threading.Thread(target=process.wait, name="kinfold-browser", daemon=True).start()
    return True


def find_environment(environment: Mapping[str, str], platform: str = sys.platform) -> dict[str, str] | None:
    """Return the environment in which ``webbrowser`` finds no browser in text; None where no other can be.

    Parameters
    ----------
    environment : mapping
        Variables of the environment.
    platform : str
        As in ``sys.platform``.
    """
    found = {name: value for name, value in environment.items() if name not in ("BROWSER", "TERM")}
    wanted = [one for one in environment.get("BROWSER", "").split(os.pathsep) if one.strip()]
    if wanted:
        # taken at its word without a screen too: editors set it to what opens pages at the other end of SSH
        kept = [one for one in wanted if not is_in_text(one)]
        return {**found, "BROWSER": os.pathsep.join(kept)} if kept else None
    has_screen = bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    # Windows and macOS have a screen, but over SSH it is another one than the user sees
    needs_screen = platform not in ("win32", "cygwin", "darwin") or bool(environment.get("SSH_CONNECTION"))
    return None if needs_screen and not has_screen else found


def is_in_text(command: str) -> bool:
    """Tell whether a command, as in the variable BROWSER, starts a browser that lives in the terminal."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    names = {Path(word).name for word in words if not word.startswith("-")}
    for word in words[:1]:  # a link such as /etc/alternatives/x-www-browser
        program = shutil.which(word)
        if program is not None:
            names.add(Path(program).resolve().name)
    return any(name.removesuffix(".exe") in _IN_TEXT for name in names)
