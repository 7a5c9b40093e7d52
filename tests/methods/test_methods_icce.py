"""Every switch of ICCE; what it shares with other heads is in test_methods_heads.py."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

import kinfold.methods._base as base_module
import kinfold.methods._heads as heads_module
import kinfold.methods._icce as icce_module
from kinfold import ICCE, TEMI, GraphClustering
from kinfold.consensus import consensus, mean_nmi
from kinfold.errors import InputError
from kinfold.heads import PairSampler, StudentTeacher, Trainer
from kinfold.methods import load_model, plan_training, save_model
from kinfold.methods._criteria import neighbor_agreement
from kinfold.methods._graph_labelings import graph_labelings
from kinfold.metrics import clustering_accuracy, normalized_mutual_info
from kinfold.neighbors import knn_graph

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {
    "n_clusters": 3,
    "n_heads": 3,
    "n_epochs": 4,
    "batch_size": 64,
    "tol": 0,
    "self_training_iterations": 60,
    "random_state": 0,
}
#: Every part switched off: what remains is TEMI.
BARE = {
    "similarity_threshold": None,
    "beta": 0.6,
    "weighted": True,
    "sinkhorn": False,
    "teacher_temperature": 0.1,
    "cross_entropy_weight": 0.0,
    "batch_norm": False,
    "smoothing_neighbors": 1,
    "head_choice": "loss",
    "consensus": False,
    "self_training": False,
}


def blobs(n=240, k=3, dim=12, spread=1.0, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    centers = random.normal(size=(k, dim))
    return (centers[truth] + spread * random.normal(size=(n, dim))).astype(np.float32), truth


def quick(**parameters):
    return ICCE(**{**QUICK, **parameters})


def bare(**parameters):
    return quick(**{**BARE, **parameters})


@pytest.fixture
def learners(monkeypatch):
    """Collect the learners that fits make."""
    made = []

    class Recorded(StudentTeacher):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(heads_module, "StudentTeacher", Recorded)
    return made


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits_are_sorted_and_consensus_is_better_than_the_mean_head():
    X, y = load_digits(return_X_y=True)
    model = ICCE(n_clusters=10, random_state=0).fit(X)
    heads = [clustering_accuracy(y, labels) for labels in model.head_labels_]
    assert clustering_accuracy(y, model.consensus_labels_) > np.mean(heads)
    assert clustering_accuracy(y, model.labels_) > 0.7


def test_with_everything_off_it_is_temi():
    X, _ = blobs()
    model, temi = (
        bare(min_neighbors=20),
        TEMI(
            n_neighbors=20,
            head_choice="loss",
            **{name: value for name, value in QUICK.items() if name in TEMI().get_params()},
        ),
    )
    model.fit(X), temi.fit(X)
    np.testing.assert_array_equal(model.predict_proba(X), temi.predict_proba(X))
    np.testing.assert_array_equal(model.history_, temi.history_)


@pytest.mark.parametrize(
    "change",
    [
        {"similarity_threshold": 0.5},
        {"beta": 1.0},
        {"weighted": False},
        {"sinkhorn": True},
        {"teacher_temperature": 0.05},
        {"cross_entropy_weight": 1.0},
        {"batch_norm": True},
        {"smoothing_neighbors": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_stage_1_can_be_switched_on_alone(change):
    X, _ = blobs()
    changed = bare(**change).fit(X)
    assert np.isfinite(changed.history_).all()
    assert not np.allclose(changed.history_, bare().fit(X).history_, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"sinkhorn": True},
        {"beta": 0.9},
        {"cross_entropy_weight": 1.0},
        {"smoothing_neighbors": 2},
        {"batch_norm": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_switch_is_not_continued(change, tmp_path, monkeypatch, caplog):
    X, _ = blobs()
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    bare().fit(X, checkpoint=tmp_path / "checkpoint")
    other = bare(**change).fit(X, checkpoint=tmp_path / "checkpoint")
    assert "made with other parameters" in caplog.text
    np.testing.assert_array_equal(other.history_, bare(**change).fit(X).history_)


def test_the_objective_is_made_as_the_switches_say(learners):
    X, _ = blobs()
    switched = {"beta": 0.8, "weighted": False, "cross_entropy_weight": 0.3, "teacher_temperature": 0.07}
    bare(**switched, sinkhorn=True).fit(X)
    objective = learners[0].objective
    assert objective.balanced
    for name, value in switched.items():
        assert getattr(objective, name) == value
    bare().fit(X)
    assert not learners[1].objective.balanced


def test_batch_normalisation_learns_from_batches_and_predicts_by_running_averages(learners):
    X, _ = blobs(n=256)
    X[:, 0] *= 50
    seen, whole = [], StudentTeacher.step

    def step(learner, batch, *rest):
        seen.append(batch.numpy().astype(np.float64))
        return whole(learner, batch, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StudentTeacher, "step", step)
        model = bare(batch_norm=True).fit(X)
    mean, variance = X.astype(np.float64).mean(axis=0), X.astype(np.float64).var(axis=0)
    epsilon = 1e-5 * variance.mean()
    variance = np.maximum(variance - epsilon, 0)  # the start: exactly the training set's deviation
    for batch in seen:
        mean = 0.9 * mean + 0.1 * batch.mean(axis=0)
        variance = 0.9 * variance + 0.1 * batch.var(axis=0)
    np.testing.assert_allclose(model.to_model().tensors["mean"], mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.to_model().tensors["scale"], 1 / np.sqrt(variance + epsilon), rtol=1e-3)
    alone = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, model.predict_proba(X)[:5], atol=1e-5)  # other rows don't matter


def test_without_batch_normalisation_the_training_sets_moments_stay():
    X, _ = blobs()
    tensors = bare().fit(X).to_model().tensors
    np.testing.assert_allclose(tensors["mean"], X.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(tensors["scale"], 1 / X.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"similarity_threshold": 0.3, "min_neighbors": 7}, {"n_neighbors": 7, "threshold": 0.3}),
        ({"similarity_threshold": "auto", "min_neighbors": 100}, {"n_neighbors": 100, "threshold": "auto"}),
        ({"similarity_threshold": None, "min_neighbors": 7}, {"n_neighbors": 7, "threshold": None}),
        (
            {"similarity_threshold": 0.3, "min_neighbors": 7, "max_neighbors": 9},
            {"n_neighbors": 7, "threshold": 0.3, "max_neighbors": 9},
        ),
        (
            {"similarity_threshold": 0.3, "max_neighbors": 2},
            {"n_neighbors": 2, "threshold": 0.3, "max_neighbors": 2},
        ),
    ],
)
def test_the_threshold_and_the_bounds_reach_the_neighbour_search(parameters, options, monkeypatch):
    asked = []

    def search(X, **given):
        asked.append(given)
        return knn_graph(X, 5)

    monkeypatch.setattr(base_module, "knn_graph", search)
    bare(**parameters).fit(blobs()[0])
    assert {name: asked[0][name] for name in options} == options
    assert asked[0].get("max_neighbors", asked[0]["n_neighbors"]) >= asked[0]["n_neighbors"]


@pytest.mark.parametrize("m", [1, 3])
def test_smoothing_draws_so_many_neighbours_for_each_target(m, learners):
    X, _ = blobs()
    drawn, whole = [], PairSampler._draw

    def draw(sampler, number):
        drawn.append(whole(sampler, number).reshape(-1, 2 * m, 64))
        return drawn[-1].reshape(len(drawn[-1]), -1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PairSampler, "_draw", draw)
        bare(smoothing_neighbors=m, min_neighbors=5).fit(X)
    graph = knn_graph(X, 5)
    for batch in np.concatenate(drawn):
        anchors, partners, *further = batch
        # A target of x: its partner, then every second of the others; of the partner: x, and the rest.
        for samples, theirs in ((anchors, [partners, *further[::2]]), (partners, further[1::2])):
            assert len(theirs) == (m if samples is anchors else m - 1)
            for drawn_ones in theirs:
                assert all(j in graph.neighbors(i) for i, j in zip(samples, drawn_ones, strict=True))


def fit_and_watch_stage_3(**parameters):
    """Fit, and return the model with the labels that stage 3 was given."""
    given, whole = [], icce_module.fit_self_training

    def train(X, labels, *rest, **options):
        given.append(labels)
        return whole(X, labels, *rest, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(icce_module, "fit_self_training", train)
        return quick(**parameters).fit(blobs(spread=2.0)[0]), given


def test_without_a_consensus_the_classifier_learns_the_best_head():
    model, given = fit_and_watch_stage_3(consensus=False)
    np.testing.assert_array_equal(given[0], model.head_labels_[model.best_head_])
    assert not hasattr(model, "consensus_")
    assert not hasattr(model, "consensus_labels_")


@pytest.mark.parametrize("method", [True, "auto", "cspa", "hgpa", "mcla", "alignment", "weighted-mcla"])
def test_the_classifier_learns_the_consensus_of_the_function_that_was_named(method):
    model, given = fit_and_watch_stage_3(
        consensus=method, n_heads=5, consensus_shares=(1.0,), graph_labelings=False
    )
    np.testing.assert_array_equal(given[0], model.consensus_labels_)
    np.testing.assert_array_equal(model.consensus_.labels, model.consensus_labels_)
    assert model.consensus_.mean_nmi == pytest.approx(mean_nmi(model.head_labels_, model.consensus_labels_))
    if method in (True, "auto"):
        assert len(model.consensus_.candidates) > 3
    else:
        assert [candidate.name for candidate in model.consensus_.candidates] == [method]
        alone = consensus(model.head_labels_, n_clusters=3, method=method, random_state=0)
        assert alone.mean_nmi == pytest.approx(model.consensus_.mean_nmi, abs=0.05)


def test_the_best_head_is_chosen_as_asked():
    X, _ = blobs(spread=2.0)
    by_loss, by_agreement = (quick(n_heads=6, head_choice=by).fit(X) for by in ("loss", "agreement"))
    assert by_loss.best_head_ == by_loss.head_losses_.argmin()
    assert by_agreement.best_head_ == by_agreement.head_agreements_.argmax()
    np.testing.assert_array_equal(by_loss.head_labels_, by_agreement.head_labels_)


def test_the_consensus_that_holds_neighbours_together_best_goes_on():
    X, _ = blobs(spread=2.0)
    graph, shares = knn_graph(X, 8), (1.0, 0.5, 0.0)
    options = {"n_heads": 6, "graph_labelings": False}
    model = quick(**options, consensus_shares=shares).fit(X, graph=graph)
    single = [quick(**options, consensus_shares=(share,)).fit(X, graph=graph) for share in shares]
    scores = [neighbor_agreement(graph, one.consensus_labels_) for one in single]
    np.testing.assert_array_equal(model.consensus_labels_, single[int(np.argmax(scores))].consensus_labels_)
    best = model.head_labels_[model.head_agreements_.argmax()]  # what a share of 0 is
    assert normalized_mutual_info(single[2].consensus_labels_, best) == pytest.approx(1)


def test_without_self_training_the_best_head_predicts_and_the_consensus_stays_readable():
    X, _ = blobs(spread=2.0)
    model = quick(self_training=False).fit(X)
    head_alone = quick(self_training=False, consensus=False).fit(X)
    np.testing.assert_array_equal(model.predict_proba(X), head_alone.predict_proba(X))
    assert (model.labels_ == model.head_labels_[model.best_head_]).mean() > 0.99
    assert not hasattr(model, "self_training_")
    assert model.consensus_labels_.shape == (240,)
    assert "weight1" in model.to_model().tensors


def test_with_self_training_the_classifier_predicts_the_training_rows_too():
    X, _ = blobs(spread=2.0)
    model = quick().fit(X)
    found = model.self_training_
    logits = ((X - found.mean) / found.scale) @ found.weight.T + found.bias
    np.testing.assert_array_equal(model.labels_, logits.argmax(axis=1))
    assert (model.labels_ != model.consensus_labels_).any()
    assert set(model.to_model().tensors) == {"weight", "bias", "mean", "scale"}


def test_the_grid_of_feature_variants_is_made_of_the_leading_blocks():
    X, truth = blobs(spread=0.3)
    noise = np.random.default_rng(1).normal(size=(240, 20)).astype(np.float32)
    model = quick(self_training_dims=(12, 20), n_heads=1, n_epochs=40).fit(
        np.concatenate([X, noise], axis=1), graph=knn_graph(X, 20)
    )
    tried = {dims for _, dims, _ in model.self_training_.table}
    assert tried == {(12,), (12, 20)}
    assert model.self_training_.dims == (12,)  # the noise tells nothing: on ties the narrower wins
    assert not model.self_training_.weight[:, 12:].any()
    assert clustering_accuracy(truth, model.labels_) > 0.95


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ((6, 7), r"self_training_dims \(6, 7\) add up to 13, but X has 12"),
        ((6, -6, 12), "self_training_dims must be"),
        ("all", "self_training_dims must be"),
    ],
)
def test_wrong_blocks_are_refused_before_any_training(dims, words, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained"))
    monkeypatch.setattr(base_module, "knn_graph", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(InputError, match=words):
        quick(self_training_dims=dims).fit(blobs()[0])


def test_nothing_of_an_earlier_fit_remains():
    X, _ = blobs()
    model = quick().fit(X)
    model.set_params(consensus=False, self_training=False).fit(X)
    for name in ("consensus_", "consensus_labels_", "self_training_"):
        assert not hasattr(model, name)
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_parameters_set_after_a_fit_change_no_prediction(tmp_path):
    X, _ = blobs(spread=2.0)
    for fitted in (quick(), quick(self_training=False, consensus=False)):
        before = fitted.fit(X).predict_proba(X)
        fitted.set_params(self_training=not fitted.self_training, consensus=not fitted.consensus)
        np.testing.assert_array_equal(fitted.predict_proba(X), before)
        save_model(fitted, tmp_path)
        np.testing.assert_array_equal(load_model(tmp_path).predict_proba(X), before)


@pytest.mark.parametrize("stages", [{}, {"consensus": False}, {"self_training": False}])
def test_a_saved_model_tells_how_it_was_found(stages, tmp_path):
    X, _ = blobs()
    model = quick(**stages).fit(X)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    assert loaded.to_model().config == model.to_model().config
    assert ("consensus" in model.to_model().config) == (stages.get("consensus") is not False)
    assert ("self_training" in model.to_model().config) == ("self_training" not in stages)


@pytest.mark.parametrize("stage", ["consensus", "fit_self_training"])
def test_a_fit_that_is_killed_in_a_later_stage_continues_to_the_same_bytes(stage, tmp_path, monkeypatch):
    X, _ = blobs()
    expected = quick().fit(X)
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(icce_module, stage, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            quick().fit(X, checkpoint=tmp_path / "checkpoint")
    resumed = quick().fit(X, checkpoint=tmp_path / "checkpoint")
    np.testing.assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))
    np.testing.assert_array_equal(resumed.consensus_labels_, expected.consensus_labels_)
    assert resumed.self_training_.table == expected.self_training_.table


def test_one_head_has_a_consensus_with_itself():
    X, _ = blobs()
    model = quick(n_heads=1, graph_labelings=False).fit(X)
    assert normalized_mutual_info(model.consensus_labels_, model.head_labels_[0]) == pytest.approx(1)
    assert model.consensus_.mean_nmi == pytest.approx(1)


def test_labelings_of_the_graph_join_every_consensus_and_without_heads_they_are_graph_clustering():
    X, _ = blobs(spread=2.0)
    graph = knn_graph(X, 8)
    joined = quick(n_heads=3, consensus_shares=(1.0,)).fit(X, graph=graph)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    labelings = np.concatenate([joined.head_labels_, graph_labelings(X, graph, 3, seed=seed)])
    assert joined.consensus_.mean_nmi == pytest.approx(mean_nmi(labelings, joined.consensus_labels_))
    alone = quick(n_heads=3, consensus_shares=(0.0,)).fit(X, graph=graph)
    expected = GraphClustering(n_clusters=3, random_state=0).fit(X, graph=graph)
    np.testing.assert_array_equal(alone.consensus_labels_, expected.consensus_labels_)


def test_heads_are_few_beside_labelings_of_the_graph_and_as_many_as_before_without_them():
    beside, alone = (quick(n_heads=None, graph_labelings=joins) for joins in (True, False))
    assert beside._plan(1_797, 64).n_heads == 8
    assert alone._plan(1_797, 64).n_heads == plan_training(1_797, 64, 3).n_heads > 8
    assert quick(n_heads=None, consensus=False)._plan(1_797, 64).n_heads > 8
    assert quick(n_heads=5)._plan(1_797, 64).n_heads == 5


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"similarity_threshold": 1.5},
            r"similarity_threshold must be a number in \[-1, 1\] or",
        ),
        (
            {"similarity_threshold": "automatic"},
            r"similarity_threshold must be a number in \[-1, 1\] or",
        ),
        (
            {"similarity_threshold": True},
            r"similarity_threshold must be a number in \[-1, 1\] or",
        ),
        ({"min_neighbors": 0}, "min_neighbors must be an integer of at least 1"),
        ({"max_neighbors": 2.5}, "max_neighbors must be an integer of at least 1"),
        ({"min_neighbors": 20, "max_neighbors": 10}, r"max_neighbors \(10\) is below min_neighbors \(20\)"),
        ({"beta": 0}, r"beta must be a number in \(0, 1\]"),
        ({"beta": 1.1}, r"beta must be a number in \(0, 1\]"),
        ({"weighted": "yes"}, "weighted must be True or False"),
        ({"sinkhorn": 1}, "sinkhorn must be True or False"),
        ({"batch_norm": None}, "batch_norm must be True or False"),
        ({"self_training": "no"}, "self_training must be True or False"),
        ({"teacher_temperature": 0}, "teacher_temperature must be a number above 0"),
        ({"cross_entropy_weight": -1}, "cross_entropy_weight must be a number of at least 0"),
        ({"cross_entropy_weight": "some"}, "cross_entropy_weight must be a number of at least 0"),
        ({"cross_entropy_weight": float("nan")}, "cross_entropy_weight must be a number of at least 0"),
        ({"smoothing_neighbors": 0}, "smoothing_neighbors must be an integer of at least 1"),
        ({"self_training_iterations": 0}, "self_training_iterations must be an integer of at least 1"),
        ({"head_choice": "los"}, "head_choice must be one of.*did you mean 'loss'"),
        (
            {"consensus_shares": ()},
            r"consensus_shares must be a list of .*, each a number in \[0, 1\]",
        ),
        (
            {"consensus_shares": (1.0, 1.5)},
            r"consensus_shares must be a list of .*, each a number in \[0, 1\]",
        ),
        (
            {"consensus_shares": 0.5},
            r"consensus_shares must be a list of .*, each a number in \[0, 1\]",
        ),
        ({"consensus": "mlca"}, "consensus must be True or False or one of.*did you mean 'mcla'"),
        ({"consensus": 3}, "consensus must be True or False or one of"),
        ({"consensus": None}, "consensus must be True or False or one of"),
    ],
)
def test_impossible_parameters_are_refused_by_name(parameters, words):
    with pytest.raises(InputError, match=words):
        quick(**parameters).fit(blobs()[0])


def test_a_full_fit_warns_of_nothing_but_collapse():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        quick(cross_entropy_weight=1.0, smoothing_neighbors=2, batch_norm=True, sinkhorn=True).fit(blobs()[0])


def test_switches_of_numpy_and_whole_numbers_of_numpy_are_taken():
    X, _ = blobs()
    model = quick(consensus=np.bool_(False), sinkhorn=np.bool_(True), n_clusters=np.int64(3)).fit(X)
    assert not hasattr(model, "consensus_")
    np.testing.assert_array_equal(model.predict(X), model.labels_)


def test_stage_3_takes_the_grid_and_the_feature_variants_that_were_named():
    X, _ = blobs(spread=2.0)
    dims, blocks = (4, X.shape[1] - 4), [[1], [0, 1]]
    model = quick(
        self_training_dims=dims, self_training_blocks=blocks, self_training_rates="dinov2", n_heads=2
    ).fit(X)
    table = model.self_training_.table
    assert len(table) == 13 * 2
    assert {row[1] for row in table} == {dims[1:], dims}
    with pytest.raises(InputError, match=r"self_training_blocks has the variant \[2\]"):
        quick(self_training_blocks=[[2]]).fit(X)


def test_balancing_both_views_together_is_a_training_of_its_own():
    X, _ = blobs(spread=2.0)
    options = {"n_heads": 2, "n_epochs": 5, "self_training": False, "consensus": False}
    made = [quick(sinkhorn=value, **options).fit(X).history_.tobytes() for value in (False, True, "joint")]
    assert len(set(made)) == 3
    with pytest.raises(InputError, match="sinkhorn must be True or False or 'joint'"):
        quick(sinkhorn="both").fit(X)
