"""Claims about how many groups there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs

from kinfold.errors import InputError
from kinfold.levels import estimate_levels
from kinfold.methods import GraphClustering, SphericalKMeans
from kinfold.methods._number import numbers_between


@pytest.fixture(scope="module")
def blobs():
    X, y = make_blobs(500, centers=6, n_features=24, cluster_std=1.0, random_state=4)
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def found(blobs):
    return estimate_levels(blobs[0], random_state=0)


def test_groups_that_lie_apart_are_counted(found):
    assert found.recommended == found.chosen == 6
    assert found.candidates[0] == 6
    assert "lie apart" in found.reason


def test_kinds_of_digits_are_counted_to_within_one():
    digits = load_digits()
    some = np.isin(digits.target, (0, 4, 6))
    assert abs(estimate_levels(digits.data[some].astype(np.float32)).recommended - 3) <= 1


def test_the_curve_has_a_value_for_every_number(found):
    curves = (found.separation, found.stability, found.null_separation)
    assert all(len(curve) == len(found.n_groups) for curve in curves)
    assert found.n_groups[:3] == (2, 3, 4)
    assert list(found.n_groups) == sorted(set(found.n_groups))


@pytest.mark.parametrize(
    "X",
    [
        np.random.default_rng(0).normal(size=(400, 16)),
        np.random.default_rng(1).normal(size=(400, 3)),
        1 + 1e-3 * np.random.default_rng(2).normal(size=(300, 16)),
        np.random.default_rng(3).normal(size=(400, 16)) * np.geomspace(1, 0.01, 16),
    ],
    ids=["gaussian", "on-a-sphere", "near-duplicates", "elongated"],
)
def test_no_number_is_said_where_there_are_no_groups(X):
    found = estimate_levels(X.astype(np.float32))
    assert found.recommended is None
    assert "no number is clear" in found.reason
    assert found.chosen in found.n_groups


def test_the_same_seed_gives_the_same_estimate(blobs, found):
    assert estimate_levels(blobs[0], random_state=0) == found


def test_a_range_bounds_the_number(blobs):
    found = estimate_levels(blobs[0], least=8, most=12)
    assert set(found.n_groups) == set(range(8, 13))
    assert 8 <= found.chosen <= 12


@pytest.mark.parametrize("n_samples", [1, 2, 7, 49])
def test_of_few_images_no_number_is_said(n_samples):
    found = estimate_levels(np.random.default_rng(0).normal(size=(n_samples, 8)).astype(np.float32))
    assert found.recommended is None
    assert 1 <= found.chosen <= n_samples
    assert "too few" in found.reason


def test_equal_and_zero_rows_are_no_error():
    assert estimate_levels(np.ones((80, 8), dtype=np.float32)).recommended is None
    assert estimate_levels(np.zeros((80, 8), dtype=np.float32)).recommended is None


def test_no_more_groups_are_counted_than_images_differ():
    same = estimate_levels(np.full((80, 8), 0.3, dtype=np.float32))
    assert (same.chosen, same.recommended) == (1, None)
    assert "look the same" in same.reason
    two = np.repeat(np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32), 60, axis=0)
    assert estimate_levels(two).chosen == 2
    asked = estimate_levels(two, least=5, most=50)
    assert (asked.chosen, asked.recommended) == (5, None)
    assert "only 2 different images" in asked.reason


def test_a_range_that_cannot_be_judged_is_said(blobs):
    found = estimate_levels(blobs[0], least=200, most=300)
    assert (found.chosen, found.recommended) == (200, None)
    assert "2 to 44 groups, not 200 to 300" in found.reason
    assert "not 1;" in estimate_levels(blobs[0], least=1, most=1).reason


@pytest.mark.parametrize(("least", "most"), [(5, 3), (0, 4)])
def test_an_impossible_range_is_refused(least, most):
    with pytest.raises(InputError, match="range"):
        estimate_levels(np.ones((80, 8)), least=least, most=most)


def test_numbers_are_dense_at_first_and_log_spaced_then():
    numbers = numbers_between(2, None, 300)
    assert numbers[:29] == list(range(2, 31))
    assert numbers[-1] == 300
    assert max(b / a for a, b in itertools.pairwise(numbers[30:])) < 1.2
    assert numbers_between(40, 35, 300) == []
    assert numbers_between(100, 110, 300) == list(range(100, 111))
    assert numbers_between(100, 100, 300) == [100]
    assert len(numbers_between(100, 300, 300)) == 25


@pytest.mark.parametrize("method", [SphericalKMeans, GraphClustering])
def test_an_estimator_finds_its_number_itself(blobs, method):
    X, _ = blobs
    model = method(n_clusters="auto", random_state=0).fit(X)
    assert model.n_clusters_ == model.level_estimate_.chosen == 6
    assert model.predict_proba(X[:4]).shape == (4, 6)
    assert model.get_params()["n_clusters"] == "auto"
