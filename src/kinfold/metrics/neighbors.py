"""How often nearest neighbours share a class: neighbour purity and alignment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics.contingency import encode
from kinfold.rows import RowMatrix
from kinfold.rows.ragged import blocks_of, starts_of
from kinfold.validation import Integer, Listed, check

_BLOCK_PAIRS = 1 << 22  # pairs of a sample and a neighbour at once, some 100 MiB of indices
_BLOCK_BYTES = 64 << 20  # of both rows of such pairs in float64


@dataclass(frozen=True)
class NeighborPurity:
    """How often neighbours are of the same class, over a range of how near they are.

    Attributes
    ----------
    at : ndarray (n,)
        The numbers of neighbours, or the similarity thresholds.
    purities : ndarray (n,) float64
        Share of the pairs of a sample and a neighbour that are of one class; NaN where there is no pair.
    n_pairs : ndarray (n,) int64
        Those pairs.
    n_samples : int
        Samples, those without neighbours included.
    """

    at: NDArray[Any]
    purities: NDArray[np.float64]
    n_pairs: NDArray[np.int64]
    n_samples: int

    @property
    def mean_degrees(self) -> NDArray[np.float64]:
        """Mean number of neighbours of a sample."""
        return self.n_pairs / self.n_samples


def neighbor_purity(
    labels: ArrayLike, neighbors: Any, *, ks: Sequence[int] = (1, 5, 10, 20, 50)
) -> NeighborPurity:
    """Return the share of the k nearest neighbours that are of the sample's class.

    Parameters
    ----------
    labels : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    neighbors : NeighborGraph, or array-like of int (n_samples, n_neighbors)
        The neighbours, nearest first: anything with ``indptr`` and ``indices``, or a matrix of row numbers
        with −1 for none.
    ks : sequence of int, default (1, 5, 10, 20, 50)
        Of a sample with fewer neighbours than k, all count.

    Returns
    -------
    NeighborPurity
        With one entry per k, in the order given.

    Raises
    ------
    InputError
        Shapes don't fit, a neighbour is no sample, or a k isn't an integer of at least 1.

    Examples
    --------
    >>> neighbor_purity(["a", "a", "b"], [[1, 2], [0, 2], [1, 0]], ks=(1, 2)).purities.round(3).tolist()
    [0.667, 0.333]
    """
    check({"ks": Listed(Integer(), example="(1, 5, 10)")}, ks=ks)
    counts = [int(k) for k in ks]
    pairs = _Pairs.read(labels, neighbors)
    steps = np.unique(counts)
    same, total = np.zeros(len(steps) + 1, np.int64), np.zeros(len(steps) + 1, np.int64)
    for owners, edges in pairs.blocks():
        places = np.searchsorted(steps, edges - pairs.indptr[owners] + 1)
        _count(places, pairs.alike(owners, edges), same, total)
    return _purity(np.array(counts), np.searchsorted(steps, counts), same, total, pairs.n_samples)


def neighbor_purity_by_threshold(labels: ArrayLike, neighbors: Any, thresholds: ArrayLike) -> NeighborPurity:
    """Return the share of neighbours at least so similar that are of the sample's class.

    Parameters
    ----------
    labels : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    neighbors : NeighborGraph
        Anything with ``indptr``, ``indices`` and ``similarities``. A graph that was cut at k neighbours
        lacks pairs below the similarity of its k-th: thresholds see what is in it.
    thresholds : array-like of float (n,)
        The least similarities.

    Returns
    -------
    NeighborPurity
        With one entry per threshold, in the order given.

    Raises
    ------
    InputError
        Shapes don't fit, a neighbour is no sample, or a threshold is NaN.
    """
    bounds = np.asarray(thresholds, dtype=np.float64)
    if bounds.ndim != 1 or not len(bounds) or np.isnan(bounds).any():
        raise InputError(f"thresholds must be a list of numbers, not {thresholds!r}")
    pairs = _Pairs.read(labels, neighbors)
    similarities = np.asarray(getattr(neighbors, "similarities", np.zeros(0)))
    if similarities.shape != pairs.indices.shape:
        raise InputError("neighbors must have similarities, one per pair, to be cut at thresholds")
    steps = np.unique(bounds)[::-1]
    same, total = np.zeros(len(steps) + 1, np.int64), np.zeros(len(steps) + 1, np.int64)
    for owners, edges in pairs.blocks():
        places = np.searchsorted(-steps, -similarities[edges].astype(np.float64))
        _count(places, pairs.alike(owners, edges), same, total)
    return _purity(bounds, np.searchsorted(-steps, -bounds), same, total, pairs.n_samples)


def alignment(X: ArrayLike | RowMatrix, labels: ArrayLike, neighbors: Any) -> float:
    """Return how far apart neighbours of one class are on the unit sphere, 0 to 4; lower is tighter.

    ``L_align``: the mean of ``‖f(x) − f(x′)‖²`` over the pairs of a sample and a neighbour of its class,
    where features are scaled to unit length.

    Parameters
    ----------
    X : array or row matrix (n_samples, n_features)
        Features, none of them all zero; read in blocks.
    labels : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    neighbors : NeighborGraph, or array-like of int (n_samples, n_neighbors)
        As :func:`neighbor_purity` takes them.

    Returns
    -------
    float
        NaN if no neighbour is of its sample's class.

    Raises
    ------
    InputError
        Shapes don't fit, a neighbour is no sample, or a feature is all zero or not finite.

    References
    ----------
    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", ICML 2020, with neighbours of one class for the positive pairs.

    Examples
    --------
    >>> alignment([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], ["a", "a", "a"], [[1], [0], [0]])
    1.3333333333333333
    """
    rows = X if hasattr(X, "shape") else np.asarray(X)
    pairs = _Pairs.read(labels, neighbors)
    if len(rows.shape) != 2 or rows.shape[0] != pairs.n_samples:
        raise InputError(f"X has the shape {tuple(rows.shape)}, but there are {pairs.n_samples} labels")
    step = max(1, _BLOCK_BYTES // (16 * max(1, rows.shape[1])))
    total, count = 0.0, 0
    for owners, edges in pairs.blocks():
        alike = pairs.alike(owners, edges)
        first, second = owners[alike], pairs.indices[edges[alike]]
        for start in range(0, len(first), step):
            part = slice(start, start + step)
            total += float(np.square(_unit(rows, first[part]) - _unit(rows, second[part])).sum())
        count += len(first)
    return total / count if count else float("nan")


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Samples and their neighbours, with class codes."""

    indptr: NDArray[np.int64]
    indices: NDArray[Any]
    codes: NDArray[np.int64]

    @classmethod
    def read(cls, labels: ArrayLike, neighbors: Any) -> _Pairs:
        _, codes = encode(labels, "labels")
        indptr, indices = _as_lists(neighbors)
        if len(indptr) - 1 != len(codes):
            raise InputError(f"there are {len(codes)} labels, but neighbours of {len(indptr) - 1} samples")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(codes):
            raise InputError(f"a neighbour is no row number below {len(codes)}")
        return cls(indptr, indices, codes)

    @property
    def n_samples(self) -> int:
        return len(self.codes)

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield samples and places in ``indices``, pair by pair."""
        for start, stop in blocks_of(self.indptr, _BLOCK_PAIRS):
            degrees = np.diff(self.indptr[start : stop + 1])
            edges = np.arange(self.indptr[start], self.indptr[stop])
            yield np.repeat(np.arange(start, stop), degrees), edges

    def alike(self, owners: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which pairs are of one class."""
        return np.asarray(self.codes[owners] == self.codes[self.indices[edges]])


def _as_lists(neighbors: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:
    if hasattr(neighbors, "indptr"):
        return np.asarray(neighbors.indptr).astype(np.int64), np.asarray(neighbors.indices)
    matrix = np.asarray(neighbors)
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise InputError(
            "neighbors must be a graph or a matrix of row numbers, a row per sample, "
            f"but has the shape {matrix.shape} and the type {matrix.dtype}"
        )
    there = matrix >= 0
    return starts_of(there.sum(axis=1)), matrix[there]


def _count(
    places: NDArray[np.int64],
    alike: NDArray[np.bool_],
    same: NDArray[np.int64],
    total: NDArray[np.int64],
) -> None:
    total += np.bincount(places, minlength=len(total))
    same += np.bincount(places[alike], minlength=len(same))


def _purity(
    at: NDArray[Any],
    places: NDArray[np.int64],
    same: NDArray[np.int64],
    total: NDArray[np.int64],
    n_samples: int,
) -> NeighborPurity:
    n_pairs, n_same = np.cumsum(total)[places], np.cumsum(same)[places]
    with np.errstate(invalid="ignore"):
        return NeighborPurity(at, n_same / n_pairs, n_pairs, n_samples)


def _unit(X: Any, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    block = np.asarray(X[rows], dtype=np.float64)
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    wrong = ~(np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0))
    if wrong.any():
        raise InputError(f"row {int(rows[wrong][0])} of X is all zero or not finite; leave such rows out")
    return np.asarray(block / lengths)
