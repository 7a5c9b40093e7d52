from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from kinfold import probing
from kinfold.errors import InputError
from kinfold.methods.linear import SoftmaxStack, train
from kinfold.probing import _count_votes, knn_classify, linear_probe

CPU = {"device": "cpu"}
QUICK = {"learning_rates": (1.0, 3.0), "weight_decays": (0.0, 1e-3), "n_epochs": 10, **CPU}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split((X + 1).astype(np.float32), y, test_size=500, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def probed(digits):
    X, X_test, y, y_test = digits
    return linear_probe(X, y, X_test, y_test, n_epochs=30, **CPU)


def test_the_probe_does_as_well_as_logistic_regression_at_its_best(digits, probed):
    X, X_test, y, y_test = digits
    scaler = StandardScaler().fit(X)
    best = max(
        LogisticRegression(C=c, max_iter=500)
        .fit(scaler.transform(X), y)
        .score(scaler.transform(X_test), y_test)
        for c in (0.01, 0.1, 1.0)
    )
    assert probed.accuracy > best - 0.015
    assert probed.top5_accuracy > 0.995


def test_the_setting_that_wins_is_the_best_of_the_declared_grid(probed):
    settings = [line[:2] for line in probed.table]
    assert sorted(settings) == sorted(
        (rate, decay) for rate in probing.LEARNING_RATES for decay in probing.WEIGHT_DECAYS
    )
    best = max(share for *_, share in probed.table)
    assert probed.validation_accuracy == best
    assert (probed.learning_rate, probed.weight_decay, best) in probed.table
    assert probed.n_selection + probed.n_validation == probed.n_train == 1297


def test_ties_go_to_the_smaller_decay_and_then_to_the_smaller_rate():
    X = np.repeat(np.eye(2, dtype=np.float32), 40, axis=0)
    y = np.repeat([0, 1], 40)
    found = linear_probe(X, y, X, y, **QUICK)
    assert {share for *_, share in found.table} == {1.0}
    assert (found.learning_rate, found.weight_decay) == (1.0, 0.0)


def test_the_classifier_given_back_makes_the_predictions(digits, probed):
    _, X_test, _, y_test = digits
    logits = (X_test - probed.mean) / probed.scale @ probed.weight.T + probed.bias
    assert (probed.classes[logits.argmax(axis=1)] == probed.predictions).mean() > 0.998
    assert probed.accuracy == (probed.predictions == y_test).mean()


def test_test_labels_choose_nothing(digits):
    X, X_test, y, y_test = digits
    found, shuffled = (linear_probe(X, y, X_test, labels, **QUICK) for labels in (y_test, 1 - y_test))
    np.testing.assert_array_equal(found.weight, shuffled.weight)
    assert found.table == shuffled.table
    assert shuffled.accuracy < 0.3 < found.accuracy


def test_the_grid_in_small_stacks_and_from_disk_is_the_same(digits, monkeypatch, tmp_path):
    X, X_test, y, y_test = digits
    whole = linear_probe(X, y, X_test, y_test, **QUICK)
    monkeypatch.setattr(probing, "_STACK_BYTES", 1)
    monkeypatch.setattr(probing, "_READ_BYTES", 5000)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    parts = linear_probe(mapped, y, X_test, y_test, **QUICK)
    assert [line[:2] for line in parts.table] == [line[:2] for line in whole.table]
    np.testing.assert_allclose(
        [line[2] for line in parts.table], [line[2] for line in whole.table], atol=0.01
    )
    assert abs(parts.accuracy - whole.accuracy) < 0.01


def test_many_rows_are_selected_on_a_part_and_trained_on_all(digits):
    X, X_test, y, y_test = digits
    found = linear_probe(X, y, X_test, y_test, max_selection_rows=300, **QUICK)
    assert (found.n_selection + found.n_validation, found.n_train) == (300, 1297)
    assert found.accuracy > 0.9


def test_labels_may_be_texts_and_a_class_without_training_rows_is_never_right():
    X = np.repeat(np.eye(3, dtype=np.float32), 30, axis=0)
    y = np.repeat(["cat", "dog", "zebra"], 30)
    y_test = np.where(y == "zebra", "ant", y)
    found = linear_probe(X, y, X, y_test, **QUICK)
    assert (found.accuracy, found.n_classes) == (pytest.approx(2 / 3), 3)
    assert set(found.predictions) == {"cat", "dog", "zebra"}
    near = knn_classify(X, y, X, y_test, n_neighbors=3, **CPU)
    assert (near.accuracy, near.top5_accuracy) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_weight_decay_is_that_of_the_penalised_loss():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 5))
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (X[:, 0] + 0.5 * random.normal(size=60) > 0).astype(int)
    decay = 0.01

    class Rows:
        dim = 5

        def take(self, rows):
            return torch.from_numpy(X[rows.numpy()]).float()

    stack = SoftmaxStack([5], [1.0], torch.ones(1, 2, dtype=torch.bool), torch.device("cpu"), decays=[decay])
    labels = torch.from_numpy(y)
    train(stack, Rows(), labels, torch.arange(60), n_iterations=3000, batch_size=60, seed=0)
    # Weights v for rows of squared length 1 are √D times those of standardised columns: ½ decay ‖v‖².
    model = LogisticRegression(C=2 / (60 * decay * 5), tol=1e-10, max_iter=10_000).fit(X, y)
    weight = stack.classifier(0, 0)[0]
    np.testing.assert_allclose(weight[1] - weight[0], model.coef_[0], atol=2e-3)
    assert np.abs(weight[1] + weight[0]).max() < 1e-4


def test_what_was_measured_is_json_and_says_how_labels_were_used(digits, probed):
    X, X_test, y, y_test = digits
    near = knn_classify(X, y, X_test, y_test, **CPU)
    for found in (probed.as_dict(), near.as_dict()):
        assert json.loads(json.dumps(found)) == found | {
            name: [list(line) for line in found[name]] for name in ("table",) if name in found
        }
        assert "training labels" in found["labels_used"]
        assert {"accuracy", "top5_accuracy", "n_train", "n_test", "n_classes"} <= set(found)


def test_neighbours_vote_as_scikit_learns_do(digits):
    X, X_test, y, y_test = digits
    unit, unit_test = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, X_test))
    for temperature in (None, 0.07):
        weights = "uniform" if temperature is None else lambda d: np.exp((1 - d**2 / 2) / 0.07)
        model = KNeighborsClassifier(10, weights=weights).fit(unit, y)
        found = knn_classify(X, y, X_test, y_test, n_neighbors=10, temperature=temperature, **CPU)
        assert (found.predictions == model.predict(unit_test)).mean() > 0.995
        assert found.accuracy == pytest.approx(model.score(unit_test, y_test), abs=0.005)
        assert found.top5_accuracy >= found.accuracy


def test_votes_are_counted_and_ties_go_to_the_first_class(monkeypatch):
    monkeypatch.setattr("kinfold.probing._CELLS", 4)
    codes = np.array([[2, 1, 2], [1, 0, 0], [0, 1, 2]])
    best = _count_votes(codes, np.array([[1.0, 3, 1], [1, 1, 1], [1, 1, 1]]), 4)
    assert best.tolist() == [[1, 2, -2, -2, -2], [0, 1, -2, -2, -2], [0, 1, 2, -2, -2]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": [0, 1]}, "y has the shape"),
        ({"y": [0.5] * 4}, "integers or strings"),
        ({"y": list("abab")}, "of one type"),
        ({"X_test": np.eye(3)}, "4 features and X_test 3|y_test has the shape"),
        ({"X": np.full((4, 4), np.nan)}, "not finite"),
        ({"learning_rates": ()}, "learning_rates must be a list of 1 or more"),
        ({"learning_rates": (-1.0,)}, "a number above 0"),
        ({"weight_decays": (-1.0,)}, "a number of at least 0"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_selection_rows": True}, "max_selection_rows"),
    ],
)
def test_what_a_probe_can_not_use_is_refused(change, words):
    given = {"X": np.eye(4), "y": [0, 1, 0, 1], "X_test": np.eye(4), "y_test": [0, 1, 0, 1], **CPU}
    with pytest.raises(InputError, match=words):
        linear_probe(**{**given, **change})


def test_what_neighbours_can_not_use_is_refused():
    X, y = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(InputError, match="temperature"):
        knn_classify(X, y, X, y, temperature=0, **CPU)
    with pytest.raises(InputError, match="zero or not finite"):
        knn_classify(np.zeros((4, 4)), y, X, y, **CPU)
    with pytest.raises(InputError, match="one training row alone"):
        linear_probe(X[:1], [0], X, y, **CPU)


def test_two_rows_and_one_class_are_enough():
    X = np.eye(2, dtype=np.float32)
    assert linear_probe(X, [5, 5], X, [5, 6], **QUICK).accuracy == 0.5
    assert knn_classify(X, [5, 5], X, [5, 6], **CPU).accuracy == 0.5
