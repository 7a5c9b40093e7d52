"""Trees of groups: small clusters join pair by pair, by Ward's method, until one is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError


@dataclass(frozen=True)
class MergeTree:
    """Which clusters join one after the other.

    Attributes
    ----------
    merges : ndarray (M−1, 2) int32
        The two that join. Leaves are 0 … M−1; what the i-th merge makes is M + i.
    similarities : ndarray (M−1,) float64
        What the union adds to the sum of squares within clusters, negative.
    """

    merges: NDArray[np.int32]
    similarities: NDArray[np.float64]

    @property
    def n_leaves(self) -> int:
        """M."""
        return len(self.merges) + 1

    def cut(self, n_clusters: int) -> NDArray[np.int32]:
        """Return the cluster of every leaf (M,) where K of 1 … M are left.

        Clusters are numbered in the order of their first leaves. Those of a larger K lie within those of a
        smaller one.
        """
        _, first, which = np.unique(self.roots(n_clusters), return_index=True, return_inverse=True)
        place = np.empty(len(first), dtype=np.int32)
        place[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
        return np.asarray(place[which], dtype=np.int32)

    def roots(self, n_clusters: int) -> NDArray[np.int64]:
        """Return the node that holds every leaf (M,) where K of 1 … M clusters are left.

        Raises
        ------
        InputError
            There is no such cut.
        """
        if not 1 <= n_clusters <= self.n_leaves:
            raise InputError(
                f"the tree has 1 to {self.n_leaves} groups, not {n_clusters}; ask for a number between"
            )
        owner = np.arange(self.n_leaves + len(self.merges))
        for at in range(self.n_leaves - n_clusters):
            owner[self.merges[at]] = self.n_leaves + at
        for node in range(len(owner) - 1, -1, -1):
            owner[node] = owner[owner[node]]
        return np.asarray(owner[: self.n_leaves])


def join_by_variance(centers: NDArray[Any], sizes: NDArray[np.integer]) -> MergeTree:
    """Join weighted points by Ward's method.

    The two clusters are joined whose union adds least to the sum of squares within clusters,
    |a| |b| / (|a| + |b|) · ‖a − b‖²; of equals, those of lower numbers.

    Parameters
    ----------
    centers : ndarray (M, D)
        Points.
    sizes : ndarray (M,)
        Samples that each stands for, at least 1.

    Returns
    -------
    MergeTree

    References
    ----------
    Ward (1963), "Hierarchical Grouping to Optimize an Objective Function"; distances after each union by the
    formula of Lance & Williams (1967).
    """
    weights = sizes.astype(np.float64)
    points = centers.astype(np.float64)
    squares = np.sum(points**2, axis=1)
    apart = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
    costs = apart * (weights[:, None] * weights) / (weights[:, None] + weights)
    np.fill_diagonal(costs, np.inf)
    node = np.arange(len(points))  # of the tree, that each row of the table stands for
    merges: NDArray[np.int32] = np.empty((len(points) - 1, 2), dtype=np.int32)
    similarities = np.empty(len(merges))
    # The nearest of every cluster is kept, so that a union costs one row and not the whole table.
    nearest, least = costs.argmin(axis=1), costs.min(axis=1)
    for at in range(len(merges)):
        found = int(least.argmin())
        a, b = sorted((found, int(nearest[found])))
        merges[at], similarities[at] = (node[a], node[b]), -least[found]
        total = weights[a] + weights[b] + weights
        joined = (
            (weights[a] + weights) * costs[a] + (weights[b] + weights) * costs[b] - weights * costs[a, b]
        ) / total
        joined[[a, b]] = np.inf
        joined[np.isinf(costs[a])] = np.inf  # clusters that were joined to others before
        costs[a], costs[:, a] = joined, joined
        costs[b], costs[:, b] = np.inf, np.inf
        weights[a] += weights[b]
        node[a] = len(points) + at
        least[b] = np.inf
        stale = np.flatnonzero((nearest == a) | (nearest == b) | (joined < least))
        stale = np.union1d(stale[np.isfinite(least[stale])], a)
        nearest[stale], least[stale] = costs[stale].argmin(axis=1), costs[stale].min(axis=1)
    return MergeTree(merges, similarities)
