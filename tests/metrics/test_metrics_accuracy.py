from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from kinfold.errors import InputError
from kinfold.metrics import clustering_accuracy, match_clusters


def naive_accuracy(y_true, y_pred):
    classes, clusters = sorted(set(y_true)), sorted(set(y_pred))
    classes += ["nobody"] * max(0, len(clusters) - len(classes))
    return max(
        np.mean(
            [dict(zip(clusters, chosen, strict=True))[p] == t for t, p in zip(y_true, y_pred, strict=True)]
        )
        for chosen in permutations(classes, len(clusters))
    )


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(4, 4), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_accuracy_is_the_best_of_all_permutations(n_classes, n_clusters):
    rng = np.random.default_rng(n_classes * 10 + n_clusters)
    for _ in range(10):
        y_true = [int(c) for c in rng.integers(0, n_classes, 40)]
        y_pred = [int(c) for c in rng.integers(0, n_clusters, 40)]
        assert clustering_accuracy(y_true, y_pred) == pytest.approx(naive_accuracy(y_true, y_pred))


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(60, 60), (80, 50), (50, 80)])
def test_accuracy_agrees_with_the_dense_assignment_of_scipy(n_classes, n_clusters):
    rng = np.random.default_rng(1)
    y_true = rng.integers(0, n_classes, 2000)
    y_pred = np.where(rng.random(2000) < 0.5, (y_true * 7) % n_clusters, rng.integers(0, n_clusters, 2000))
    counts = np.zeros((n_classes, n_clusters), int)
    np.add.at(counts, (y_true, y_pred), 1)
    best = counts[linear_sum_assignment(counts, maximize=True)].sum() / 2000
    assert clustering_accuracy(y_true, y_pred) == pytest.approx(best, abs=1e-12)


def test_renaming_clusters_changes_nothing():
    rng = np.random.default_rng(2)
    y_true, y_pred = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    names = np.array(["f", "a", "c", "b", "e", "d"])
    assert clustering_accuracy(y_true, y_pred) == clustering_accuracy(y_true, names[y_pred])


def test_leftover_clusters_count_as_wrong_unless_the_majority_is_asked_for():
    y_true, y_pred = [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2, 1]
    assert clustering_accuracy(y_true, y_pred) == pytest.approx(4 / 7)
    assert clustering_accuracy(y_true, y_pred, majority=True) == pytest.approx(6 / 7)


def test_majority_keeps_the_one_to_one_map_of_matched_clusters():
    y_true = ["a"] * 5 + ["b"] * 4 + ["a"] * 3
    y_pred = [0] * 5 + [1] * 4 + [2] * 3
    match = match_clusters(y_true, y_pred, majority=True)
    assert match.mapping == {0: "a", 1: "b", 2: "a"}
    assert match.leftover == ()


def test_match_names_leftover_clusters_and_classes_per_cluster():
    match = match_clusters(["x", "x", "y", "y", "y"], [5, 5, 2, 2, 9])
    assert match.mapping == {5: "x", 2: "y"}
    assert match.leftover == (9,)
    assert (match.n_correct, match.n_samples, match.accuracy) == (4, 5, 0.8)


def test_fewer_clusters_than_classes_leave_classes_without_a_cluster():
    match = match_clusters([0, 1, 2, 2], [7, 7, 7, 7])
    assert match.mapping == {7: 2}
    assert match.accuracy == 0.5


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog", "cat"],
        [True, False, True],
        [1.5, 2.5, 1.5],
        [("a", 1), ("b", 2), ("a", 1)],
        [None, "x", None],
        [b"x", b"y", b"x"],
        np.array(["x", 3, "x"], dtype=object),
    ],
)
def test_labels_may_be_of_any_hashable_type(labels):
    assert clustering_accuracy(labels, [4, 8, 4]) == 1.0
    assert clustering_accuracy([4, 8, 4], labels) == 1.0


def test_a_number_and_its_spelling_are_different_labels():
    assert clustering_accuracy([1, "1", 1, "1"], [0, 1, 0, 1]) == 1.0
    assert match_clusters([1, "1"], [0, 0]).accuracy == 0.5


def test_ten_thousand_classes_and_clusters_are_matched():
    rng = np.random.default_rng(3)
    y_true = np.repeat(np.arange(10_000), 5)
    y_pred = rng.permutation(10_000)[y_true]
    y_pred[::5] = rng.integers(0, 10_000, 10_000)
    assert 0.8 <= clustering_accuracy(y_true, y_pred) < 0.81


@pytest.mark.parametrize(
    ("y_true", "y_pred", "words"),
    [
        ([0, 1], [0], "2 labels and y_pred 1"),
        ([], [], "empty"),
        ([[0, 1], [1, 0]], [0, 1], "can't be compared"),
        (np.zeros((2, 2)), [0, 1], "one-dimensional"),
        ([0.0, float("nan")], [0, 1], "NaN at position 1"),
        ([0, 1], [None, float("nan")], "NaN at position 1"),
    ],
)
def test_unusable_labels_are_refused_by_name(y_true, y_pred, words):
    with pytest.raises(InputError, match=words):
        clustering_accuracy(y_true, y_pred)


def test_inputs_are_not_changed():
    y_true, y_pred = np.array([2, 0, 1]), np.array([1, 1, 0])
    clustering_accuracy(y_true, y_pred, majority=True)
    assert y_true.tolist() == [2, 0, 1]
    assert y_pred.tolist() == [1, 1, 0]
