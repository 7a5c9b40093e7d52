"""Mutual information (normalized and adjusted) and the Rand index of two labelings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.metrics.contingency import Contingency, count_pairs
from kinfold.validation import check_choice

_ROUNDING = 1e-12  # of sums of logarithms

_AVERAGES: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: math.sqrt(a * b),
    "min": min,
    "max": max,
}
_PAIRS_AT_ONCE = 1 << 18  # of sizes, in about ten arrays of float64: 20 MiB
_NEGLIGIBLE = 1e-20  # of the likeliest count's probability


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
    check_choice(tuple(_AVERAGES), average_method=average_method)
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
    check_choice(tuple(_AVERAGES), average_method=average_method)
    return ami_of(count_pairs(y_true, y_pred), average_method)


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


def adjusted_rand_index(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the Rand index corrected for chance.

    Hubert and Arabie, "Comparing partitions", Journal of Classification 1985, equation 5.

    Parameters
    ----------
    y_true, y_pred : array-like, shape (n_samples,)
        Classes and clusters, of any hashable type. Exchanging them changes nothing.

    Returns
    -------
    float
        1 for the same partition, about 0 for random ones, at least -0.5.

    Raises
    ------
    InputError
        Lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> adjusted_rand_index([0, 0, 1, 1], ["b", "b", "a", "a"])
    1.0
    """
    return ari_of(count_pairs(y_true, y_pred))


def ari_of(table: Contingency) -> float:
    """Return :func:`adjusted_rand_index` of counted pairs."""
    together = _count_within(table.counts.data)
    in_classes = _count_within(table.class_sizes())
    in_clusters = _count_within(table.cluster_sizes())
    if together == in_classes == in_clusters:
        return 1.0
    pairs = table.n_samples * (table.n_samples - 1) // 2
    # Whole numbers of any size up to the last division: nothing overflows, nothing cancels.
    above = 2 * (together * pairs - in_classes * in_clusters)
    below = (in_classes + in_clusters) * pairs - 2 * in_classes * in_clusters
    return above / below


def _count_within(sizes: NDArray[np.int64]) -> int:
    """Return the number of pairs inside groups of these sizes, exact up to three thousand million samples."""
    sizes = sizes.astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


Sizes = NDArray[np.int64]
Values = NDArray[np.float64]


def expected_mutual_information(classes: Sizes, clusters: Sizes) -> float:
    """Return the expected mutual information in nats, over all pairs of partitions of these sizes.

    The count that a class of size a and a cluster of size b share is hypergeometric. Pairs of the same two
    sizes have the same expectation, which is computed once. Probabilities come from the likeliest count by
    the ratio of neighbouring ones, up to a common factor that the sum of all takes away again: no factorials,
    and so no loss of digits at any number of samples.

    Parameters
    ----------
    classes, clusters : ndarray of int64
        Samples of every class and of every cluster, 1 or more each, with the same sum.

    References
    ----------
    Vinh, Epps and Bailey, "Information Theoretic Measures for Clusterings Comparison: Variants, Properties,
    Normalization and Correction for Chance", JMLR 2010, equation 24a.
    """
    n = int(classes.sum())
    a_sizes, a_times = np.unique(classes, return_counts=True)
    b_sizes, b_times = np.unique(clusters, return_counts=True)
    step = max(1, _PAIRS_AT_ONCE // len(b_sizes))
    total = 0.0
    for start in range(0, len(a_sizes), step):
        a = np.repeat(a_sizes[start : start + step], len(b_sizes))
        b = np.tile(b_sizes, len(a) // len(b_sizes))
        times = np.outer(a_times[start : start + step], b_times).ravel()
        total += float(times @ _expected_terms(a, b, n))
    return total


def _expected_terms(a: Sizes, b: Sizes, n: int) -> Values:
    """Return ``E[k / n · log(n k / (a b))]`` for counts k shared by groups of sizes a and b."""
    likeliest = ((a + 1) * (b + 1) // (n + 2)).astype(np.float64)
    weights, sums = np.ones(len(a)), _information(likeliest, a * b, n)
    for up in (True, False):
        _add_side(weights, sums, a.astype(np.float64), b.astype(np.float64), likeliest, n, up=up)
    return sums / weights


def _add_side(
    weights: Values, sums: Values, a: Values, b: Values, likeliest: Values, n: int, *, up: bool
) -> None:
    """Add the probabilities of all counts on one side of the likeliest, and their terms, in place."""
    rows: Sizes = np.arange(len(a))
    k: Values = likeliest.copy()
    probability: Values = np.ones(len(a))
    rest = n - a - b
    while len(rows):
        if up:
            probability *= (a - k) * (b - k) / ((k + 1) * (rest + k + 1))
            k += 1
        else:
            probability *= k * (rest + k) / ((a - k + 1) * (b - k + 1))
            k -= 1
        live = probability > _NEGLIGIBLE
        if not live.all():
            rows, k, probability = rows[live], k[live], probability[live]
            a, b, rest = a[live], b[live], rest[live]
        weights[rows] += probability
        sums[rows] += probability * _information(k, a * b, n)


def _information(k: Values, product: Values | Sizes, n: int) -> Values:
    """Return ``k / n · log(n k / product)``, 0 at k = 0."""
    return np.asarray(k / n * np.log(np.maximum(k, 1) * (n / product)))
