"""Claims about the baselines: they are what their libraries make of unit-length rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from studies.baselines import BASELINES, UmapKMeans, Ward
from studies.data import DATA_SETS, load_data

X, TRUTH = make_blobs(120, centers=3, n_features=8, random_state=0)


def test_ward_is_that_of_unit_length_rows():
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = AgglomerativeClustering(3).fit_predict(unit)
    np.testing.assert_array_equal(Ward(3).fit(5 * X).labels_, expected)


@pytest.mark.slow  # numba compiles for ten seconds
def test_umap_finds_kinds_that_lie_apart():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    labels = UmapKMeans(3, random_state=0).fit(X).labels_
    assert labels.dtype == np.int32
    assert adjusted_rand_score(TRUTH, labels) > 0.95


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_baselines_need_no_graph_and_predict_nothing(name):
    baseline = BASELINES[name](4)
    assert not baseline.needs(100).graphs
    assert not hasattr(baseline, "predict")


@pytest.mark.parametrize("name", ["digits-unbalanced-660", "digits-very-unbalanced-450"])
def test_unbalanced_digits_fall_from_the_largest_class_to_the_smallest_as_they_say(name):
    facts = DATA_SETS[name]
    sizes = [np.sort(np.bincount(load_data(name, seed, None).train.y)) for seed in (0, 1)]
    for found in sizes:
        assert found.sum() == facts.n_samples
        assert found[-1] / found[0] == pytest.approx(facts.imbalance, rel=0.15)
    one, other = (load_data(name, seed, None).train.X for seed in (0, 1))
    assert one.shape != other.shape or (one != other).any()
