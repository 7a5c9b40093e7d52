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
    MergeTree,
    TopClusters,
)
from kinfold.methods.protocol import Clusterer
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

_BLOCK_VALUES = 1 << 20  # of rows or probabilities at a time


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

    def describe(self, n_groups: int) -> dict[str, int] | None:
        """Return what the manifest of a run says of a level that it shows; None for that of the fit."""
        if n_groups in (self.n_clusters, self.n_live):
            return None
        return {"n_groups": int(n_groups), "n_clusters": self.count(n_groups)}

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


def _predicted(model: Clusterer, X: RowMatrix) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    n_rows, width = int(X.shape[0]), int(X.shape[1])
    size = max(1, _BLOCK_VALUES // max(width, int(model.n_clusters_)))
    for start in range(0, n_rows, size):
        rows = slice(start, min(n_rows, start + size))
        yield rows, model.predict_proba(X[rows])
