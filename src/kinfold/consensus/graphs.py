"""Consensus by graph partitioning: CSPA, HGPA and MCLA (Strehl and Ghosh 2002).

Graphs are cut by METIS (Karypis and Kumar 1998) through pymetis; hypergraphs, and graphs where pymetis has no
package (Windows), by Mt-KaHyPar (Gottesbüren et al. 2022). Both in settings that give the same parts for the
same seed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kinfold.consensus.alignment import Ballot, vote
from kinfold.consensus.labelings import Labeling
from kinfold.metrics.contingency import Cells

IMBALANCE = 0.05  # parts may be 5 % above the even size, as Strehl and Ghosh allow METIS
MAX_SAMPLES = 5_000  # all pairs are compared: 25 million co-associations
_MAX_SAMPLE_EDGES = 8_000_000  # what METIS cuts in seconds
_ROWS = 512  # samples compared with all others at once: 10 MiB at 5,000
# Pins are memberships of samples in hyperedges. The deterministic hypergraph partitioner slows down with the
# pins, and with the pins times the parts; beyond either bound it takes longer than a few seconds.
MAX_PINS = 100_000
MAX_PINS_BY_PARTS = 1_000_000
_RESOLUTION = 100  # edge weights are whole percents of Jaccard similarity
_MAX_CLUSTER_EDGES = 40_000_000  # of the meta-graph: 12 bytes each, twice while it is built


def partition_graph(graph: sparse.csr_matrix, n_parts: int, seed: int) -> NDArray[np.int32]:
    """Cut a graph into parts of about equal size along its weakest edges.

    Parameters
    ----------
    graph : csr_matrix of int32, shape (n_nodes, n_nodes)
        Symmetric weights of 1 or more, nothing on the diagonal.
    n_parts : int
        Number of parts, 1 or more; a graph of no more nodes than that gets one part per node.
    seed : int
        0 to 2^31 − 1.

    Returns
    -------
    ndarray of int32, shape (n_nodes,)
        Part of every node, 0 to n_parts − 1.
    """
    n_nodes = graph.shape[0]
    if n_nodes <= n_parts:
        return np.arange(n_nodes, dtype=np.int32)
    if n_parts == 1 or not graph.nnz:
        return (np.arange(n_nodes) % n_parts).astype(np.int32)
    try:
        pymetis = importlib.import_module("pymetis")
    except ImportError:
        return _partition_graph_mtkahypar(graph, n_parts, seed)
    options = pymetis.Options(seed=seed, ufactor=round(1000 * IMBALANCE))
    arrays = (graph.indptr.astype(np.int32), graph.indices.astype(np.int32))
    structure: dict[str, Any] = (
        {"adjacency": pymetis.CSRAdjacency(*arrays)}
        if hasattr(pymetis, "CSRAdjacency")  # from 2025 on
        else {"xadj": arrays[0], "adjncy": arrays[1]}
    )
    weights = graph.data.astype(np.int32)
    _, parts = pymetis.part_graph(n_parts, **structure, eweights=weights, options=options, recursive=False)
    return np.asarray(parts, dtype=np.int32)


def partition_hypergraph(
    hyperedges: Sequence[NDArray[np.integer]], n_nodes: int, n_parts: int, seed: int
) -> NDArray[np.int32]:
    """Cut a hypergraph into parts of about equal size so that its hyperedges are spread over few parts each.

    Parameters
    ----------
    hyperedges : sequence of integer arrays
        Nodes of each hyperedge.
    n_nodes, n_parts, seed : int
        As in `partition_graph`. The objective is km1: over hyperedges, the number of parts touched less one.

    Returns
    -------
    ndarray of int32, shape (n_nodes,)
        Part of every node, 0 to n_parts − 1.
    """
    if n_nodes <= n_parts:
        return np.arange(n_nodes, dtype=np.int32)
    if n_parts == 1 or not len(hyperedges):
        return (np.arange(n_nodes) % n_parts).astype(np.int32)
    mtkahypar, library, context = _deterministic(seed)
    context.set_partitioning_parameters(n_parts, IMBALANCE, mtkahypar.Objective.KM1)
    hypergraph = library.create_hypergraph(context, n_nodes, len(hyperedges), list(hyperedges))
    return np.asarray(hypergraph.partition(context).get_partition(), dtype=np.int32)


def _partition_graph_mtkahypar(graph: sparse.csr_matrix, n_parts: int, seed: int) -> NDArray[np.int32]:
    upper = sparse.triu(graph, k=1).tocoo()
    edges = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))
    n_nodes = graph.shape[0]
    mtkahypar, library, context = _deterministic(seed)
    context.set_partitioning_parameters(n_parts, IMBALANCE, mtkahypar.Objective.CUT)
    parts = library.create_graph(context, n_nodes, len(edges), edges, [1] * n_nodes, upper.data.tolist())
    return np.asarray(parts.partition(context).get_partition(), dtype=np.int32)


def _deterministic(seed: int) -> tuple[Any, Any, Any]:
    """Return Mt-KaHyPar, its library object and a silent context that gives the same for any thread count."""
    from kinfold.compute import cpu_count

    mtkahypar = importlib.import_module("mtkahypar")
    library = mtkahypar.initialize(cpu_count(), False)
    context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.logging = False
    mtkahypar.set_seed(seed)
    return mtkahypar, library, context


def cspa(heads: Sequence[Labeling], n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the co-association graph (Strehl and Ghosh 2002, section 3.2).

    The weight of two samples is the number of heads that put them together. Where that makes more edges than
    the partitioner takes in seconds, the weakest are left out. Cost is quadratic in the number of samples.
    """
    return partition_graph(thin(co_association(heads), _MAX_SAMPLE_EDGES), n_clusters, seed)


def co_association(heads: Sequence[Labeling]) -> sparse.csr_matrix:
    """Return the number of heads that put two samples together (N, N), int32, without the diagonal."""
    n_samples = heads[0].n_samples
    blocks = []
    for start in range(0, n_samples, _ROWS):
        rows = slice(start, min(start + _ROWS, n_samples))
        shared = np.zeros((rows.stop - start, n_samples), dtype=np.int32)
        for head in heads:
            shared += head.codes[rows, None] == head.codes
        shared[np.arange(rows.stop - start), np.arange(start, rows.stop)] = 0
        blocks.append(sparse.csr_matrix(shared))
    return sparse.vstack(blocks, format="csr")


def thin(graph: sparse.csr_matrix, max_edges: int) -> sparse.csr_matrix:
    """Drop the lightest edges until at most ``max_edges`` are stored; the heaviest always stay.

    All edges of one weight stay or go together, so the graph stays symmetric and no order matters.
    """
    if graph.nnz <= max_edges:
        return graph
    heaviest = int(graph.data.max())
    kept_from = np.cumsum(np.bincount(graph.data, minlength=heaviest + 1)[::-1])[::-1]
    allowed = np.flatnonzero(kept_from <= max_edges)
    floor = min(int(allowed[0]) if len(allowed) else heaviest, heaviest)
    thinned = graph.copy()
    thinned.data[thinned.data < floor] = 0
    thinned.eliminate_zeros()
    return thinned


def hgpa(heads: Sequence[Labeling], n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the hypergraph of all clusters (Strehl and Ghosh 2002, section 3.3)."""
    return partition_hypergraph(clusters_of(heads), heads[0].n_samples, n_clusters, seed)


def is_feasible(heads: Sequence[Labeling], n_clusters: int) -> bool:
    """Tell whether the partitioner ends within a few seconds of one core's time."""
    pins = sum(head.n_samples for head in heads)
    return pins <= MAX_PINS and pins * n_clusters <= MAX_PINS_BY_PARTS


def clusters_of(heads: Sequence[Labeling]) -> list[NDArray[np.int64]]:
    """Return the samples of every cluster of two samples or more: a single one can't be cut."""
    hyperedges: list[NDArray[np.int64]] = []
    for head in heads:
        order = np.argsort(head.codes, kind="stable")
        members = np.split(order, np.cumsum(head.sizes)[:-1])
        hyperedges += [samples for samples in members if len(samples) > 1]
    return hyperedges


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

    def add(self, a: int, b: int, table: Cells) -> None:
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
        return thin((upper + upper.T).tocsr(), _MAX_CLUSTER_EDGES)

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
