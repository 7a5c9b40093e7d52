"""Claims about what is said of labels and neighbours, against plain loops."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kinfold import SphericalKMeans
from kinfold.methods import assess
from kinfold.neighbors import NeighborGraph, knn_graph
from studies.criteria import judge_labels, purity
from studies.fit import threshold_of_share

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
LABELS = RNG.integers(0, 4, 60).astype(np.int32)


def test_labels_are_judged_as_if_they_were_the_estimators():
    estimator = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    graph = knn_graph(X, 12)
    found = judge_labels(estimator.labels_, estimator, X, graph, seed=3)
    assert found == assess(estimator, X, graph=graph, seed=3)
    other = judge_labels(LABELS, estimator, X, graph, seed=3)
    assert other.neighbor_agreement < found.neighbor_agreement


def test_labels_of_a_method_with_heads_are_compared_with_its_heads():
    heads = np.stack([LABELS, LABELS, LABELS])
    estimator = SimpleNamespace(n_clusters=4, head_labels_=heads, head_losses_=np.array([3.0, 1.0, 2.0]))
    found = judge_labels(LABELS, estimator, X, knn_graph(X, 12), seed=0)
    assert found.consensus_nmi == found.head_nmi == pytest.approx(1)
    assert found.best_head_loss == 1


def test_purity_is_the_share_of_neighbours_of_the_same_class():
    graph = knn_graph(X, 7)
    hits = [LABELS[i] == LABELS[j] for i in range(60) for j in graph.neighbors(i)]
    assert purity(LABELS, graph) == pytest.approx(np.mean(hits))


def test_purity_counts_rows_without_neighbours_as_nothing():
    graph = NeighborGraph.from_lists([0, 2, 2, 3], [1, 2, 0], [0.9, 0.5, 0.5])
    assert purity(np.array([1, 1, 2]), graph) == pytest.approx(1 / 3)
    assert purity(np.array([1, 1]), NeighborGraph.from_lists([0, 0, 0], [])) is None


def test_the_threshold_is_exceeded_by_the_share_of_pairs_asked_for():
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    pairs = (unit @ unit.T)[~np.eye(60, dtype=bool)]
    threshold = threshold_of_share(X, 0.1, seed=0)
    assert np.mean(pairs >= threshold) == pytest.approx(0.1, abs=0.005)
