"""HGPA: every cluster of every head is a hyperedge; the hypergraph is cut into parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus._heads import Labeling
from kinfold.consensus._partition import partition_hypergraph

MAX_PINS = 100_000
MAX_PINS_BY_PARTS = 1_000_000


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
