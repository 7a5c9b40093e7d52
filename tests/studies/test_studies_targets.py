"""Claims about what is said of a teacher's targets, against plain scaling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinfold.neighbors import knn_graph
from studies.targets import clusters_of_classes, draw_batches, judge_targets

RNG = np.random.default_rng(0)


def scaled(q, rounds=3):
    for _ in range(rounds):
        q = q / q.sum(axis=0)
        q = q / q.sum(axis=1, keepdims=True)
    return q


@pytest.mark.parametrize("balanced", [False, True, "joint"])
def test_figures_are_those_of_targets_that_were_scaled_by_turns(balanced):
    logits, expected = RNG.normal(size=(40, 5)), RNG.integers(0, 5, 40)
    batches = [RNG.integers(0, 40, (2, 16)) for _ in range(3)]
    found = judge_targets(
        torch.from_numpy(logits), expected, iter(batches), temperature=0.5, balanced=balanced
    )
    rows, targets = np.concatenate([batch.ravel() for batch in batches]), []
    for batch in batches:
        q = np.exp(logits[batch] / 0.5)
        if balanced == "joint":
            targets.append(scaled(q.reshape(32, 5)))
        else:
            views = [scaled(view) if balanced else view / view.sum(axis=1, keepdims=True) for view in q]
            targets.append(np.concatenate(views))
    targets = np.concatenate(targets)
    assert found.right == np.mean(targets.argmax(axis=1) == expected[rows])
    assert found.changed == np.mean(targets.argmax(axis=1) != logits[rows].argmax(axis=1))
    assert found.highest == pytest.approx(targets.max(axis=1).mean())
    assert found.of_class == pytest.approx(targets[np.arange(len(rows)), expected[rows]].mean())


def test_every_class_has_the_cluster_that_most_of_it_is_in():
    order = RNG.permutation(6)
    classes = RNG.integers(0, 6, 500)
    clusters = np.where(RNG.random(500) < 0.3, RNG.integers(0, 6, 500), order[classes])
    np.testing.assert_array_equal(clusters_of_classes(clusters, classes), order)


def test_batches_are_samples_without_repetition_and_their_neighbours():
    graph = knn_graph(RNG.normal(size=(50, 4)).astype(np.float32), 6)
    batch = next(draw_batches(graph, 20, seed=1))
    assert len(set(batch[0])) == 20
    assert all(other in graph.neighbors(sample) for sample, other in batch.T)
    assert next(draw_batches(graph, 1000, seed=1)).shape == (2, 50)
