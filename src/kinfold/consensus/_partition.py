"""The one door to the graph partitioners, in settings that give the same parts for the same seed.

METIS (Karypis and Kumar 1998) through pymetis; Mt-KaHyPar (Gottesbüren et al. 2022) for hypergraphs, and for
graphs where pymetis has no package (Windows).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

IMBALANCE = 0.05


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
