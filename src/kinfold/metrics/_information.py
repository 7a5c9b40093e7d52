"""Mutual information between classes and clusters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.metrics._contingency import Contingency, count_pairs
from kinfold.metrics._expectation import expected_mutual_information

_ROUNDING = 1e-12  # of sums of logarithms

_AVERAGES: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: math.sqrt(a * b),
    "min": min,
    "max": max,
}


def normalized_mutual_info(
    y_true: ArrayLike, y_pred: ArrayLike, *, average_method: str = "arithmetic"
) -> float:
    """Return the mutual information of classes and clusters over the average of their entropies.

    Parameters
    ----------
    y_true, y_pred : array-like, shape (n_samples,)
        Classes and clusters, of any hashable type. Exchanging them changes nothing.
    average_method : {"arithmetic", "geometric", "min", "max"}, default "arithmetic"
        The average of the two entropies. Most tables use the arithmetic one; the geometric one is that of
        Strehl and Ghosh, "Cluster Ensembles", JMLR 2002, equation 3.

    Returns
    -------
    float
        Between 0 (independent) and 1 (the same partition). One class against one cluster gives 1, one of them
        against several gives 0.

    Raises
    ------
    InputError
        The average is unknown, lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> normalized_mutual_info(["a", "a", "b", "b"], [7, 7, 3, 3])
    1.0
    """
    check_average(average_method)
    return nmi_of(count_pairs(y_true, y_pred), average_method)


def adjusted_mutual_info(
    y_true: ArrayLike, y_pred: ArrayLike, *, average_method: str = "arithmetic"
) -> float:
    """Return the mutual information of classes and clusters corrected for chance.

    ``(I − E[I]) / (mean(H(classes), H(clusters)) − E[I])``, where the expectation is over all pairs of
    partitions of these sizes. Clusters of one size share their terms, and only counts that chance gives a
    share above 1e-20 are summed, so ten thousand classes and clusters take seconds.

    Vinh, Epps and Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 2010.

    Parameters
    ----------
    y_true, y_pred : array-like, shape (n_samples,)
        Classes and clusters, of any hashable type. Exchanging them changes nothing.
    average_method : {"arithmetic", "geometric", "min", "max"}, default "arithmetic"
        The average of the two entropies.

    Returns
    -------
    float
        1 for the same partition, about 0 for random ones, at times a little below. One class or cluster
        against several gives 0, as does a case where chance alone reaches the average.

    Raises
    ------
    InputError
        The average is unknown, lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> adjusted_mutual_info(["a", "a", "b", "b"], [7, 7, 3, 3])
    1.0
    >>> round(adjusted_mutual_info([0, 0, 1, 1], [0, 1, 0, 1]), 6)
    -0.5
    """
    check_average(average_method)
    return ami_of(count_pairs(y_true, y_pred), average_method)


def check_average(average_method: str) -> None:
    """Refuse an unknown average."""
    if average_method not in _AVERAGES:
        known = list(_AVERAGES)
        raise InputError(
            f"average_method {average_method!r} is unknown; use one of {', '.join(known)}"
            f"{nearest_name(str(average_method), known)}"
        )


def nmi_of(table: Contingency, average_method: str = "arithmetic") -> float:
    """Return :func:`normalized_mutual_info` of counted pairs."""
    if len(table.classes) == len(table.clusters) == 1:
        return 1.0
    information = _mutual_information(table)
    if information <= np.finfo(np.float64).eps:
        return 0.0
    average = _AVERAGES[average_method](_entropy(table.class_sizes()), _entropy(table.cluster_sizes()))
    return min(1.0, information / average)


def ami_of(table: Contingency, average_method: str = "arithmetic") -> float:
    """Return :func:`adjusted_mutual_info` of counted pairs."""
    if table.n_pairs == len(table.classes) == len(table.clusters):
        return 1.0
    if len(table.classes) == 1 or len(table.clusters) == 1:
        return 0.0
    classes, clusters = table.class_sizes(), table.cluster_sizes()
    chance = expected_mutual_information(classes, clusters)
    best = _AVERAGES[average_method](_entropy(classes), _entropy(clusters)) - chance
    above = _mutual_information(table) - chance
    return above / best if best > _ROUNDING * chance else 0.0


def _entropy(sizes: NDArray[np.int64]) -> float:
    """Return the entropy of a partition in nats."""
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum())


def _mutual_information(table: Contingency) -> float:
    """Return the mutual information in nats, from the pairs that occur."""
    pairs = table.counts.tocoo()
    joint = pairs.data / table.n_samples
    expected = (table.class_sizes()[pairs.row] / table.n_samples) * (
        table.cluster_sizes()[pairs.col] / table.n_samples
    )
    return float((joint * np.log(joint / expected)).sum())
