"""CSPA: samples that share clusters in many heads are alike; the graph of that is cut into parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kinfold.consensus._heads import Labeling
from kinfold.consensus._partition import partition_graph

MAX_SAMPLES = 5_000
_MAX_EDGES = 8_000_000
_ROWS = 512


def cspa(heads: Sequence[Labeling], n_clusters: int, seed: int) -> NDArray[np.int32]:
    """Partition the co-association graph (Strehl and Ghosh 2002, section 3.2).

    The weight of two samples is the number of heads that put them together. Where that makes more edges than
    the partitioner takes in seconds, the weakest are left out. Cost is quadratic in the number of samples.
    """
    return partition_graph(thin(co_association(heads), _MAX_EDGES), n_clusters, seed)


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
