"""Claims about calibration: one temperature, found without labels, that changes no label."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.datasets import load_digits, make_blobs

from kinfold import SphericalKMeans
from kinfold.methods import METHODS, load_model, save_model
from kinfold.methods._calibration import (
    calibrate,
    estimate_accuracy,
    fit_temperature,
    near_pairs,
    temper,
)
from kinfold.metrics import clustering_accuracy, expected_calibration_error, match_clusters

HEADS = {"n_heads": 2, "n_epochs": 6, "batch_size": 64}
QUICK = {
    "icce": {**HEADS, "self_training_iterations": 60},
    "kmeans": {},
    "scan": HEADS,
    "tac": {"noun_features": np.random.default_rng(1).normal(size=(30, 8)), "n_epochs": 6},
    "temi": HEADS,
    "turtle": {"n_steps": 20, "batch_size": 64},
}


def made_logits(n_rows, n_clusters, *, scale=3.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(n_rows, n_clusters))


def overlapping(n_samples=240, seed=0):
    return make_blobs(n_samples, centers=4, n_features=8, cluster_std=4.0, random_state=seed)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 3.0, 40.0])
def test_probabilities_are_those_of_logits_divided_by_the_temperature(temperature):
    logits = made_logits(200, 7)
    expected = softmax(logits / temperature, axis=1)
    np.testing.assert_allclose(temper(softmax(logits, axis=1), temperature), expected, atol=1e-6)


def test_temperature_one_leaves_every_bit():
    probabilities = softmax(made_logits(50, 5), axis=1).astype(np.float32)
    np.testing.assert_array_equal(temper(probabilities, 1.0), probabilities)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 7.0, 100.0])
def test_the_most_probable_cluster_stays_so_where_rounding_makes_two_equal(temperature):
    random = np.random.default_rng(0)
    probabilities = softmax(made_logits(2000, 6), axis=1).astype(np.float32)
    best = probabilities.argmax(axis=1)
    near = (best + random.integers(1, 6, size=2000)) % 6
    # One unit in the last place behind: at a high temperature both round to the same number.
    probabilities[np.arange(2000), near] = np.nextafter(probabilities.max(axis=1), np.float32(0))
    found = temper(probabilities, temperature)
    np.testing.assert_array_equal(found.argmax(axis=1), best)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_probability_of_zero_stays_zero():
    found = temper(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], np.float32), 5.0)
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


@pytest.mark.parametrize("wanted", [0.3, 0.55, 0.8, 0.97])
def test_the_temperature_is_the_one_of_the_wanted_mean_confidence(wanted):
    logits = made_logits(500, 8)

    def miss(log_temperature):
        confidence = softmax(logits / np.exp(log_temperature), axis=1).max(axis=1).mean()
        return (confidence - wanted) ** 2

    reference = np.exp(minimize_scalar(miss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x)
    found = fit_temperature(softmax(logits, axis=1), wanted)
    assert found == pytest.approx(reference, rel=1e-3)
    assert temper(softmax(logits, axis=1), found).max(axis=1).mean() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("times", [0.25, 2.5])
def test_a_known_temperature_is_found_again(times):
    logits = made_logits(300, 5)
    right = softmax(logits, axis=1)
    assert fit_temperature(softmax(logits * times, axis=1), right.max(axis=1).mean()) == pytest.approx(times)


def test_what_no_temperature_gives_ends_at_the_closest_one():
    probabilities = softmax(made_logits(100, 4), axis=1)
    assert fit_temperature(probabilities, 0.1) == 100  # below 1 / K
    assert fit_temperature(probabilities, 1.0) == 0.01


@pytest.mark.parametrize("shape", [(0, 5), (20, 1), (20, 4)])
def test_without_rows_or_with_one_cluster_or_with_ties_alone_nothing_changes(shape):
    assert fit_temperature(np.full(shape, 1 / shape[1]), 0.9) == 1.0


def test_the_accuracy_is_estimated_by_the_squared_share_of_agreeing_pairs():
    random = np.random.default_rng(0)
    labels, owners, others = (random.integers(0, 3, 50), *random.integers(0, 50, size=(2, 200)))
    agreeing = sum(labels[one] == labels[other] for one, other in zip(owners, others, strict=True))
    assert estimate_accuracy(labels, owners, others) == pytest.approx(((agreeing + 1) / 202) ** 2)
    assert 0.9 < estimate_accuracy(np.zeros(50, int), owners, others) < 1
    nothing = np.zeros(0, np.int64)
    assert estimate_accuracy(labels, nothing, nothing) is None


def test_near_rows_are_the_closest_twentieth_of_an_average_cluster():
    X = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    rows, owners, others = near_pairs(X, 2, device="cpu")
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -2)
    expected = np.argsort(-similarities, axis=1)[:, :3]  # 120 / 2 · 0.05
    np.testing.assert_array_equal(rows, np.arange(120))
    np.testing.assert_array_equal(owners, np.repeat(np.arange(120), 3))
    np.testing.assert_array_equal(np.sort(others.reshape(120, 3)), np.sort(expected))


def test_of_many_rows_a_bounded_draw_is_looked_at_always_the_same():
    X = np.random.default_rng(0).normal(size=(9000, 4)).astype(np.float32)
    rows, owners, others = near_pairs(X, 30, device="cpu")
    assert len(rows) == 2000
    assert len(owners) == 5 * 2000  # 3,000 rows are 100 per cluster, of which a twentieth are 5
    assert len(np.unique(np.concatenate([owners, others]))) <= 3000
    for first, again in zip((rows, owners, others), near_pairs(X, 30, device="cpu"), strict=True):
        np.testing.assert_array_equal(first, again)
    few, owners, _ = near_pairs(X, 100_000, device="cpu")  # hypothetical: as many clusters as a catalogue has
    assert (len(few), len(owners)) == (500, 500)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", QUICK)
def test_mean_confidence_is_the_estimate_and_no_label_changes(name, precision):
    X, _ = overlapping()
    model = METHODS[name](n_clusters=4, random_state=0, precision=precision, **QUICK[name]).fit(X)
    rows, owners, others = near_pairs(X, 4)
    probabilities = model.predict_proba(X)
    estimate = estimate_accuracy(model.labels_, owners, others)
    assert abs(model.temperature_ - 1) > 0.02
    assert probabilities[rows].max(axis=1).mean() == pytest.approx(estimate, abs=2e-3)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), model.labels_)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize("name", QUICK)
def test_a_saved_model_keeps_its_temperature_and_an_older_one_is_as_it_was(name, tmp_path):
    X, _ = overlapping()
    model = METHODS[name](n_clusters=4, random_state=0, **QUICK[name]).fit(X)
    save_model(model, tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(X), model.predict_proba(X))
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["config"]["temperature"] == model.temperature_
    if name == "kmeans":  # always had one
        return
    del description["config"]["temperature"]
    (tmp_path / "model.json").write_text(json.dumps(description))
    older = load_model(tmp_path)
    assert older.temperature_ == 1
    # A calibrated model is the older one at another temperature.
    calibrated = temper(older.predict_proba(X), model.temperature_)
    np.testing.assert_allclose(model.predict_proba(X), calibrated, atol=1e-6)


def test_a_given_temperature_of_k_means_is_obeyed_and_moves_no_label():
    X, _ = overlapping()
    given = SphericalKMeans(n_clusters=4, temperature=0.3, random_state=0).fit(X)
    found = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = softmax(unit @ given.cluster_centers_.T / 0.3, axis=1)
    np.testing.assert_allclose(given.predict_proba(X), expected, atol=1e-5)
    assert given.temperature_ == 0.3
    np.testing.assert_array_equal(given.labels_, found.labels_)


def test_k_means_on_digits_is_right_about_as_often_as_it_says():
    X, y = load_digits(return_X_y=True)
    model = SphericalKMeans(n_clusters=10, random_state=0).fit(X)
    classes = match_clusters(y, model.labels_).mapping
    right = np.array([classes.get(label) == truth for label, truth in zip(model.labels_, y, strict=True)])

    def error(temperature):
        model.temperature_ = temperature
        return expected_calibration_error(model.predict_proba(X).max(axis=1), right)

    fitted = model.temperature_
    assert error(0.1) > 0.4  # as it was: a confidence of 0.37 where 0.80 are right
    assert error(fitted) < 0.1


def test_better_clusterings_are_expected_to_be_better():
    # Overlapping kinds, and kinds apart: the estimate, which sees no classes, follows the accuracy.
    found = []
    for spread in (1.0, 3.0, 6.0):
        X, y = make_blobs(600, centers=5, n_features=10, cluster_std=spread, random_state=3)
        labels = SphericalKMeans(n_clusters=5, random_state=0).fit(X).labels_
        estimate = estimate_accuracy(labels, *near_pairs(X, 5)[1:])
        found.append((clustering_accuracy(y, labels), estimate))
    assert sorted(found, reverse=True) == found
    assert sorted((estimate for _, estimate in found), reverse=True) == [estimate for _, estimate in found]


@pytest.mark.parametrize(
    ("X", "n_clusters"),
    [
        (np.eye(3)[:1], 1),
        (np.eye(3)[:2], 2),
        (np.eye(3)[:2], 1),
        (np.ones((20, 3)), 4),  # all alike: three clusters are dead
        (np.zeros((20, 3)), 2),  # no row has a direction
        (np.eye(12), 12),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_where_little_can_be_learned_probabilities_are_still_probabilities(X, n_clusters):
    model = SphericalKMeans(n_clusters=n_clusters, n_init=1, random_state=0).fit(X)
    assert 1e-3 <= model.temperature_ <= 10
    probabilities = model.predict_proba(X)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_dead_clusters_of_a_classifier_stay_without_probability():
    # A class without members has the bias −10,000: no temperature lifts it.
    probabilities = softmax(np.c_[made_logits(100, 3), np.full(100, -1e4)], axis=1).astype(np.float32)
    assert not temper(probabilities, fit_temperature(probabilities, 0.5))[:, 3].any()


def test_rows_without_neighbours_leave_the_method_as_it_is():
    labels = np.zeros(5, np.int32)
    assert calibrate(np.zeros((5, 3)), labels, 2, lambda rows: np.full((5, 2), 0.5), device="cpu") == 1.0
