"""Agreement on pairs of samples: together in both partitions, apart in both."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.metrics._contingency import Contingency, count_pairs


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
