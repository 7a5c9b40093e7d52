"""Accuracy of ranked clusters: whether one of the k best stands for the class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics._accuracy import ClusterMatch, classes_of_clusters
from kinfold.metrics._contingency import count_pairs, encode

_BLOCK = 1 << 19  # rows
_NONE = -1


def top_k_accuracy(
    y_true: ArrayLike, top_clusters: ArrayLike, k: int = 5, *, match: ClusterMatch | None = None
) -> float:
    """Return the share of samples of which one of the k best clusters stands for their class.

    All clusters are mapped by the best one-to-one map between classes and best clusters (the first column);
    then the k best of every sample are looked at. A cluster without a class is never right.

    Parameters
    ----------
    y_true : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    top_clusters : array-like of int, shape (n_samples, n_top)
        Clusters of every sample, the best first; −1 for none.
    k : int, default 5
        How many are looked at, 1 to n_top.
    match : ClusterMatch, optional
        The map, by default :func:`match_clusters` of the classes and the first column.

    Raises
    ------
    InputError
        Shapes or types don't fit, or labels are NaN or unhashable.

    Examples
    --------
    >>> top_k_accuracy(["a", "a", "b"], [[0, 1], [1, 0], [1, 0]], k=1)
    0.6666666666666666
    >>> top_k_accuracy(["a", "a", "b"], [[0, 1], [1, 0], [1, 0]], k=2)
    1.0
    """
    top = read_top(top_clusters)
    check_rank(k, top)
    classes, codes = encode(y_true, "y_true")
    check_length(len(codes), top)
    clusters, has = distinct_clusters(top), top[:, 0] >= 0
    if match is None and not has.any():
        return 0.0  # nothing is best anywhere, so nothing can be mapped
    if match is None:
        table = count_pairs(codes[has], top[has, 0])
        class_of = classes_of_clusters(table)
        code_of = dict(zip(table.clusters, class_of.tolist(), strict=True))
    else:
        numbers = {label: code for code, label in enumerate(classes)}
        code_of = {cluster: numbers.get(label, _NONE) for cluster, label in match.mapping.items()}
    mapped = np.array([code_of.get(cluster, _NONE) for cluster in clusters.tolist()], dtype=np.int64)
    hits = 0
    for start in range(0, len(codes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found = map_top(top[rows, :k], clusters, mapped)
        hits += int((found == codes[rows, None]).any(axis=1).sum())
    return hits / len(codes)


def read_top(top_clusters: ArrayLike) -> NDArray[Any]:
    """Return ranked clusters as a matrix of integers."""
    top = np.asarray(top_clusters)
    if top.ndim != 2 or top.dtype.kind not in "iu" or not top.size:
        raise InputError(
            "top_clusters must be a matrix of integers, a row per sample and the best cluster first, "
            f"but has the shape {top.shape} and the type {top.dtype}"
        )
    return top


def check_length(n_samples: int, top: NDArray[Any]) -> None:
    """Refuse classes and clusters of different lengths."""
    if n_samples != len(top):
        raise InputError(
            f"there are {n_samples} samples with classes and {len(top)} with clusters; "
            "give one of each per sample, in the same order"
        )


def check_rank(k: int, top: NDArray[Any]) -> None:
    """Refuse a k that the matrix of ranked clusters can't serve."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= top.shape[1]:
        raise InputError(
            f"k must be a whole number from 1 to {top.shape[1]}, the columns of top_clusters, not {k!r}"
        )


def distinct_clusters(top: NDArray[Any]) -> NDArray[Any]:
    """Return the clusters that occur at any rank, ascending, without the −1 of none."""
    ranks = (encode(top[:, rank], "top_clusters")[0] for rank in range(top.shape[1]))
    found = np.array(sorted(set().union(*ranks)), dtype=top.dtype)
    return found[found >= 0]


def map_top(top: NDArray[Any], clusters: NDArray[Any], mapped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the class codes of ranked clusters; −1 where there is no cluster or it has no class."""
    if not len(clusters):
        return np.full(top.shape, _NONE, dtype=np.int64)
    if clusters[-1] <= top.size + len(clusters):  # a table of all numbers is quicker than a search
        table = np.full(int(clusters[-1]) + 1, _NONE, dtype=np.int64)
        table[clusters] = mapped
        found: NDArray[np.int64] = table[top.clip(min=0)]
    else:
        found = mapped[np.searchsorted(clusters, top.clip(min=0))]
    found[top < 0] = _NONE
    return found
