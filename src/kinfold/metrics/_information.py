"""Mutual information between classes and clusters."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.metrics._contingency import Contingency, count_pairs

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
    if average_method not in _AVERAGES:
        known = list(_AVERAGES)
        raise InputError(
            f"average_method {average_method!r} is unknown; use one of {', '.join(known)}"
            f"{nearest_name(str(average_method), known)}"
        )
    table = count_pairs(y_true, y_pred)
    if len(table.classes) == len(table.clusters) == 1:
        return 1.0
    information = _mutual_information(table)
    if information <= np.finfo(np.float64).eps:
        return 0.0
    average = _AVERAGES[average_method](_entropy(table.class_sizes()), _entropy(table.cluster_sizes()))
    return min(1.0, information / average)


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
