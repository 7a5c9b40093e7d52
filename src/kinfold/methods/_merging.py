"""Trees of groups: small clusters join pair by pair, along the neighbour graph or by Ward's method."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import linkage

from kinfold.errors import InputError

_MOST_PARTS = 8192  # without any edge between them that are joined by their directions: a table of half a GB


@dataclass(frozen=True)
class MergeTree:
    """Which clusters join one after the other.

    Attributes
    ----------
    merges : ndarray (M−1, 2) int32
        The two that join. Leaves are 0 … M−1; what the i-th merge makes is M + i.
    similarities : ndarray (M−1,) float64
        How similar they were: of :func:`join_clusters` at least 0, and 0 where no edge joined them; of
        :func:`join_by_variance` what the union adds to the sum of squares, negative.
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


def contract(weights: sparse.csr_matrix, members: NDArray[np.integer], n_parts: int) -> sparse.csr_matrix:
    """Return the weights between clusters (M, M) of those between samples (N, N): sums over their pairs.

    Within a cluster every pair counts in both directions, on the diagonal, so that rows add up to volumes.
    """
    n_samples = len(members)
    belongs = sparse.csr_matrix(
        (np.ones(n_samples), (np.asarray(members), np.arange(n_samples))), shape=(n_parts, n_samples)
    )
    return sparse.csr_matrix(belongs @ weights.astype(np.float64) @ belongs.T)


def join_clusters(weights: sparse.csr_matrix, directions: NDArray[Any]) -> MergeTree:
    """Join clusters pair by pair: always the two that are most similar for their size.

    The similarity of a and b is w_ab / (w_a w_b), where w_ab is the weight between them and w_a all of a's.
    What no edge joins at last is joined by the cosine of mean directions, on average over all pairs.

    Parameters
    ----------
    weights : csr_matrix (M, M)
        Symmetric, of :func:`contract`.
    directions : ndarray (M, D)
        Mean direction of each cluster, of any length.

    Returns
    -------
    MergeTree
        Similarities never increase, in the unit in which all weights add up to 1; the lower numbers first on
        ties.

    References
    ----------
    Bonald, Charpentier, Galland & Hollocou (2018), "Hierarchical Graph Clustering using Node Pair Sampling"
    (Paris linkage).
    """
    n_leaves = weights.shape[0]
    volumes = np.asarray(weights.sum(axis=1), dtype=np.float64).ravel()
    scale = max(float(volumes.sum()), np.finfo(float).tiny)
    volume = dict(enumerate((volumes / scale).tolist()))
    edges = _read_edges(weights, scale)
    heap = [
        (-weight / (volume[a] * volume[b]), a, b)
        for a, own in edges.items()
        for b, weight in own.items()
        if a < b
    ]
    heapq.heapify(heap)
    merges: list[tuple[int, int]] = []
    similarities: list[float] = []
    while heap:
        cost, a, b = heapq.heappop(heap)
        if a not in edges or b not in edges:
            continue  # one of them has joined another since
        new = n_leaves + len(merges)
        merges.append((a, b))
        similarities.append(-cost)
        joined = _unite(edges, a, b)
        volume[new] = volume.pop(a) + volume.pop(b)
        edges[new] = joined
        for other, weight in joined.items():
            edges[other][new] = weight
            heapq.heappush(heap, (-weight / (volume[other] * volume[new]), other, new))
    _join_apart(sorted(edges), merges, directions, n_leaves)
    similarities += [0.0] * (len(merges) - len(similarities))
    return MergeTree(np.array(merges, dtype=np.int32).reshape(-1, 2), np.array(similarities))


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


def _read_edges(weights: sparse.csr_matrix, scale: float) -> dict[int, dict[int, float]]:
    """Return the weights of every cluster's neighbours, without itself."""
    pairs = sparse.coo_matrix(weights)
    edges: dict[int, dict[int, float]] = {node: {} for node in range(weights.shape[0])}
    values = (pairs.data / scale).tolist()
    for a, b, weight in zip(pairs.row.tolist(), pairs.col.tolist(), values, strict=True):
        if a != b and weight > 0:
            edges[a][b] = weight
    return edges


def _unite(edges: dict[int, dict[int, float]], a: int, b: int) -> dict[int, float]:
    """Take two clusters out of the graph and return the weights of their union."""
    joined, other = edges.pop(a), edges.pop(b)
    for node, weight in other.items():
        joined[node] = joined.get(node, 0.0) + weight
    joined.pop(a, None)
    joined.pop(b, None)
    for node in joined:
        edges[node].pop(a, None)
        edges[node].pop(b, None)
    return joined


def _join_apart(
    roots: list[int], merges: list[tuple[int, int]], directions: NDArray[Any], n_leaves: int
) -> None:
    """Join what is left without edges by average linkage of the cosines of mean directions."""
    if len(roots) < 2:
        return
    sums = np.zeros((n_leaves + len(merges), directions.shape[1]))
    sums[:n_leaves] = directions
    for at, (a, b) in enumerate(merges):
        sums[n_leaves + at] = sums[a] + sums[b]
    # Beyond so many the rest follow one by one: a table of their distances would not fit.
    table, rest = roots[:_MOST_PARTS], roots[_MOST_PARTS:]
    units = sums[table] / np.maximum(np.linalg.norm(sums[table], axis=1, keepdims=True), 1e-12)
    above = np.triu_indices(len(table), 1)
    distances = np.maximum(1 - units @ units.T, 0)[above]
    first = n_leaves + len(merges)
    for a, b in linkage(distances, "average")[:, :2].astype(int).tolist():
        merges.append(
            (
                table[a] if a < len(table) else first + a - len(table),
                table[b] if b < len(table) else first + b - len(table),
            )
        )
    for root in rest:
        merges.append((n_leaves + len(merges) - 1, root))
