"""The gallery's page for browser tests: served from a thread, and opened in tabs that must stay silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def serve(app: Any) -> Iterator[str]:
    """Serve an app at a free port for as long as the context lasts; yield its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@contextmanager
def open_tabs(browser: Any, url: str, *, height: int = 800) -> Iterator[Callable[..., Any]]:
    """Yield what opens a tab of its own; at the end no tab may have said anything on its console.

    What was said so far is its attribute ``said``.
    """
    said: list[str] = []
    contexts = []

    def make(place: str = "", *, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{url}#/{place}")
        settle(page)
        return page

    make.said = said  # type: ignore[attr-defined]
    yield make
    for context in contexts:
        context.close()
    assert said == []


def settle(page: Any) -> None:
    """Wait until a view is there."""
    page.wait_for_selector("main:not([aria-busy])")


def go(page: Any, place: str) -> None:
    """Go to another view of the page, and wait for it."""
    page.evaluate("place => { location.hash = `#/${place}`; }", place)
    page.wait_for_function("() => document.querySelector('main').dataset.place === location.hash")
    settle(page)
