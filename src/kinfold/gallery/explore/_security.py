"""Middleware that checks every request before a route sees it, and sets the headers of every response.

It keeps out pages of other sites (Host, Origin, Sec-Fetch-Site), users without the token, and bodies that are
too long or of an unexpected type.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from kinfold.errors import KinfoldError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON_LIMIT = 16 << 20  # bytes: an edit of two million rows, which takes a third of a second to parse
IMAGE_LIMIT = 32 << 20  # bytes; photos are mostly smaller, and the whole body is held in memory
IMAGE_PATHS = ("/api/similar",)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)

_READING = ("GET", "HEAD")
_OWN_SITES = ("same-origin", "none")
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"x-frame-options": b"DENY",
}
_NO_STORE = b"no-store"
_ENTER = b"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="refresh" content="0;url=./"><title>Kinfold</title>
<p><a href="./">Open the gallery</a></p></html>"""


class HostRule:
    """Checks the Host header, against DNS rebinding.

    A site whose name was made to resolve to this machine still sends its own name as Host.

    Parameters
    ----------
    hosts : iterable of str
        Names and addresses, without port; ``"*"`` stands for every IP address, which no other site can have
        as its name.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        names = {host.strip("[]").lower() for host in hosts}
        self._any_address = "*" in names
        self._names = names - {"*"}

    def allows(self, host: str) -> bool:
        """Tell whether a Host header, with or without port, names this server."""
        name = host_name(host)
        if name is None:
            return False
        return name in self._names or (self._any_address and _is_address(name))


class Guard:
    """ASGI middleware: checks Host, Origin, token, type and length of bodies; adds headers to responses.

    Parameters
    ----------
    app : ASGIApp
        Application behind it.
    hosts : iterable of str
        See :class:`HostRule`.
    token : str, optional
        Secret that ``?token=`` must have once, and the cookie from then on. None lets every request in.
        With a token every name in the Host header is let in: a site that made its own name resolve to this
        machine doesn't know the token.
    allowed : iterable of str
        Further names in the Host header, as ``--allow-host`` gives them. Pages under these names may also
        send requests where a proxy writes another Host.
    root_path : str
        Path of a proxy in front of this server, such as ``/user/ann/proxy/8000``, which it may or may not
        take off.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        token: str | None = None,
        allowed: Iterable[str] = (),
        root_path: str = "",
    ) -> None:
        self._app = app
        named = list(allowed)
        self._rule = HostRule([*hosts, *named])
        self._named = HostRule(name for name in named if name != "*")
        self._root_path = root_path
        self._token = token
        self._cookie = f"kinfold-{hashlib.sha256(token.encode()).hexdigest()[:8]}" if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # WebSocket: no route uses it
        answered = _Response(send)
        headers = _read_headers(scope)
        if self._root_path and scope["path"] == self._root_path:  # relative addresses need the last slash
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            where = quote(self._root_path).encode() + b"/" + query
            await answered.whole(307, b"text/plain", b"", [(b"location", where)])
            return
        if self._root_path and scope["path"].startswith(self._root_path + "/"):
            scope = {**scope, "path": scope["path"][len(self._root_path) :]}
        refused = self._refuse(scope, headers)
        if refused is not None:
            await answered.error(*refused)
        elif self._enters(scope):
            cookie = (
                f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path={quote(self._root_path)}/"
            )
            await answered.whole(200, b"text/html; charset=utf-8", _ENTER, [(b"set-cookie", cookie.encode())])
        else:
            await self._pass_on(scope, receive, answered)

    def _refuse(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        hosts = headers.get("host", [])
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            return 403, "the Host header is missing or invalid: open the URL that `kinfold explore` printed"
        if self._token is None and not self._rule.allows(hosts[0]):
            return (
                403,
                f"{name[:100]} isn't a name of this server: open the URL that `kinfold explore` printed, or "
                f"start it with `--allow-host {name[:100]}` if you trust that name",
            )
        if not self._has_token(scope, headers):
            return 403, "the token is missing or wrong: open the whole URL that `kinfold explore` printed"
        if not _is_own_page(scope, headers, hosts[0], self._named):
            return 403, "requests from pages of other sites are refused"
        if scope["method"] not in _READING:
            return _refuse_body(scope, headers)
        return None

    def _has_token(self, scope: Scope, headers: dict[str, list[str]]) -> bool:
        if self._token is None or self._enters(scope):
            return True
        cookies = (one.partition("=") for line in headers.get("cookie", []) for one in line.split(";"))
        return any(
            name.strip() == self._cookie and _is_same(value.strip(), self._token)
            for name, _, value in cookies
        )

    def _enters(self, scope: Scope) -> bool:
        """Tell whether this is the first request, with the token in its URL."""
        if self._token is None or scope["path"] != "/" or scope["method"] not in _READING:
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return len(given) == 1 and _is_same(given[0], self._token)

    async def _pass_on(self, scope: Scope, receive: Receive, answered: _Response) -> None:
        limit = body_limit(scope["path"])
        seen = 0  # counted, because Content-Length may be missing or wrong

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise TooLongError(_too_long(limit))
            return message

        await self._app(scope, counted, answered.send)


class TooLongError(KinfoldError):
    """The body of a request is longer than allowed."""


class _Response:
    """Sends a response with the headers that all responses have."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            named = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _HEADERS.items() if name not in named]
            if b"cache-control" not in named:
                headers.append((b"cache-control", _NO_STORE))
            message = {**message, "headers": headers}
        await self._send(message)

    async def error(self, status: int, text: str) -> None:
        await self.whole(status, b"application/json", json.dumps({"error": text}).encode())

    async def whole(
        self, status: int, kind: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        length = str(len(body)).encode()
        named = [(b"content-type", kind), (b"content-length", length), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": named})
        await self.send({"type": "http.response.body", "body": body})


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, without port and brackets; None if it is invalid."""
    if not host or any(character in host for character in "/\\@?# \t,"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises ValueError if it isn't a number
    except ValueError:
        return None
    return parts.hostname.lower() if parts.hostname else None


def body_limit(path: str) -> int:
    """Return the largest size in bytes of a request to ``path``."""
    return IMAGE_LIMIT if path in IMAGE_PATHS else JSON_LIMIT


def _is_own_page(scope: Scope, headers: dict[str, list[str]], host: str, named: HostRule) -> bool:
    """Tell whether a request comes from our own page; one that only reads may also come from no page."""
    origins, sites = headers.get("origin", []), headers.get("sec-fetch-site", [])
    if len(origins) > 1 or len(sites) > 1:
        return False
    if origins and origins[0].lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        kind, _, origin = origins[0].partition("://")
        if kind.lower() not in ("http", "https") or not named.allows(origin):
            return False
    if sites and sites[0] not in _OWN_SITES:
        return bool(scope["method"] in _READING and scope["path"] == "/")  # a link to the gallery
    return scope["method"] in _READING or bool(origins) or sites == ["same-origin"]


def _refuse_body(scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str] | None:
    kind = (headers.get("content-type") or [""])[0].partition(";")[0].strip().lower()
    if scope["path"] in IMAGE_PATHS:
        if not kind.startswith("image/") and kind != "application/octet-stream":
            return 415, "Content-Type must be image/… or application/octet-stream; send the bytes of an image"
    elif kind != "application/json":
        return 415, "Content-Type must be application/json; send JSON"
    length, limit = (headers.get("content-length") or ["0"])[0], body_limit(scope["path"])
    if not length.isascii() or not length.isdigit() or len(length) > 15:
        return 400, "Content-Length isn't a number"
    return (413, _too_long(limit)) if int(length) > limit else None


def _too_long(limit: int) -> str:
    return f"the request is longer than the {limit >> 20} MiB that are allowed"


def _read_headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
