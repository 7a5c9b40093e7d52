"""Graphs for studies alone: they are made of labels, which never reach a fit otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from kinfold.errors import InputError
from kinfold.neighbors.graph import NeighborGraph

_CROWDED = 4  # classes of fewer members than this many times the neighbours are shuffled, others drawn from
_BLOCK = 1 << 22


def same_label_graph(
    labels: ArrayLike,
    n_neighbors: int = 50,
    *,
    random_state: int | np.random.RandomState | None = None,
) -> NeighborGraph:
    """Return a graph that joins every sample to random others of its own label: **for studies only**.

    Fitted with it, a method shows the upper bound that perfect neighbours would allow (ICCE's study of
    ground-truth neighbours). It isn't clustering any more: the result has seen the labels.

    Parameters
    ----------
    labels : array-like of shape (n_samples,)
        Classes, of any type that can be sorted.
    n_neighbors : int, default 50
        Others per sample, drawn without repetition; all of them where a class has no more.
    random_state : int, RandomState or None, default None
        Seed of the draws.

    Returns
    -------
    NeighborGraph
        All similarities are 1; the only sample of a class has no neighbours.

    Raises
    ------
    InputError
        ``labels`` is empty or no list, or ``n_neighbors`` isn't a whole number of at least 1.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1 or not len(classes):
        raise InputError(f"labels must be a list with one entry per sample, not of shape {classes.shape}")
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer) or n_neighbors < 1:
        raise InputError(f"n_neighbors must be a whole number of at least 1, not {n_neighbors!r}")
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    degrees = np.minimum(n_neighbors, counts - 1)[codes]
    indptr = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    indices = np.empty(int(indptr[-1]), dtype=np.int32)
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.cumsum(counts)[:-1]):
        degree = min(n_neighbors, len(members) - 1)
        places = indptr[members][:, None] + np.arange(degree)
        indices[places] = np.sort(members[_draw_others(len(members), degree, rng)], axis=1)
    parameters = {
        "n_neighbors": n_neighbors,
        "threshold": None,
        "max_neighbors": None,
        "backend": "same labels",
    }
    return NeighborGraph(indptr, indices, np.ones(len(indices), np.float32), parameters)


def _draw_others(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return, for each of ``size`` members, ``degree`` different others, (size, degree)."""
    steps = _shuffled(size, degree, rng) if size < _CROWDED * degree else _drawn(size, degree, rng)
    others: NDArray[Any] = (np.arange(size)[:, None] + 1 + steps) % size
    return others


def _shuffled(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw ``degree`` of the numbers below ``size`` − 1 for each row, by the order of random numbers."""
    drawn = np.empty((size, degree), dtype=np.int64)
    step = max(1, _BLOCK // size)
    for start in range(0, size, step):
        block = drawn[start : start + step]
        block[:] = rng.random((len(block), size - 1)).argsort(axis=1)[:, :degree]
    return drawn


def _drawn(size: int, degree: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as :func:`_shuffled` does, with repetitions first, which are drawn again until there are none."""
    drawn = np.sort(rng.integers(size - 1, size=(size, degree)), axis=1)
    open_rows: NDArray[Any] = np.arange(size)
    while len(open_rows):
        block = drawn[open_rows]
        repeated = np.zeros(block.shape, dtype=bool)
        repeated[:, 1:] = block[:, 1:] == block[:, :-1]
        again = repeated.any(axis=1)
        open_rows, block, repeated = open_rows[again], block[again], repeated[again]
        block[repeated] = rng.integers(size - 1, size=int(repeated.sum()))
        drawn[open_rows] = np.sort(block, axis=1)
    return drawn
