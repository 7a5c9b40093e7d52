"""What can be said of labels without knowing the classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus import mean_nmi
from kinfold.methods._self_training import cross_validated_agreement
from kinfold.neighbors import NeighborGraph

N_NEAREST = 10

Nearest = tuple[NDArray[np.int64], NDArray[np.int32]]


def nearest_pairs(graph: NeighborGraph, n_nearest: int = N_NEAREST) -> Nearest:
    """Return samples and their most similar neighbours as pairs; a sample with fewer has fewer pairs."""
    degrees = np.minimum(graph.degrees, n_nearest)
    samples = np.repeat(np.arange(graph.n_samples), degrees)
    places = np.arange(len(samples)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    return samples, graph.indices[graph.indptr[samples] + places]


def neighbor_agreement(labels: NDArray[np.integer], nearest: Nearest) -> float:
    """Return how often neighbours share a label, 0 as by chance and 1 for always.

    Chance is that two random samples share one. A labeling without any second cluster scores 0.
    """
    samples, neighbors = nearest
    shares = np.bincount(labels) / len(labels)
    chance = float(np.square(shares).sum())
    if chance >= 1 or not len(samples):
        return 0.0
    return (float(np.mean(labels[samples] == labels[neighbors])) - chance) / (1 - chance)


def purity(classes: NDArray[np.integer], graph: NeighborGraph) -> float | None:
    """Return the share of all neighbours that are of their sample's class; reads the classes."""
    if not graph.n_edges:
        return None
    same = 0
    step = 1 << 12
    for start in range(0, graph.n_samples, step):
        stop = min(start + step, graph.n_samples)
        own = np.repeat(classes[start:stop], graph.degrees[start:stop])
        same += int(np.count_nonzero(classes[graph.indices[graph.indptr[start] : graph.indptr[stop]]] == own))
    return same / graph.n_edges


def describe_labels(
    labels: NDArray[np.int32],
    n_clusters: int,
    *,
    X: NDArray[np.float32],
    nearest: Nearest,
    heads: NDArray[np.int32] | None,
    seed: int,
) -> Mapping[str, Any]:
    """Return the label-free criteria of one labeling."""
    found = {
        "live": int(np.count_nonzero(np.bincount(labels, minlength=n_clusters))),
        "largest": float(np.bincount(labels).max() / len(labels)),
        "neighbors": neighbor_agreement(labels, nearest),
        "cross_validated": cross_validated_agreement(X, labels, n_clusters, seed=seed),
    }
    if heads is not None:
        found["mean_nmi"] = mean_nmi(heads, labels)
    return found
