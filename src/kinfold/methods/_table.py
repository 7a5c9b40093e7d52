"""The methods that find groups on their own, by the names that ``--method`` takes."""

from __future__ import annotations

from typing import Any

from kinfold.errors import InputError, nearest_name
from kinfold.methods._icce import ICCE
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._scan import SCAN
from kinfold.methods._temi import TEMI
from kinfold.methods._turtle import TURTLE

SINGLE_METHODS: dict[str, type[Any]] = {
    "icce": ICCE,
    "kmeans": SphericalKMeans,
    "scan": SCAN,
    "temi": TEMI,
    "turtle": TURTLE,
}


def find_named(table: dict[str, type[Any]], name: str) -> type[Any]:
    """Return the estimator class of a name.

    Raises
    ------
    InputError
        The name is unknown; the error names the nearest one.
    """
    if name not in table:
        raise InputError(
            f"method {name!r} is unknown{nearest_name(str(name), list(table))}; known: {', '.join(table)}"
        )
    return table[name]
