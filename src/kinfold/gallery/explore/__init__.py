"""The interactive page of a run: a server to look through groups, correct and export them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kinfold.gallery.explore._serve import Address, serve

if TYPE_CHECKING:
    from kinfold.gallery.explore._app import create_app, create_trouble_app
    from kinfold.gallery.explore._map import compute_map, read_map
    from kinfold.gallery.explore._vectors import find_graph

__all__ = [
    "Address",
    "compute_map",
    "create_app",
    "create_trouble_app",
    "find_graph",
    "read_map",
    "serve",
]

_HOMES = {
    "compute_map": "_map",
    "create_app": "_app",
    "create_trouble_app": "_app",
    "find_graph": "_vectors",
    "read_map": "_map",
}


def __getattr__(name: str) -> object:
    """Import on first use: the web framework loads slowly, and reading a map doesn't need it."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
