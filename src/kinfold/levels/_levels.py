"""Groups from coarse to fine around those of a fit: coarser ones join them, finer ones lie within them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from kinfold.errors import InputError
from kinfold.methods import (
    N_NEIGHBORS,
    MergeTree,
    SphericalKMeans,
    TopClusters,
    contract,
    draw_rows,
    join_clusters,
    local_weights,
)
from kinfold.methods.protocol import Clusterer
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

# Parts that groups are cut into, in all: enough to look finely, few enough that their tree is small.
_FEWEST_PARTS, _MOST_PARTS = 40, 4096
_PARTS_PER_ROOT = 2  # times the square root of the number of samples
_PARTS_PER_CLUSTER = 8
_ROWS_PER_PART = 5  # on average at least, so that a part is a set of images and no single one
_DRAWN_FOR_GRAPH = 50_000
_DRAWN_PER_PART = 256  # rows that the parts of one group are found on
_BLOCK_VALUES = 1 << 20  # of rows or probabilities at a time
_PART_ITERATIONS = 25


@dataclass(frozen=True)
class Levels:
    """A tree of groups around those of a fit.

    The leaves are parts of the fitted clusters: small sets of similar images. Above the fitted clusters the
    tree joins whole clusters, below it joins parts of one cluster, so that the fitted clusters are one of its
    levels, and the groups of every level lie within those of each coarser one.

    Attributes
    ----------
    n_clusters : int
        K of the fit, empty clusters among them.
    part_clusters : ndarray (M,) int32
        Fitted cluster of every part, ascending.
    part_sizes : ndarray (M,) int64
        Training samples in every part.
    centers : ndarray (M, D) float32
        Mean direction of every part, at unit length.
    tree : MergeTree
        What joins: first parts within clusters, the most similar first, then clusters.
    """

    n_clusters: int
    part_clusters: NDArray[np.int32]
    part_sizes: NDArray[np.int64]
    centers: NDArray[np.float32]
    tree: MergeTree

    @property
    def n_parts(self) -> int:
        """M, the finest level."""
        return len(self.part_clusters)

    @cached_property
    def n_live(self) -> int:
        """Fitted clusters that have any sample."""
        return len(np.unique(self.part_clusters))

    def check_whole(self) -> None:
        """Raise ``ValueError`` where the arrays don't fit each other."""
        n_parts, merges = self.n_parts, self.tree.merges
        fits = (
            0 < n_parts == len(self.part_sizes) == len(self.centers) == self.tree.n_leaves
            and len(merges) == len(self.tree.similarities)
            and int(self.part_clusters.min()) >= 0
            and int(self.part_clusters.max()) < self.n_clusters
            and bool(np.all(np.diff(self.part_clusters) >= 0))
            # Every node but the last joins another once, and only after it was made.
            and np.array_equal(np.sort(merges, axis=None), np.arange(2 * n_parts - 2))
            and bool(np.all(merges.max(axis=1, initial=-1) < n_parts + np.arange(len(merges))))
        )
        if not fits:
            raise ValueError("parts, clusters and merges don't fit each other")

    def check(self, n_groups: int) -> None:
        """Raise :class:`InputError` unless there is a level of so many groups."""
        if n_groups != self.n_clusters and not 1 <= n_groups <= self.n_parts:
            raise InputError(
                f"this run has levels of 1 to {self.n_parts} groups, none of {n_groups}; ask for a number "
                "between, or cluster again (kinfold cluster -k)"
            )

    def groups(self, n_groups: int) -> NDArray[np.int32]:
        """Return the group of every part (M,) at a level.

        At the level of the fit the numbers are its own. At a finer one the largest part of a divided group
        keeps its number, and the others get new ones in the order of division, which a still finer level
        keeps. At a coarser one joined groups are numbered in the order of their smallest fitted numbers.

        Parameters
        ----------
        n_groups : int
            1 … M groups with images.

        Raises
        ------
        InputError
            There is no such level.
        """
        self.check(n_groups)
        if n_groups in (self.n_clusters, self.n_live):
            return self.part_clusters.copy()
        if n_groups < self.n_live:
            return self.tree.cut(n_groups)  # parts stand in the order of their clusters
        number = dict(zip(self.tree.roots(self.n_live).tolist(), self.part_clusters.tolist(), strict=True))
        sizes = self._node_sizes()
        fresh = self.n_clusters
        for at in range(self.n_parts - self.n_live - 1, self.n_parts - n_groups - 1, -1):
            large, small = sorted(self.tree.merges[at].tolist(), key=lambda node: (-sizes[node], node))
            number[large], number[small] = number.pop(self.n_parts + at), fresh
            fresh += 1
        return np.array([number[root] for root in self.tree.roots(n_groups).tolist()], dtype=np.int32)

    def count(self, n_groups: int) -> int:
        """Return how many numbers of groups a level has: empty clusters of the fit keep theirs."""
        if n_groups < self.n_live:
            return n_groups
        return self.n_clusters + max(0, n_groups - self.n_live) if n_groups != self.n_clusters else n_groups

    def find_parts(self, X: RowMatrix, clusters: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return the closest part of each row's cluster.

        Parameters
        ----------
        X : row matrix (n, D)
            Features.
        clusters : ndarray (n,)
            Fitted cluster of every row, which must have parts.

        Returns
        -------
        ndarray (n,) int32
            The lower number on ties.
        """
        rows = UnitRows(X, torch.device("cpu"))
        found = np.full(len(clusters), -1, dtype=np.int32)
        bounds = np.searchsorted(self.part_clusters, np.arange(self.n_clusters + 1))
        size = max(1, _BLOCK_VALUES // max(1, rows.dim))
        for start in range(0, rows.n_rows, size):
            own = np.asarray(clusters[start : start + size])
            # float64: which part is closest must not hang on how many rows are multiplied at once.
            block = rows.read(start, start + len(own)).numpy().astype(np.float64)
            for cluster in np.unique(own).tolist():
                parts = slice(*bounds[cluster : cluster + 2])
                here = np.flatnonzero(own == cluster)
                if parts.stop > parts.start:
                    products = block[here] @ self.centers[parts].T.astype(np.float64)
                    found[start + here] = parts.start + products.argmax(axis=1)
        return found

    def top(self, model: Clusterer, X: RowMatrix, n_groups: int, n_top: int = 5) -> TopClusters:
        """Return the best groups of every row at a level, by the model of the fit.

        A row's group is that of its part (:meth:`predict_parts`), so that it lies within
        its group of every coarser level. Its probability is the sum over all clusters, or closest parts of
        clusters, that the group holds. The others follow in the order of theirs.

        Parameters
        ----------
        model : Clusterer
            The fitted one.
        X : row matrix (n, D)
            Features.
        n_groups : int
            The level.
        n_top : int, default 5
            Groups per row, cut to those that there are.
        """
        groups = self.groups(n_groups)
        n_numbers = self.count(n_groups)
        found = [
            self._top_of(block, np.asarray(X[rows]), groups, n_numbers, n_top)
            for rows, block in _predicted(model, X)
        ]
        return TopClusters(*(np.concatenate(each) for each in zip(*found, strict=True)))

    def predict_parts(self, model: Clusterer, X: RowMatrix) -> NDArray[np.int32]:
        """Return the part of every row (n,), which tells its group at every level.

        It is the closest one within its most probable cluster; one without samples has none, and counts for
        nothing.
        """
        found = [self._parts_of(block, np.asarray(X[rows])) for rows, block in _predicted(model, X)]
        return np.concatenate(found) if found else np.zeros(0, np.int32)

    def _parts_of(self, probabilities: NDArray[np.float32], X: RowMatrix) -> NDArray[np.int32]:
        live = np.isin(np.arange(self.n_clusters), self.part_clusters)
        return self.find_parts(X, np.where(live, probabilities, -1).argmax(axis=1))

    def _top_of(
        self,
        probabilities: NDArray[np.float32],
        X: RowMatrix,
        groups: NDArray[np.int32],
        n_numbers: int,
        n_top: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        own = groups[self._parts_of(probabilities, X)]
        # A cluster that lies within one group gives it all of its probability. One that is divided gives it
        # to the group of its closest part, which is looked for in the most probable clusters alone.
        whole, divided = self._held_by(groups, n_numbers)
        sums = np.asarray(probabilities.astype(np.float64) @ whole)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :n_top]
        for clusters in best.T:
            some = np.flatnonzero(divided[clusters])
            if len(some):
                parts = self.find_parts(np.asarray(X[some]), clusters[some])
                sums[some, groups[parts]] += probabilities[some, clusters[some]]
        ranked = sums.copy()
        ranked[np.arange(len(own)), own] = np.inf
        order = np.argsort(-ranked, axis=1, kind="stable")[:, : min(n_top, n_numbers)]
        values = np.minimum(np.take_along_axis(sums, order, axis=1), 1)
        return order.astype(np.int32), values.astype(np.float32)

    def _held_by(
        self, groups: NDArray[np.int32], n_numbers: int
    ) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
        """Return which group holds each cluster whole, as a matrix (K, groups), and which are divided."""
        pairs = np.unique(np.stack([self.part_clusters, groups]), axis=1)
        divided = np.bincount(pairs[0], minlength=self.n_clusters) > 1
        clusters, held = pairs[:, ~divided[pairs[0]]]
        shape = (self.n_clusters, n_numbers)
        return sparse.csr_matrix((np.ones(len(held)), (clusters, held)), shape=shape), divided

    def _node_sizes(self) -> list[int]:
        sizes: list[int] = self.part_sizes.tolist()
        for a, b in self.tree.merges.tolist():
            sizes.append(sizes[a] + sizes[b])
        return sizes


@dataclass(frozen=True)
class GroupMatch:
    """The groups of one level beside those of another.

    Attributes
    ----------
    same : mapping of int to int
        Group of the first level to that of the second which holds the same samples.
    within : mapping of int to int
        Group of the first level to that of the second which holds all of it; those of ``same`` among them.
    """

    same: Mapping[int, int]
    within: Mapping[int, int]


def match_groups(levels: Levels, first: int, second: int) -> GroupMatch:
    """Compare the groups of two levels by the parts that they hold.

    Fitted clusters without samples are the same at all levels that have them.

    Parameters
    ----------
    levels : Levels
        The tree.
    first, second : int
        Numbers of groups.
    """
    ours, theirs = levels.groups(first).astype(np.int64), levels.groups(second).astype(np.int64)
    pairs, counts = np.unique(np.stack([ours, theirs]), axis=1, return_counts=True)
    our_sizes, their_sizes = np.bincount(ours), np.bincount(theirs)
    whole = counts == our_sizes[pairs[0]]
    equal = whole & (counts == their_sizes[pairs[1]])
    fewest = min(levels.count(first), levels.count(second))
    empty = {}
    if fewest >= levels.n_clusters:  # coarser levels number their groups anew
        dead = np.setdiff1d(np.arange(levels.n_clusters), levels.part_clusters)
        empty = {number: number for number in dead.tolist()}
    return GroupMatch(
        same={**dict(pairs[:, equal].T.tolist()), **empty},
        within={**dict(pairs[:, whole].T.tolist()), **empty},
    )


def build_levels(
    X: RowMatrix,
    clusters: NDArray[np.integer],
    n_clusters: int,
    graph: NeighborGraph | None = None,
    *,
    seed: int,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Levels:
    """Find the parts of fitted clusters, and how parts and clusters join.

    Each cluster is cut into parts by spherical k-means; the neighbour graph between parts, on the local scale
    of each sample, joins them (:func:`~kinfold.methods.join_clusters`).

    Parameters
    ----------
    X : row matrix (N, D)
        The training samples.
    clusters : ndarray (N,)
        Fitted cluster of each.
    n_clusters : int
        K of the fit.
    graph : NeighborGraph, optional
        Their neighbours; by default found here, of at most 50,000 samples.
    seed : int
        Of k-means and of the rows it sees, and of the samples drawn.
    device : str, default "auto"
        Where neighbours are searched.
    progress : Progress
        Shows clusters that were cut.

    Returns
    -------
    Levels
        About 2 √N parts, at least 40 or 8 of each cluster, at most 4,096 or one of each cluster, and of 5
        samples on average at least.
    """
    n_samples = len(clusters)
    sizes = np.bincount(clusters, minlength=n_clusters)
    wanted = max(_PARTS_PER_ROOT * np.sqrt(n_samples), _PARTS_PER_CLUSTER * n_clusters, _FEWEST_PARTS)
    n_parts = min(wanted, _MOST_PARTS, n_samples / _ROWS_PER_PART)
    order = np.argsort(clusters, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    random = np.random.RandomState(seed)
    centers, owners = [], []
    with progress.task("cutting groups into parts", n_clusters, "groups") as task:
        for cluster in range(n_clusters):
            rows = order[starts[cluster] : starts[cluster + 1]]
            # A generator of its own: how many numbers one cluster draws must not move the next.
            own = np.random.RandomState(random.randint(2**31))
            if len(rows):
                centers.append(_cut(X, rows, max(1, round(n_parts * len(rows) / n_samples)), own))
                owners += [cluster] * len(centers[-1])
            task.advance(1)
    part_clusters, directions = np.array(owners, dtype=np.int32), np.concatenate(centers)
    unjoined = MergeTree(np.zeros((0, 2), np.int32), np.zeros(0))
    found = Levels(n_clusters, part_clusters, np.zeros(len(owners), np.int64), directions, unjoined)
    parts: NDArray[np.intp] = found.find_parts(X, clusters).astype(np.intp)
    part_sizes = np.bincount(parts, minlength=found.n_parts)
    used = np.flatnonzero(part_sizes)  # a part that is nobody's closest is none
    part_clusters, part_sizes, directions = part_clusters[used], part_sizes[used], directions[used]
    parts = np.searchsorted(used, parts)
    if graph is None:
        drawn = draw_rows(n_samples, _DRAWN_FOR_GRAPH, seed)
        graph, parts = _graph_of(X, drawn, device, progress), parts[drawn]
    between = contract(local_weights(graph), parts, len(used))
    tree = _join(between, part_clusters, directions * part_sizes[:, None])
    return Levels(n_clusters, part_clusters, part_sizes, directions, tree)


def _graph_of(X: RowMatrix, rows: NDArray[np.int64], device: str, progress: Progress) -> NeighborGraph:
    """Return the graph of some rows: which parts touch can be told from these."""
    block = X if len(rows) == X.shape[0] else np.asarray(X[rows])
    n_neighbors = max(1, min(N_NEIGHBORS, len(rows) - 1))
    return knn_graph(block, n_neighbors=n_neighbors, zero_rows="isolate", device=device, progress=progress)


def _cut(
    X: RowMatrix, rows: NDArray[np.int64], n_parts: int, random: np.random.RandomState
) -> NDArray[np.float32]:
    """Return the mean directions (m, D) of at most so many parts of some rows."""
    most = _DRAWN_PER_PART * n_parts
    if len(rows) > most:
        rows = np.sort(random.choice(rows, most, replace=False))
    block = np.asarray(X[rows], dtype=np.float32)
    if n_parts == 1:
        units = UnitRows(block, torch.device("cpu")).read(0, len(rows)).numpy()
        total: NDArray[np.float64] = units.sum(axis=0, dtype=np.float64)
        return (total / max(np.linalg.norm(total), np.finfo(np.float64).tiny)).astype(np.float32)[None]
    fitted = SphericalKMeans(
        n_parts,
        n_init=1,
        max_iter=_PART_ITERATIONS,
        temperature=1.0,  # nobody asks for probabilities
        random_state=random.randint(2**31),
        device="cpu",
    ).fit(block)
    return np.asarray(fitted.cluster_centers_, dtype=np.float32)


def _join(
    weights: sparse.csr_matrix, part_clusters: NDArray[np.int32], directions: NDArray[np.floating]
) -> MergeTree:
    """Return the tree of parts: those of each cluster join first, the most similar of all, then clusters."""
    n_parts = len(part_clusters)
    live, which = np.unique(part_clusters, return_inverse=True)
    unions: list[tuple[float, int, int, int]] = []  # similarity, cluster, and the two nodes of its own tree
    own_parts = []
    for place in range(len(live)):
        own = np.flatnonzero(which == place)
        own_parts.append(own)
        tree = join_clusters(weights[own][:, own], directions[own])
        for similarity, (a, b) in zip(tree.similarities.tolist(), tree.merges.tolist(), strict=True):
            unions.append((similarity, place, a, b))
    unions.sort(key=lambda union: -union[0])  # stable: those of one cluster stay in their order
    nodes = [own.tolist() for own in own_parts]  # the node of the whole tree for each of the cluster's own
    merges, similarities = [], []
    for similarity, place, a, b in unions:
        merges.append((nodes[place][a], nodes[place][b]))
        similarities.append(similarity)
        nodes[place].append(n_parts + len(merges) - 1)
    sums = np.stack([directions[own].sum(axis=0) for own in own_parts])
    tree = join_clusters(contract(weights, which, len(live)), sums)
    whole = [own[-1] for own in nodes]
    for similarity, (a, b) in zip(tree.similarities.tolist(), tree.merges.tolist(), strict=True):
        whole.append(n_parts + len(merges))
        merges.append((whole[a], whole[b]))
        similarities.append(similarity)
    return MergeTree(np.array(merges, dtype=np.int32).reshape(-1, 2), np.array(similarities))


def _predicted(model: Clusterer, X: RowMatrix) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    n_rows, width = int(X.shape[0]), int(X.shape[1])
    size = max(1, _BLOCK_VALUES // max(width, int(model.n_clusters_)))
    for start in range(0, n_rows, size):
        rows = slice(start, min(n_rows, start + size))
        yield rows, model.predict_proba(X[rows])
