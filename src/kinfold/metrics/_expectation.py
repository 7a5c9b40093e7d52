"""What mutual information two partitions of given sizes have by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 1 << 18
_NEGLIGIBLE = 1e-20  # of the likeliest count's probability

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
