"""What all methods that train heads share, claimed of each of them, and how their trainings are planned."""

import functools
import json
import math

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from kinfold import ICCE, SCAN, TEMI
from kinfold.compute import Runtime
from kinfold.errors import InputError
from kinfold.heads import PairSampler, count_head_weights
from kinfold.methods import load_model, plan_training, save_model
from kinfold.methods._heads import StopWhenLevel
from kinfold.methods.protocol import Machine, Shape
from kinfold.metrics import adjusted_rand_index, clustering_accuracy
from kinfold.neighbors import NeighborGraph, knn_graph, same_label_graph
from kinfold.progress import SilentProgress

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"n_heads": 2, "n_epochs": 4, "batch_size": 64, "tol": 0, "random_state": 0}
SHORT = {ICCE: {"self_training_iterations": 60}}
HEADS_ONLY = {ICCE: {"consensus": False, "self_training": False}}
METHODS = pytest.mark.parametrize("method", [TEMI, SCAN, ICCE])


def quick(method, **parameters):
    """Return an estimator that fits in less than a second."""
    return method(**{"n_clusters": 3, **QUICK, **SHORT.get(method, {}), **parameters})


def blobs(n=240, k=3, dim=16, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    centers = random.normal(size=(k, dim))
    return (centers[truth] + spread * random.normal(size=(n, dim))).astype(np.float32), truth


@functools.cache
def fitted(method):
    """Return a quick fit of the blobs, made once; it isn't to be changed."""
    return quick(method).fit(blobs()[0])


@METHODS
def test_check_estimator_passes(method):
    check_estimator(quick(method, n_clusters=8, n_heads=1, n_epochs=2))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@METHODS
def test_check_estimator_passes_with_all_defaults(method):
    check_estimator(method())


@METHODS
def test_clear_kinds_are_found(method):
    X, truth = blobs(spread=0.3)
    model = quick(method, n_heads=1, n_epochs=30).fit(X)
    assert adjusted_rand_index(truth, model.labels_) > 0.95


@METHODS
def test_by_loss_the_best_head_is_the_one_with_the_lowest_last_loss(method):
    model = quick(method, n_heads=5, n_epochs=4, head_choice="loss").fit(blobs()[0])
    assert model.history_.shape == (4, 5)
    np.testing.assert_array_equal(model.head_losses_, model.history_[-1])
    assert model.best_head_ == int(np.argmin(model.history_[-1]))


@METHODS
def test_labels_are_what_is_predicted_for_the_training_rows_and_any_part_of_them(method, monkeypatch):
    X, model = blobs()[0], fitted(method)
    assert model.labels_.dtype == np.int32
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    probabilities = model.predict_proba(X)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.labels_, probabilities.argmax(axis=1))
    monkeypatch.setattr("kinfold.methods._rows.PREDICT_BYTES", 4 * 16 * 7)
    np.testing.assert_array_equal(model.predict(X[10:40]), model.labels_[10:40])
    np.testing.assert_allclose(model.predict_proba(X), probabilities, atol=1e-5)


@METHODS
def test_without_the_later_stages_labels_are_the_best_heads(method):
    model = quick(method, n_heads=3, **HEADS_ONLY.get(method, {})).fit(blobs()[0])
    assert model.head_labels_.shape == (3, 240)
    assert (model.head_labels_[model.best_head_] == model.labels_).mean() > 0.99


@METHODS
def test_same_seed_same_bytes_and_input_not_changed(method):
    X, _ = blobs()
    before = X.copy()
    first, again = fitted(method), quick(method).fit(X)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))
    np.testing.assert_array_equal(first.head_labels_, again.head_labels_)
    np.testing.assert_array_equal(first.history_, again.history_)
    np.testing.assert_array_equal(X, before)
    assert not np.array_equal(quick(method, random_state=1).fit(X).history_, first.history_)


@METHODS
def test_labels_given_as_y_change_nothing(method):
    X, truth = blobs()
    told, untold = quick(method).fit(X, truth), fitted(method)
    np.testing.assert_array_equal(told.predict_proba(X), untold.predict_proba(X))
    np.testing.assert_array_equal(told.history_, untold.history_)


@METHODS
def test_a_memory_map_gives_the_same_result(method, tmp_path):
    X, _ = blobs()
    np.save(tmp_path / "x.npy", X)
    mapped = quick(method).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(mapped.predict_proba(X), fitted(method).predict_proba(X))


@METHODS
def test_a_fit_that_is_killed_in_training_continues_to_the_same_bytes(method, tmp_path, monkeypatch):
    X, expected = blobs()[0], fitted(method)
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    whole, begun = PairSampler.epoch, []

    def killed(sampler, number):
        begun.append(number)
        return whole(sampler, number) if number != 2 else 1 / 0

    monkeypatch.setattr(PairSampler, "epoch", killed)
    with pytest.raises(ZeroDivisionError):
        quick(method).fit(X, checkpoint=tmp_path / "checkpoint")
    monkeypatch.setattr(PairSampler, "epoch", lambda self, n: begun.append(n) or whole(self, n))
    resumed = quick(method).fit(X, checkpoint=tmp_path / "checkpoint")
    assert begun == [0, 1, 2, 2, 3]
    np.testing.assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(resumed.history_, expected.history_)
    np.testing.assert_array_equal(resumed.head_labels_, expected.head_labels_)


@METHODS
@pytest.mark.parametrize("stage", ["warn_of_collapse", "_conclude"])
def test_a_fit_that_is_killed_after_training_continues_to_the_same_bytes(
    method, stage, tmp_path, monkeypatch
):
    X, expected = blobs()[0], fitted(method)
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    target = f"kinfold.methods._heads.{stage}" if stage == "warn_of_collapse" else None
    with monkeypatch.context() as patched:
        if target:
            patched.setattr(target, lambda *_: 1 / 0)
        else:
            patched.setattr(method, stage, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quick(method).fit(X, checkpoint=tmp_path / "checkpoint")
    epochs = []
    whole = PairSampler.epoch
    monkeypatch.setattr(PairSampler, "epoch", lambda self, n: epochs.append(n) or whole(self, n))
    resumed = quick(method).fit(X, checkpoint=tmp_path / "checkpoint")
    assert epochs == [3]
    np.testing.assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))


@METHODS
@pytest.mark.parametrize(
    "change", [{"random_state": 1}, {"n_clusters": 4}, {"batch_size": 32}, {"momentum": 0.5}]
)
def test_a_checkpoint_of_other_parameters_is_not_continued(method, change, tmp_path, monkeypatch, caplog):
    X, _ = blobs()
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    quick(method, n_epochs=2).fit(X, checkpoint=tmp_path / "checkpoint")
    change = {"n_epochs": 2, **change}
    other = quick(method, **change).fit(X, checkpoint=tmp_path / "checkpoint")
    assert "made with other parameters" in caplog.text
    np.testing.assert_array_equal(other.history_, quick(method, **change).fit(X).history_)


@METHODS
def test_a_checkpoint_of_other_rows_or_pairs_is_not_continued(method, tmp_path, monkeypatch, caplog):
    X, _ = blobs()
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    quick(method).fit(X, checkpoint=tmp_path / "checkpoint")
    for rows, graph in ((X * 2, None), (X, knn_graph(X, 3))):
        caplog.clear()
        other = quick(method).fit(rows, graph=graph, checkpoint=tmp_path / "checkpoint")
        assert "made with other parameters" in caplog.text
        np.testing.assert_array_equal(other.history_, quick(method).fit(rows, graph=graph).history_)


@METHODS
def test_a_checkpoint_of_other_pairs_with_the_same_sums_is_not_continued(
    method, tmp_path, monkeypatch, caplog
):
    X, _ = blobs()
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    graph, exchanged = knn_graph(X, 3), knn_graph(X, 3)
    exchanged.indices[:3], exchanged.indices[3:6] = graph.indices[3:6], graph.indices[:3]
    quick(method).fit(X, graph=graph, checkpoint=tmp_path / "checkpoint")
    other = quick(method).fit(X, graph=exchanged, checkpoint=tmp_path / "checkpoint")
    assert "made with other parameters" in caplog.text
    np.testing.assert_array_equal(other.history_, quick(method).fit(X, graph=exchanged).history_)


@METHODS
def test_a_saved_and_loaded_model_predicts_the_same_and_is_saved_as_the_same_bytes(method, tmp_path):
    X, model = blobs()[0], fitted(method)
    save_model(model, tmp_path / "once")
    loaded = load_model(tmp_path / "once", device="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    save_model(loaded, tmp_path / "twice")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


@METHODS
def test_nothing_is_predicted_before_a_fit_has_come_to_an_end(method, monkeypatch):
    X, _ = blobs()
    monkeypatch.setattr(PairSampler, "epoch", lambda *_: 1 / 0)
    model = quick(method)
    with pytest.raises(ZeroDivisionError):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.predict(X)


@METHODS
def test_own_pairs_are_the_ones_that_are_used(method):
    X, _ = blobs(spread=3.0)
    swapped = np.random.default_rng(0).permutation(240) % 2
    indptr = np.arange(241) * 4
    rows = [np.flatnonzero(swapped == swapped[i]) for i in range(240)]
    indices = np.concatenate([row[row != i][:4] for i, row in enumerate(rows)])
    seen = {(int(i), int(j)) for i in range(240) for j in indices[4 * i : 4 * i + 4]}
    drawn = []
    whole = PairSampler._draw

    def draw(sampler, number):
        drawn.append(whole(sampler, number).reshape(-1, sampler._n_targets * 2, sampler.batch_size))
        return drawn[-1].reshape(len(drawn[-1]), -1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PairSampler, "_draw", draw)
        quick(method).fit(X, graph=NeighborGraph.from_lists(indptr, indices))
    pairs = {
        (int(i), int(j))
        for i, j in np.concatenate([batch[:, :2] for batch in drawn]).swapaxes(1, 2).reshape(-1, 2)
    }
    assert pairs <= seen
    assert len(pairs) > 0.5 * len(seen)


@METHODS
def test_pairs_of_the_same_label_are_the_upper_bound(method):
    X, blob = blobs(k=6, spread=0.5)
    truth = blob % 3  # which blobs belong together, only these pairs tell
    told = same_label_graph(truth, 20, random_state=0)
    bound, found = (
        quick(method, n_heads=1, n_epochs=30).fit(X, graph=graph).labels_ for graph in (told, None)
    )
    assert clustering_accuracy(truth, bound) > 0.97
    assert clustering_accuracy(truth, found) < 0.9


@METHODS
def test_pairs_that_cannot_belong_to_the_rows_are_refused(method):
    X, _ = blobs()
    with pytest.raises(InputError, match="the graph has 240 samples, but X has 100 rows"):
        quick(method).fit(X[:100], graph=knn_graph(X, 4))
    with pytest.raises(InputError, match=r"must be a NeighborGraph, not ndarray; .*from_lists"):
        quick(method).fit(X, graph=np.zeros((240, 4), dtype=int))


@METHODS
def test_a_graph_without_a_single_pair_holds_samples_against_themselves(method):
    X, _ = blobs()
    model = quick(method).fit(X, graph=NeighborGraph.from_lists(np.zeros(241, int), np.zeros(0, int)))
    assert np.isfinite(model.predict_proba(X)).all()


@METHODS
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_clusters": 241}, "n_clusters=241 is more than n_samples=240"),
        ({"n_clusters": 0}, "n_clusters must be an integer of at least 1"),
        ({"n_clusters": 2.5}, "n_clusters must be an integer of at least 1"),
        ({"n_heads": 0}, "n_heads must be an integer of at least 1"),
        ({"n_heads": True}, "n_heads must be an integer of at least 1"),
        ({"n_epochs": -1}, "n_epochs must be an integer of at least 1"),
        ({"n_epochs": 2.5}, "n_epochs must be an integer of at least 1"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number above 0"),
        ({"momentum": 1.0}, r"momentum must be a number in \[0, 1\)"),
        ({"momentum": "slow"}, r"momentum must be a number in \[0, 1\)"),
        ({"tol": 1}, r"tol must be a number in \[0, 1\)"),
        ({"tol": None}, r"tol must be a number in \[0, 1\)"),
        ({"precision": "half"}, "precision must be one of .*; got 'half'"),
        ({"device": "tpu"}, "device must be one of .*; got 'tpu'"),
    ],
)
def test_impossible_parameters_are_refused_by_name(method, parameters, words):
    with pytest.raises(InputError, match=words):
        quick(method, **parameters).fit(blobs()[0])


def fall(*losses):
    """Return a history of two heads with these mean losses."""
    return np.stack([np.array(losses) - 0.5, np.array(losses) + 0.5], axis=1).astype(np.float32)


def test_training_goes_on_while_the_mean_loss_falls_and_ends_when_it_is_level():
    rule = StopWhenLevel(0.01, 16)
    assert not rule(fall(*np.linspace(0, -1, 12)))
    level = [0.0, -0.5, -0.9, -1, -1, -1, -1, -1]
    assert rule(fall(*level))
    assert not rule(fall(*level[:7]))  # not before half of the plan
    assert not rule(fall(*level[:4], -1, -1, -1.02, -1.02))  # 2 % of the fall, in the last two epochs
    assert rule(fall(*level[:4], -1, -1, -1.005, -1.005))
    assert StopWhenLevel(0.05, 16)(fall(*level[:4], -1, -1, -1.02, -1.02))


def test_a_loss_that_rises_or_never_moves_ends_training_too():
    assert StopWhenLevel(0.01, 8)(fall(0, -1, -1, -0.9, -0.8))
    assert StopWhenLevel(0.01, 8)(fall(-1, -1, -1, -1, -1))


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 4])
def test_short_plans_are_never_cut_below_three_epochs(n_epochs):
    assert not StopWhenLevel(0.5, n_epochs)(fall(*[-1.0] * 2))


@METHODS
def test_a_wide_tolerance_stops_earlier_and_none_never(method):
    X, _ = blobs(spread=0.3)
    lengths = [len(quick(method, n_heads=1, n_epochs=20, tol=tol).fit(X).history_) for tol in (0, 0.9)]
    assert lengths[0] == 20
    assert 10 <= lengths[1] < 20


@METHODS
def test_features_of_any_scale_are_grouped_alike(method):
    X, truth = blobs(spread=0.3)
    for factor in (2.0**100, 2.0**-100):
        model = quick(method, n_heads=1, n_epochs=20).fit(X * factor)
        assert adjusted_rand_index(truth, model.predict(X * factor)) > 0.95


@METHODS
@pytest.mark.parametrize(("scale", "words"), [(1e200, "beyond"), (1e-200, "below")])
def test_values_that_float32_cannot_hold_are_refused(method, scale, words):
    with pytest.raises(InputError, match=words):
        quick(method).fit(np.random.default_rng(0).normal(size=(20, 4)) * scale)


@METHODS
def test_collapse_is_told_with_advice(method):
    with pytest.warns(ConvergenceWarning) as told:
        quick(method, n_clusters=5).fit(np.ones((50, 8)))
    assert any("4 of 5 clusters are empty" in str(warning.message) for warning in told)
    assert {warning.filename for warning in told} == {__file__}


@METHODS
def test_a_runtime_wins_over_device_precision_and_progress(method):
    X, _ = blobs()
    told = []

    class Told(SilentProgress):
        def task(self, description, total, unit=""):
            told.append(description)
            return super().task(description, total, unit)

    of_parameters = quick(method, precision="bfloat16", device="cpu").fit(X)
    model = quick(method, precision="float32", device="cuda")
    model.fit(X, runtime=Runtime.resolve("cpu", "bfloat16", progress=Told()))
    np.testing.assert_array_equal(model.history_, of_parameters.history_)
    np.testing.assert_array_equal(model.predict_proba(X), of_parameters.predict_proba(X))
    assert "Training heads" in told


@METHODS
def test_the_cost_follows_the_plan_of_the_fit(method):
    X, _ = blobs()
    model, machine = quick(method, n_heads=3), Machine(rate=1e9, bandwidth=1e9)
    cost = model.cost(Shape(*X.shape), machine)
    plan = model.fit(X).plan_
    weights = model.head_labels_.shape[0] * count_head_weights(X.shape[1], 3)
    assert cost.model_bytes == 4 * weights
    n_seen = plan.schedule.n_epochs * plan.steps_per_epoch * plan.batch_size
    assert cost.seconds >= 2 * 2 * 4 * n_seen * weights / machine.rate
    longer = quick(method, n_heads=3, n_epochs=8, **HEADS_ONLY.get(method, {}))
    shorter = quick(method, n_heads=3, n_epochs=4, **HEADS_ONLY.get(method, {}))
    costs = [one.cost(Shape(*X.shape), machine).seconds for one in (longer, shorter)]
    assert costs[0] == pytest.approx(2 * costs[1])


@METHODS
def test_a_fit_needs_the_graph_that_it_makes_where_it_gets_none(method):
    X, _ = blobs()
    ((name, options),) = quick(method).needs(len(X)).graphs.items()
    assert name == method.name
    given = quick(method).fit(X, graph={name: knn_graph(X, **options), "another": knn_graph(X, 2)})
    np.testing.assert_array_equal(given.history_, fitted(method).history_)


@METHODS
def test_facts_tell_the_rounds_and_what_was_chosen_from(method):
    facts = fitted(method).facts()
    assert facts["n_rounds"] == 4
    later = {"consensus", "candidates", "self_training"} if method is ICCE else set()
    assert set(facts) == {"n_rounds"} | later
    assert json.loads(json.dumps(facts)) == facts


@METHODS
def test_numbers_of_numpy_are_numbers(method, tmp_path):
    X, _ = blobs()
    plain = quick(method, n_epochs=3, batch_size=32, learning_rate=0.5**10).fit(X)
    of_numpy = {"n_epochs": np.int64(3), "batch_size": np.int32(32), "learning_rate": np.float32(0.5**10)}
    model = quick(method, **of_numpy).fit(X, checkpoint=tmp_path / "checkpoint")
    np.testing.assert_array_equal(model.labels_, plain.labels_)


def test_heads_are_many_where_they_are_cheap_and_never_more_than_the_samples_feed():
    n_heads = {
        (n, dim): plan_training(n, dim, 10).n_heads for n in (30, 700, 2_000, 50_000) for dim in (64, 1_280)
    }
    assert {n_heads[30, 64], n_heads[30, 1_280]} == {12}
    assert n_heads[700, 64] == 700 // 20
    assert 40 <= n_heads[2_000, 64] <= 50
    assert 12 < n_heads[2_000, 1_280] < n_heads[2_000, 64]
    assert n_heads[50_000, 1_280] == 12
    assert plan_training(30, 64, 10, n_heads=80).n_heads == 80


def test_whole_epochs_hold_the_wanted_steps_but_where_one_more_would_be_a_tenth_too_long():
    for n in range(5_000, 2_000_000, 9_973):
        plan = plan_training(n, 64, 10)
        wanted = 500 * math.sqrt(n / 5000) / plan.steps_per_epoch
        assert plan.schedule.n_epochs - wanted < 1
        assert wanted - plan.schedule.n_epochs < 0.1 * wanted
        if wanted > 10:
            assert plan.schedule.n_epochs >= wanted - 1e-3
    assert plan_training(50_000, 1_280, 10).schedule.n_epochs == 8  # of 195 steps; 1,582 are wanted


def test_the_plan_keeps_steps_while_n_grows_and_never_exceeds_n():
    for n in (2, 50, 200, 1_000, 10_000, 100_000, 1_300_000):
        plan = plan_training(n, 64, 10)
        assert plan.batch_size <= n
        assert plan.steps_per_epoch == n // plan.batch_size
        assert plan.schedule.n_epochs * plan.steps_per_epoch >= 300
        assert 0 <= plan.schedule.momentum <= 0.996
        assert plan.schedule.warmup_steps < plan.schedule.n_epochs * plan.steps_per_epoch
