"""Labelings of the same samples: numbering of clusters, contingency tables, geometric NMI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics.contingency import Cells, count_cells, number_integers


@dataclass(frozen=True)
class Labeling:
    """One labeling, its clusters numbered without gaps.

    Attributes
    ----------
    codes : ndarray of int32, shape (n_samples,)
        Number of each sample's cluster among the live ones, in the order of their labels.
    ids : ndarray of int64, shape (n_clusters,)
        The label that each number stands for, ascending.
    """

    codes: NDArray[np.int32]
    ids: NDArray[np.int64]

    @property
    def n_samples(self) -> int:
        """Samples labeled."""
        return len(self.codes)

    @property
    def n_clusters(self) -> int:
        """Live clusters."""
        return len(self.ids)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Samples per cluster, none of them 0."""
        return np.bincount(self.codes, minlength=self.n_clusters)

    @cached_property
    def entropy(self) -> float:
        """Entropy in nats."""
        return entropy_of(self.sizes, self.n_samples)


def read_labeling(labels: NDArray[np.integer], name: str) -> Labeling:
    """Give the clusters of one labeling numbers without gaps.

    Raises
    ------
    InputError
        A label is negative, or 2^63 or more.
    """
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0:
        where = int(np.argmax(labels < 0))
        raise InputError(
            f"{name} holds the label {int(labels[where])} at position {where}; "
            "every sample needs a cluster (0 or more) in every head, so leave such samples out"
        )
    if highest > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds the label {highest}; labels must fit 64-bit signed integers")
    ids, codes = number_integers(labels)
    # Codes of all heads stay in memory throughout, so they are 32-bit.
    return Labeling(codes.astype(np.int32), ids.astype(np.int64))


def read_heads(labels: ArrayLike) -> list[Labeling]:
    """Check labels (n_heads, n_samples) and number each head's clusters.

    Raises
    ------
    InputError
        Not two-dimensional (or heads of several lengths), empty, not of an integer type, or a label is
        negative.
    """
    array = as_array(labels, "labels")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"labels must have the shape (heads, samples), with at least one of each, but has {array.shape}"
        )
    if array.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, but are {array.dtype}")
    return [read_labeling(row, f"head {number}") for number, row in enumerate(array)]


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return values as an array; :class:`InputError` where rows are of several lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} must hold rows of one length, but: {error}") from error


def entropy_of(counts: NDArray[np.int64], total: int) -> float:
    """Return the entropy in nats of a partition with these (positive) counts."""
    return float(np.log(total) - (counts * np.log(counts)).sum() / total)


def count_pairs(first: Labeling, second: Labeling) -> Cells:
    """Return the contingency table of two labelings, clusters of ``first`` in rows."""
    return count_cells(first.codes, second.codes, first.n_clusters, second.n_clusters)


def geometric_nmi(first: Labeling, second: Labeling, table: Cells) -> float:
    """Return I(a; b) / sqrt(H(a) H(b)) (Strehl and Ghosh 2002, equation 2), between 0 and 1.

    One cluster against one cluster gives 1, one against several gives 0, as in ``kinfold.metrics``.
    """
    if first.n_clusters == 1 or second.n_clusters == 1:
        return float(first.n_clusters == second.n_clusters)
    # Each head's entropy is known already; that of the table is all a pair of heads costs. The metrics' own
    # NMI sums logarithms of ratios instead, and may differ in the last bits: scores choose among candidates,
    # so the formula must stay this one.
    joint = entropy_of(table.counts, first.n_samples)
    information = first.entropy + second.entropy - joint
    return float(np.clip(information / np.sqrt(first.entropy * second.entropy), 0.0, 1.0))


def mean_nmi(labels: ArrayLike, candidate: ArrayLike) -> float:
    """Return the mean over heads of the geometric NMI of a candidate and the head.

    This is what a consensus maximizes: Strehl and Ghosh, "Cluster Ensembles", JMLR 2002, equation 5.

    Parameters
    ----------
    labels : array-like of int, shape (n_heads, n_samples)
        The heads; any labels of 0 or more.
    candidate : array-like of int, shape (n_samples,)
        The labeling to judge; any labels of 0 or more.

    Returns
    -------
    float
        Between 0 and 1; 1 if every head is the same partition as the candidate.

    Raises
    ------
    InputError
        Shapes or types don't fit, or a label is negative.

    Examples
    --------
    >>> mean_nmi([[0, 0, 1, 1], [5, 5, 2, 2]], [1, 1, 0, 0])
    1.0
    """
    heads = read_heads(labels)
    array = as_array(candidate, "candidate")
    if array.shape != (heads[0].n_samples,) or array.dtype.kind not in "iu":
        raise InputError(
            f"candidate must hold {heads[0].n_samples} integers, one per sample of labels, "
            f"but has the shape {array.shape} and the type {array.dtype}"
        )
    return score(heads, read_labeling(array, "candidate"))


def pairwise_nmi(labels: ArrayLike) -> NDArray[np.float64]:
    """Return the geometric NMI of every two heads.

    Parameters
    ----------
    labels : array-like of int, shape (n_heads, n_samples)
        The heads; any labels of 0 or more.

    Returns
    -------
    ndarray of float64, shape (n_heads, n_heads)
        Symmetric, between 0 and 1, with 1 on the diagonal.

    Raises
    ------
    InputError
        The shape or type doesn't fit, or a label is negative.

    Examples
    --------
    >>> pairwise_nmi([[0, 0, 1, 1], [0, 1, 0, 1]]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return compare_heads(read_heads(labels))


def score(heads: Sequence[Labeling], candidate: Labeling) -> float:
    """Return the mean geometric NMI of a candidate and the heads."""
    tables = (count_pairs(head, candidate) for head in heads)
    return float(
        np.mean([geometric_nmi(head, candidate, table) for head, table in zip(heads, tables, strict=True)])
    )


def compare_heads(
    heads: Sequence[Labeling], visit: Callable[[int, int, Cells], None] | None = None
) -> NDArray[np.float64]:
    """Return the geometric NMI of every two heads; each pair's table is shown to ``visit`` on the way."""
    nmi = np.eye(len(heads))
    for a, b in combinations(range(len(heads)), 2):
        table = count_pairs(heads[a], heads[b])
        nmi[a, b] = nmi[b, a] = geometric_nmi(heads[a], heads[b], table)
        if visit is not None:
            visit(a, b, table)
    return nmi
