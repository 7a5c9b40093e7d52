"""How well labelings agree: geometric normalised mutual information, from sparse tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.consensus._heads import Labeling, as_array, read_heads, read_labeling
from kinfold.consensus._tables import PairTable, count_pairs, geometric_nmi
from kinfold.errors import InputError


def mean_nmi(labels: ArrayLike, candidate: ArrayLike) -> float:
    """Return the mean over heads of the geometric NMI of a candidate and the head.

    This is what a consensus maximises: Strehl and Ghosh, "Cluster Ensembles", JMLR 2002, equation 5.

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
    heads: Sequence[Labeling], visit: Callable[[int, int, PairTable], None] | None = None
) -> NDArray[np.float64]:
    """Return the geometric NMI of every two heads; each pair's table is shown to ``visit`` on the way."""
    nmi = np.eye(len(heads))
    for a, b in combinations(range(len(heads)), 2):
        table = count_pairs(heads[a], heads[b])
        nmi[a, b] = nmi[b, a] = geometric_nmi(heads[a], heads[b], table)
        if visit is not None:
            visit(a, b, table)
    return nmi
