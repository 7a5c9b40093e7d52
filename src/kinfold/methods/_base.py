"""What every method shares: checks of parameters, and the K that was fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from kinfold.errors import InputError
from kinfold.neighbors import NeighborGraph


def check_positive(**parameters: Any) -> None:
    """Raise :class:`InputError` for the first parameter that is not a positive, finite number."""
    for name, value in parameters.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
            raise InputError(f"{name} must be a positive number, not {value!r}")


def check_exponent(**parameters: Any) -> None:
    """Raise :class:`InputError` for the first parameter that is not in (0, 1]."""
    check_positive(**parameters)
    for name, value in parameters.items():
        if value > 1:
            raise InputError(f"{name} must be in (0, 1]; got {value!r}")


def check_whole(**parameters: Any) -> None:
    """Raise :class:`InputError` for the first parameter that is not a positive whole number."""
    for name, value in parameters.items():
        if not _is_whole(value):
            raise InputError(f"{name} must be a positive whole number, not {value!r}")


def read_widths(widths: Any, *, name: str) -> tuple[int, ...]:
    """Return widths of blocks of columns, one or several; :class:`InputError` unless they are positive."""
    several = isinstance(widths, Sequence | np.ndarray) and not isinstance(widths, str)
    blocks = tuple(widths) if several else (widths,)
    if not blocks or not all(_is_whole(width) for width in blocks):
        raise InputError(f"{name} must be positive whole numbers, like [8, 8], not {widths!r}")
    return tuple(int(width) for width in blocks)


def check_n_clusters(n_clusters: Any, n_samples: int) -> None:
    """Raise :class:`InputError` unless 1 ≤ n_clusters ≤ n_samples."""
    if not isinstance(n_clusters, Integral) or isinstance(n_clusters, bool) or int(n_clusters) < 1:
        raise InputError(f"n_clusters must be a whole number of at least 1, not {n_clusters!r}")
    if int(n_clusters) > n_samples:
        raise InputError(
            f"n_clusters={n_clusters} is more than n_samples={n_samples}: every cluster needs at least one "
            "sample. Ask for fewer clusters or give more images."
        )


def check_graph(graph: Any, n_samples: int) -> None:
    """Raise :class:`InputError` unless it is a graph of N samples, or None."""
    if graph is None:
        return
    if not isinstance(graph, NeighborGraph):
        raise InputError(
            f"graph must be a NeighborGraph, not {type(graph).__name__}; "
            "NeighborGraph.from_lists(indptr, indices) makes one of your pairs"
        )
    if graph.n_samples != n_samples:
        raise InputError(f"the graph has {graph.n_samples} samples, but X has {n_samples} rows")


def fitted_clusters(estimator: Any) -> int:
    """Return K as an estimator was fitted, whatever its parameter says by now."""
    return int(getattr(estimator, "n_clusters_", estimator.n_clusters))


def check_flags(**parameters: Any) -> None:
    """Raise :class:`InputError` for the first parameter that is neither true nor false."""
    for name, value in parameters.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name} must be true or false, not {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
