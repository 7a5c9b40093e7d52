"""Rows on which a grouping has no good answer, or hardly one: every method ends, in something sensible."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from kinfold import ICCE, SCAN, TEMI, TURTLE, SphericalKMeans

HEADS = {"n_heads": 2, "n_epochs": 2}
EVERYTHING = {"cross_entropy_weight": 1.0, "smoothing_neighbors": 3, "sinkhorn": True, "batch_norm": True}
MADE = {
    "kmeans": (SphericalKMeans, {}),
    "turtle": (TURTLE, {"n_steps": 10}),
    "temi": (TEMI, HEADS),
    "scan": (SCAN, HEADS),
    "icce": (ICCE, {**HEADS, "self_training_iterations": 60}),
    "icce with everything": (ICCE, {**HEADS, **EVERYTHING, "self_training_iterations": 60}),
}

RANDOM = np.random.default_rng(0)


def rows(n, dim=6):
    return RANDOM.normal(size=(n, dim)).astype(np.float32)


def with_constant_columns(n):
    X = rows(n)
    X[:, 2], X[:, 4] = 0.1, 1e6
    return X


HARD = {
    "all equal": (np.full((60, 6), 3, np.float32), 3),
    "two far points, repeated": (np.repeat(np.array([[100.0] * 6, [-100.0] * 6]), 30, axis=0), 4),
    "90 % duplicates": (np.concatenate([np.repeat(rows(1), 180, axis=0), rows(20)]), 3),
    "200 clusters of 240": (rows(240), 200),
    "1000 to 1": (np.concatenate([0.1 * rows(1000) + 5 * np.eye(6)[0], 5 * np.eye(6)[1:2]]), 2),
    "one cluster": (rows(50), 1),
    "as many clusters as rows": (rows(12), 12),
    "one row": (rows(1), 1),
    "two rows": (rows(2), 2),
    "zero rows among others": (np.concatenate([np.zeros((5, 6)), rows(40)]), 3),
    "only zero rows": (np.zeros((20, 6)), 2),
    "constant columns": (with_constant_columns(60), 3),
    "one column": (rows(60, 1), 3),
    "float16": (rows(60).astype(np.float16), 3),
    "float16 near its end": ((2e4 * rows(60)).clip(-6e4, 6e4).astype(np.float16), 3),
    "uint8": (RANDOM.integers(0, 256, (60, 6)).astype(np.uint8), 3),
    "one huge row": (np.concatenate([rows(60), np.full((1, 6), 1e30)]), 3),
    "huge": (1e30 * rows(60).astype(np.float64), 3),
    "tiny": (1e-30 * rows(60).astype(np.float64), 3),
}


@pytest.mark.parametrize("method_name", MADE)
def test_read_only_rows_are_taken_without_warning(method_name):
    X = rows(60)
    X.flags.writeable = False
    method, options = MADE[method_name]
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConvergenceWarning)
            method(n_clusters=3, random_state=0, **options).fit(X).predict_proba(X)
    finally:
        torch.set_warn_always(False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("rows_name", HARD)
@pytest.mark.parametrize("method_name", MADE)
def test_hard_rows_end_in_finite_probabilities_without_stray_warnings(method_name, rows_name):
    (X, n_clusters), (method, options) = HARD[rows_name], MADE[method_name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = method(n_clusters=n_clusters, random_state=0, **options).fit(X)
        probabilities = model.predict_proba(X)
        elsewhere = model.predict_proba(np.ones((3, X.shape[1])))
    assert np.isfinite(probabilities).all()
    assert np.isfinite(elsewhere).all()
    np.testing.assert_array_equal(model.labels_, probabilities.argmax(axis=1))
    if rows_name == "two far points, repeated":
        assert not set(model.labels_[:30]) & set(model.labels_[30:])
    if rows_name == "all equal":
        assert len(set(model.labels_)) == 1
