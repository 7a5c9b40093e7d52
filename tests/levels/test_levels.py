"""Claims about the tree of groups around those of a fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kinfold.errors import InputError
from kinfold.levels import Levels, build_levels
from kinfold.methods import SphericalKMeans, predict_top
from kinfold.neighbors import knn_graph

K = 6


@pytest.fixture(scope="module")
def digits():
    return load_digits().data[:900].astype(np.float32)


@pytest.fixture(scope="module")
def model(digits):
    return SphericalKMeans(K, n_init=1, random_state=0).fit(digits)


@pytest.fixture(scope="module")
def levels(digits, model) -> Levels:
    return build_levels(digits, model.labels_, K, knn_graph(digits, n_neighbors=10), seed=0)


def test_the_groups_of_the_fit_are_a_level(digits, model, levels):
    parts = levels.find_parts(digits, model.labels_)
    assert np.array_equal(levels.groups(K)[parts], model.labels_)
    assert np.array_equal(np.bincount(parts, minlength=levels.n_parts), levels.part_sizes)


def test_the_groups_of_every_level_lie_within_those_of_the_next_coarser_one(levels):
    for k in range(1, levels.n_parts):
        coarse, fine = levels.groups(k), levels.groups(k + 1)
        assert len(np.unique(coarse)) == k
        assert len({(a, b) for a, b in zip(fine, coarse, strict=True)}) == k + 1


def test_finer_levels_keep_numbers_and_add_one_each(levels):
    for k in range(K, levels.n_parts):
        before, after = levels.groups(k), levels.groups(k + 1)
        changed = after[before != after]
        assert set(after) == set(range(k + 1))
        assert set(changed) == {k}
        # The larger part keeps the number.
        divided = before[before != after][0]
        assert levels.part_sizes[after == divided].sum() >= levels.part_sizes[after == k].sum()


def test_rows_get_their_groups_at_every_level(digits, model, levels):
    parts = levels.find_parts(digits, model.labels_)
    for k in (1, 3, K, 9, levels.n_parts):
        top = levels.top(model, digits, k, n_top=3)
        assert np.array_equal(top.clusters[:, 0], levels.groups(k)[parts])
        # One row alone goes where it goes among others.
        alone = levels.top(model, digits[7:8], k, n_top=3)
        assert np.array_equal(alone.clusters[0], top.clusters[7])


def test_probabilities_of_a_coarser_level_are_sums(digits, model, levels):
    groups = levels.groups(2)
    of_cluster = dict(zip(levels.part_clusters.tolist(), groups.tolist(), strict=True))
    expected = np.zeros((len(digits), 2))
    for cluster, share in enumerate(model.predict_proba(digits).T):
        expected[:, of_cluster[cluster]] += share
    top = levels.top(model, digits, 2)
    np.testing.assert_allclose(
        np.take_along_axis(expected, top.clusters.astype(np.int64), axis=1), top.probabilities, rtol=1e-5
    )


def test_the_level_of_the_fit_has_its_probabilities(digits, model, levels):
    expected = predict_top(model, digits, n_top=K)
    found = levels.top(model, digits, K, n_top=K)
    assert np.array_equal(found.clusters, expected.clusters)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-6)


def test_the_same_seed_gives_the_same_levels_with_or_without_a_graph(digits, model, levels):
    again = build_levels(digits, model.labels_, K, seed=0)
    assert np.array_equal(again.centers, levels.centers)
    assert np.array_equal(again.tree.merges, levels.tree.merges)


def test_empty_clusters_keep_their_numbers(digits):
    labels = (np.arange(len(digits)) % 2) * 3  # clusters 0 and 3 of five
    levels = build_levels(digits, labels, 5, seed=0)
    assert (levels.n_live, levels.count(5), levels.count(2)) == (2, 5, 5)
    assert set(levels.groups(5)) == set(levels.groups(2)) == {0, 3}
    assert set(levels.groups(3)) == {0, 3, 5}
    assert set(levels.groups(1)) == {0}


@pytest.mark.parametrize("n_samples", [1, 2, 4])
def test_few_samples_have_levels_too(n_samples):
    X = np.random.default_rng(0).normal(size=(n_samples, 5)).astype(np.float32)
    levels = build_levels(X, np.arange(n_samples), n_samples, seed=0)
    levels.check_whole()
    assert [len(np.unique(levels.groups(k))) for k in range(1, n_samples + 1)] == list(
        range(1, n_samples + 1)
    )


def test_zero_and_equal_rows_are_no_error():
    X = np.zeros((60, 4), dtype=np.float32)
    X[30:] = 1
    levels = build_levels(X, np.repeat([0, 1], 30), 2, seed=0)
    levels.check_whole()
    assert levels.groups(1).tolist() == [0] * levels.n_parts


@pytest.mark.parametrize("k", [0, 10_000])
def test_a_level_that_there_is_not_is_refused(levels, k):
    with pytest.raises(InputError, match="levels of 1 to"):
        levels.groups(k)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_clusters": 3},
        {"part_sizes": np.ones(3)},
        {"centers": np.ones((2, 4))},
        {"part_clusters": "reversed"},
    ],
    ids=str,
)
def test_arrays_that_do_not_fit_are_told(levels, changes):
    values = {name: getattr(levels, name) for name in ("part_clusters", "part_sizes", "centers", "tree")}
    values |= {"n_clusters": K} | changes
    if isinstance(values["part_clusters"], str):
        values["part_clusters"] = levels.part_clusters[::-1].copy()
    with pytest.raises(ValueError, match="don't fit"):
        Levels(**values).check_whole()
