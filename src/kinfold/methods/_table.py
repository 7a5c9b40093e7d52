"""The methods that find groups on their own, by the names that ``--method`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kinfold.errors import InputError, nearest_name
from kinfold.methods._icce import ICCE
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._temi_scan import SCAN, TEMI
from kinfold.methods._turtle import TURTLE

SINGLE_METHODS: dict[str, type[Any]] = {
    "icce": ICCE,
    "kmeans": SphericalKMeans,
    "scan": SCAN,
    "temi": TEMI,
    "turtle": TURTLE,
}

_EXAMPLE = '{"icce": {"n_heads": 32}}'


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


def check_candidates(candidates: Any, parameters: Any) -> None:
    """Raise :class:`InputError` unless candidates are methods, each once, and parameters are for them.

    Parameters
    ----------
    candidates : sequence of str
        Names of methods.
    parameters : mapping of str to mapping, or None
        Candidate → parameters.
    """
    _check_names(candidates)
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InputError(f"parameters must be a mapping of candidates, like {_EXAMPLE}, not {parameters!r}")
    for name, own in (parameters or {}).items():
        if name not in candidates:
            raise InputError(
                f"parameters are given for {name!r}, which is no candidate"
                f"{nearest_name(str(name), list(candidates))}; candidates are {', '.join(candidates)}"
            )
        if not isinstance(own, Mapping):
            raise InputError(f"parameters of {name!r} must be a mapping, as in {_EXAMPLE}, not {own!r}")


def _check_names(candidates: Any) -> None:
    """Raise :class:`InputError` unless these are the names of methods, each once."""
    listed = isinstance(candidates, Sequence | np.ndarray) and not isinstance(candidates, str)
    names = list(candidates) if listed else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"candidates must be a list of methods, like ['kmeans', 'icce'], not {candidates!r}; "
            f"known: {', '.join(SINGLE_METHODS)}"
        )
    for number, name in enumerate(names):
        find_named(SINGLE_METHODS, name)
        if name in names[:number]:
            raise InputError(f"candidates name {name!r} more than once; every method is fitted once")
