import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from kinfold import TEMI
from kinfold.errors import InputError
from kinfold.methods import plan_training
from kinfold.metrics import adjusted_rand_index, clustering_accuracy
from kinfold.neighbors import knn_graph

QUICK = {"n_heads": 2, "n_epochs": 8, "random_state": 0}


def blobs(n=240, k=3, dim=16, spread=0.3, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    return (random.normal(size=(k, dim))[truth] + spread * random.normal(size=(n, dim))).astype(
        np.float32
    ), truth


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_check_estimator_passes():
    check_estimator(TEMI(n_heads=2, n_epochs=3))


def test_clear_kinds_are_found():
    X, truth = blobs()
    model = TEMI(n_clusters=3, n_heads=2, n_epochs=60, random_state=0).fit(X)
    assert adjusted_rand_index(truth, model.labels_) > 0.95


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits_are_sorted_better_than_k_means_by_the_head_chosen_without_labels():
    digits = load_digits()
    scores = [
        clustering_accuracy(digits.target, TEMI(n_clusters=10, random_state=s).fit(digits.data).labels_)
        for s in range(3)
    ]
    assert np.mean(scores) >= 0.85


def test_the_best_head_is_the_one_with_the_lowest_last_loss():
    X, _ = blobs()
    model = TEMI(n_clusters=3, n_heads=5, n_epochs=4, random_state=0).fit(X)
    assert model.history_.shape == (4, 5)
    np.testing.assert_array_equal(model.head_losses_, model.history_[-1])
    assert model.best_head_ == int(np.argmin(model.history_[-1]))


def test_labels_are_the_arg_max_of_probabilities_of_any_part():
    X, _ = blobs(spread=1.0)
    model = TEMI(n_clusters=3, **QUICK).fit(X)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.labels_, probabilities.argmax(axis=1))
    np.testing.assert_array_equal(model.predict(X[10:20]), model.labels_[10:20])


def test_same_seed_same_labels_and_input_not_changed():
    X, _ = blobs(spread=1.0)
    before = X.copy()
    first, again = (TEMI(n_clusters=3, **QUICK).fit(X).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(X, before)


def test_a_given_graph_is_the_one_that_is_used():
    X, _ = blobs(spread=3.0)
    own = knn_graph(X, 40)
    assert np.array_equal(
        TEMI(n_clusters=3, **QUICK).fit(X, graph=own).labels_,
        TEMI(n_clusters=3, n_neighbors=40, **QUICK).fit(X).labels_,
    )
    with pytest.raises(InputError, match="the graph has 240 samples, but X has 100 rows"):
        TEMI(n_clusters=3, **QUICK).fit(X[:100], graph=own)


def test_a_memory_map_gives_the_same_result(tmp_path):
    X, _ = blobs()
    np.save(tmp_path / "x.npy", X)
    mapped = TEMI(n_clusters=3, **QUICK).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(mapped.labels_, TEMI(n_clusters=3, **QUICK).fit(X).labels_)


def test_a_resumed_fit_gives_the_same_probabilities(tmp_path, monkeypatch):
    from kinfold.heads import PairSampler

    X, _ = blobs()
    expected = TEMI(n_clusters=3, tol=0, **QUICK).fit(X).predict_proba(X)
    monkeypatch.setattr("kinfold.heads.checkpoint.SECONDS_BETWEEN", 0.0)
    whole = PairSampler.epoch
    monkeypatch.setattr(PairSampler, "epoch", lambda self, n: whole(self, n) if n != 5 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TEMI(n_clusters=3, tol=0, **QUICK).fit(X, checkpoint=tmp_path / "checkpoint")
    monkeypatch.setattr(PairSampler, "epoch", whole)
    resumed = TEMI(n_clusters=3, tol=0, **QUICK).fit(X, checkpoint=tmp_path / "checkpoint")
    np.testing.assert_array_equal(resumed.predict_proba(X), expected)


@pytest.mark.parametrize(
    "made",
    [
        np.ones((30, 4)),
        np.repeat(np.eye(4), [27, 1, 1, 1], axis=0),
        np.concatenate([np.ones((1, 4)), -np.ones((1, 4))]),
        np.concatenate([np.zeros((3, 4)), np.random.default_rng(0).normal(size=(20, 4))]),
        np.zeros((5, 4)),
        np.random.default_rng(0).normal(size=(20, 4)) * 1e30,
    ],
    ids=["all equal", "duplicates", "two far points", "zero rows", "only zero rows", "huge"],
)
def test_degenerate_input_ends_in_finite_probabilities(made):
    model = TEMI(n_clusters=2, **QUICK).fit(made)
    assert np.isfinite(model.predict_proba(made)).all()
    assert np.isfinite(model.head_losses_).all()


@pytest.mark.parametrize(("scale", "words"), [(1e200, "beyond"), (1e-200, "below")])
def test_values_that_float32_cannot_hold_are_refused(scale, words):
    with pytest.raises(InputError, match=words):
        TEMI(n_clusters=2, **QUICK).fit(np.random.default_rng(0).normal(size=(20, 4)) * scale)


def test_collapse_is_told_with_advice():
    with pytest.warns(ConvergenceWarning, match="clusters are empty"):
        TEMI(n_clusters=5, **QUICK).fit(np.ones((50, 8)))


def test_one_sample_is_one_cluster():
    assert TEMI(n_clusters=1, **QUICK).fit(np.ones((1, 3))).labels_.tolist() == [0]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_clusters": 31}, "more than n_samples=30"),
        ({"n_heads": 0}, "n_heads must be a positive"),
        ({"beta": 1.5}, "beta must be in"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"n_epochs": -1}, "n_epochs must be a positive"),
        ({"precision": "half"}, "precision 'half' is unknown"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
    ],
)
def test_impossible_parameters_are_refused(parameters, words):
    with pytest.raises(InputError, match=words):
        TEMI(**parameters).fit(np.random.default_rng(0).normal(size=(30, 4)))


def test_the_plan_keeps_steps_while_n_grows_and_never_exceeds_n():
    for n in (2, 50, 200, 1_000, 10_000, 100_000, 1_300_000):
        plan = plan_training(n, 10)
        assert plan.batch_size <= n
        assert plan.steps_per_epoch == n // plan.batch_size
        assert plan.schedule.n_epochs * plan.steps_per_epoch >= 300
        assert 0 <= plan.schedule.momentum <= 0.996
        assert plan.schedule.warmup_steps < plan.schedule.n_epochs * plan.steps_per_epoch
