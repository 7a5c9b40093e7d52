"""The page that groups are looked through on, corrected on and taken away from: a server for one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kinfold.gallery.explore._serve import Address, serve

if TYPE_CHECKING:
    from kinfold.gallery.explore._app import create_app, create_trouble_app

__all__ = ["Address", "create_app", "create_trouble_app", "serve"]


def __getattr__(name: str) -> object:
    """Load the web framework only for those who make an application."""
    if name in ("create_app", "create_trouble_app"):
        from kinfold.gallery.explore import _app

        return getattr(_app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
