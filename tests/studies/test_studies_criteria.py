"""Claims about the label-free criteria, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.neighbors import NeighborGraph, knn_graph
from studies.criteria import nearest_pairs, neighbor_agreement, purity
from studies.fit import threshold_of_share

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
LABELS = RNG.integers(0, 4, 60).astype(np.int32)


def naive_agreement(labels, graph, k):
    hits = [labels[i] == labels[j] for i in range(graph.n_samples) for j in graph.neighbors(i)[:k]]
    chance = sum(np.mean(labels == label) ** 2 for label in np.unique(labels))
    return (np.mean(hits) - chance) / (1 - chance)


def test_neighbour_agreement_is_that_of_a_plain_loop():
    graph = knn_graph(X, 15)
    assert neighbor_agreement(LABELS, nearest_pairs(graph, 10)) == pytest.approx(
        naive_agreement(LABELS, graph, 10)
    )


def test_samples_with_fewer_neighbours_have_fewer_pairs():
    graph = NeighborGraph.from_lists([0, 2, 2, 3], [1, 2, 0], [0.9, 0.5, 0.5])
    samples, neighbors = nearest_pairs(graph, 1)
    assert samples.tolist() == [0, 2]
    assert neighbors.tolist() == [1, 0]


def test_labels_drawn_by_chance_agree_near_zero_and_one_cluster_exactly_zero():
    rows = RNG.normal(size=(3000, 3)).astype(np.float32)
    nearest = nearest_pairs(knn_graph(rows, 10))
    assert abs(neighbor_agreement(RNG.integers(0, 5, 3000).astype(np.int32), nearest)) < 0.02
    assert neighbor_agreement(np.zeros(3000, np.int32), nearest) == 0


def test_purity_is_the_share_of_neighbours_of_the_same_class():
    graph = knn_graph(X, 7)
    hits = [LABELS[i] == LABELS[j] for i in range(60) for j in graph.neighbors(i)]
    assert purity(LABELS, graph) == pytest.approx(np.mean(hits))


def test_the_threshold_is_exceeded_by_the_share_of_pairs_asked_for():
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(60, dtype=bool)]
    threshold = threshold_of_share(X, 0.1, seed=0)
    assert np.mean(pairs >= threshold) == pytest.approx(0.1, abs=0.005)
