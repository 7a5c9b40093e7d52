"""MCLA: the clusters of all heads are themselves clustered, by how much they overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kinfold.consensus._cspa import thin
from kinfold.consensus._heads import Labeling
from kinfold.consensus._partition import partition_graph
from kinfold.consensus._tables import PairTable
from kinfold.consensus._voting import Ballot, vote

_RESOLUTION = 100  # edge weights are whole percents of Jaccard similarity
_MAX_EDGES = 40_000_000


class MetaGraph:
    """The graph over the clusters of all heads, weighted by Jaccard similarity, gathered pair by pair.

    Weights are rounded to whole percents and what rounds to nothing is no edge: random overlap, which
    would make the graph dense, goes, and the partitioner gets the integers it needs.

    Parameters
    ----------
    heads : sequence of Labeling
        The heads whose clusters are the nodes, numbered one head after the other.
    """

    def __init__(self, heads: Sequence[Labeling]) -> None:
        self._heads = heads
        self._first = np.concatenate([[0], np.cumsum([head.n_clusters for head in heads])])
        self._parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]] = []

    def add(self, a: int, b: int, table: PairTable) -> None:
        """Take in the overlaps of the clusters of two heads."""
        sizes = self._heads[a].sizes[table.rows] + self._heads[b].sizes[table.columns]
        jaccard = table.counts / (sizes - table.counts)
        weights = np.rint(jaccard * _RESOLUTION).astype(np.int32)
        kept = np.flatnonzero(weights)
        rows, columns = self._first[a] + table.rows[kept], self._first[b] + table.columns[kept]
        self._parts.append((rows.astype(np.int32), columns.astype(np.int32), weights[kept]))

    def adjacency(self) -> sparse.csr_matrix:
        """Return the symmetric weights (n_clusters of all heads) squared, int32, 1 to 100."""
        n_nodes = int(self._first[-1])
        if not self._parts:
            return sparse.csr_matrix((n_nodes, n_nodes), dtype=np.int32)
        rows, columns, weights = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        upper = sparse.csr_matrix((weights, (rows, columns)), shape=(n_nodes, n_nodes))
        return thin((upper + upper.T).tocsr(), _MAX_EDGES)

    def parts_of(self, parts: NDArray[np.int32]) -> list[NDArray[np.int64]]:
        """Split an array over all nodes into one array per head."""
        return [part.astype(np.int64) for part in np.split(parts, self._first[1:-1])]


def mcla(heads: Sequence[Labeling], graph: MetaGraph, n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the meta-graph and let every sample join a meta-cluster (Strehl and Ghosh 2002, section 3.4).

    A sample's association with a meta-cluster is the share of the meta-cluster's members that it belongs to;
    the highest wins, the lower number among equals. A meta-cluster that wins no sample stays empty.
    """
    parts = partition_graph(graph.adjacency(), n_clusters, seed)
    members = np.bincount(parts, minlength=n_clusters)
    ballots = [Ballot(meta[None], 1.0 / members[meta][None]) for meta in graph.parts_of(parts)]
    return vote(heads, ballots, n_clusters)
