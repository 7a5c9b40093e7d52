import json
import sys

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from kinfold import TAC, SphericalKMeans
from kinfold.errors import InputError, MissingExtraError
from kinfold.features import LazyMatrix
from kinfold.heads import DualHeads
from kinfold.language.space import select_nouns, text_counterparts
from kinfold.methods import load_model, predict_top, save_model
from kinfold.methods._tac_model import CENTRES, mean_directions, plan_tac
from kinfold.metrics import clustering_accuracy
from kinfold.neighbors import knn_graph

K, D, V = 4, 16, 40
QUICK = {"n_clusters": K, "n_epochs": 10, "random_state": 0, "device": "cpu"}


def made_space(n=200, spread=0.6, seed=0):
    """Return images, nouns of which the first K are the kinds, and the kind of every image."""
    random = np.random.default_rng(seed)
    nouns = random.normal(size=(V, D)).astype(np.float32)
    truth = np.arange(n) % K
    return (nouns[truth] + spread * random.normal(size=(n, D))).astype(np.float32), nouns, truth


def quick(features, **parameters):
    return TAC(noun_features=features, **{**QUICK, **parameters})


class MadeTAC(TAC):
    """TAC with made nouns of whatever width it is fitted on."""

    def _read_nouns(self):
        return np.random.default_rng(0).normal(size=(30, self.n_features_in_))


@pytest.mark.parametrize("train", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_check_estimator_passes_with_made_nouns(train):
    check_estimator(MadeTAC(train=train, n_epochs=3, device="cpu"))


@pytest.mark.parametrize("train", [True, False])
def test_kinds_that_nouns_name_are_found(train):
    X, nouns, truth = made_space()
    model = quick(nouns, train=train, n_epochs=200).fit(X)
    assert clustering_accuracy(truth, model.labels_) > 0.95
    assert model.labels_.dtype == np.int32
    assert model.n_clusters_ == K


def test_nouns_guide_k_means_to_kinds_that_it_misses_alone():
    """Kinds differ in a few directions, which nouns name; the rest, the larger part, is noise to them."""
    random = np.random.default_rng(0)
    kinds = np.zeros((K, 32))
    kinds[:, :K] = 3 * np.eye(K)
    truth = np.arange(400) % K
    X = kinds[truth] + random.normal(size=(400, 32)) * np.r_[np.ones(K), np.full(28, 1.2)]
    nouns = np.concatenate([kinds + 0.1 * random.normal(size=kinds.shape) for _ in range(3)])
    plain = SphericalKMeans(n_clusters=K, random_state=0).fit(X).labels_
    guided = quick(nouns, train=False).fit(X).labels_
    assert clustering_accuracy(truth, guided) > clustering_accuracy(truth, plain)


def test_the_way_to_counterparts_is_centres_nouns_retrieval():
    X, nouns, _ = made_space()
    model = quick(nouns, train=False, n_centres=7, nouns_per_centre=2, retrieval_temperature=0.02).fit(X)
    drawn = int(np.random.RandomState(0).randint(2**31 - 8))
    centres = (
        SphericalKMeans(n_clusters=7, n_init=1, random_state=drawn, device="cpu").fit(X).cluster_centers_
    )
    selection = select_nouns(nouns, centres, per_centre=2)
    np.testing.assert_array_equal(model.selected_nouns_, selection.indices)
    expected = text_counterparts(X, nouns[selection.indices], temperature=0.02)
    np.testing.assert_allclose(model.text_counterparts_, expected, atol=1e-6)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    joint = SphericalKMeans(n_clusters=K, random_state=drawn, device="cpu")
    joint.fit(np.concatenate([unit, expected], axis=1).astype(np.float32))
    assert clustering_accuracy(joint.labels_, model.labels_) > 0.99


def test_selected_nouns_are_words_where_words_were_given():
    X, nouns, _ = made_space()
    words = [f"noun {number}" for number in range(V)]
    numbered, named = quick(nouns).fit(X), quick(nouns, nouns=words).fit(X)
    assert named.selected_nouns_.tolist() == [words[j] for j in numbered.selected_nouns_]
    unit = nouns / np.linalg.norm(nouns, axis=1, keepdims=True)
    np.testing.assert_allclose(named.selected_features_, unit[numbered.selected_nouns_], atol=1e-6)
    assert set(range(K)) <= set(numbered.selected_nouns_.tolist())


@pytest.mark.parametrize("centres", CENTRES)
def test_every_way_to_centres_finds_the_kinds(centres):
    X, nouns, truth = made_space()
    model = quick(nouns, centres=centres, resolution=1.0, n_epochs=200).fit(X)
    assert clustering_accuracy(truth, model.labels_) > 0.95
    assert (len(model.selected_nouns_) == V) == (centres == "none")
    again = quick(nouns, centres=centres, resolution=1.0).fit(X)
    np.testing.assert_array_equal(again.selected_nouns_, model.selected_nouns_)


def test_agglomerative_centres_of_many_samples_join_neighbours_alone(monkeypatch):
    monkeypatch.setattr("kinfold.methods._tac_model._ALL_DISTANCES", 50)
    X, nouns, truth = made_space()
    assert (
        clustering_accuracy(truth, quick(nouns, centres="agglomerative", n_epochs=200).fit(X).labels_) > 0.95
    )


def test_mean_directions_leave_outliers_and_empty_groups_out():
    X = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 5.0], [7.0, 0.0]])
    centres = mean_directions(X, np.array([2, 2, 0, -1]))
    np.testing.assert_allclose(centres, [[0.0, 1.0], [0.5**0.5, 0.5**0.5]], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"confidence": False},
        {"balance_weight": 0},
        {"distillation": "none"},
        {"distillation": "text_to_image"},
        {"distillation": "image_to_text"},
        {"temperature": 5.0},
    ],
)
def test_the_ablations_reach_the_loss(change, monkeypatch):
    settings, make = [], DualHeads.__init__
    monkeypatch.setattr(
        DualHeads,
        "__init__",
        lambda self, d, k, given, **rest: [settings.append(given), make(self, d, k, given, **rest)][1],
    )
    X, nouns, _ = made_space()
    quick(nouns, **change).fit(X)
    assert {name: getattr(settings[0], name) for name in change} == change


def test_new_images_need_no_nouns_where_heads_were_trained(tmp_path):
    X, nouns, _ = made_space()
    model = quick(nouns).fit(X)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    loaded.selected_features_ = None
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_a_saved_model_predicts_the_same(train, named, tmp_path):
    X, nouns, _ = made_space()
    words = [f"nöun {number}" for number in range(V)] if named else None
    model = quick(nouns, train=train, nouns=words).fit(X)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    fresh = made_space(seed=1)[0]
    np.testing.assert_array_equal(loaded.predict_proba(fresh), model.predict_proba(fresh))
    np.testing.assert_array_equal(loaded.selected_nouns_, model.selected_nouns_)
    np.testing.assert_array_equal(loaded.selected_features_, model.selected_features_)
    assert json.loads((tmp_path / "model.json").read_text())["method"] == "tac"
    top = predict_top(loaded, fresh, 2)
    np.testing.assert_array_equal(top.clusters[:, 0], model.predict(fresh))


@pytest.mark.parametrize("train", [True, False])
def test_prediction_is_of_each_row_alone(train, monkeypatch):
    X, nouns, _ = made_space()
    model = quick(nouns, train=train).fit(X)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), model.labels_)
    np.testing.assert_allclose(model.predict_proba(X[3:4])[0], probabilities[3], atol=1e-5)
    monkeypatch.setattr("kinfold.methods._tac_model._BLOCK_BYTES", 4 * D * 7)
    np.testing.assert_allclose(model.predict_proba(X), probabilities, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_the_same_seed_gives_the_same_bytes_and_length_of_rows_does_not_matter(train):
    X, nouns, _ = made_space()
    first, second = (quick(nouns, train=train).fit(X) for _ in range(2))
    for name, value in first.to_model().tensors.items():
        np.testing.assert_array_equal(second.to_model().tensors[name], value)
    stretched = X * np.random.default_rng(0).integers(1, 9, size=(len(X), 1)).astype(np.float32)
    np.testing.assert_array_equal(quick(3 * nouns, train=train).fit(stretched).labels_, first.labels_)


class OnDisk(LazyMatrix):
    def __init__(self, X):
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def _range(self, start, stop):
        return self._X[start:stop].copy()

    def _take(self, rows):
        return self._X[rows]


@pytest.mark.parametrize("train", [True, False])
def test_rows_on_disk_give_the_same_clusters(train):
    X, nouns, _ = made_space()
    expected = quick(nouns, train=train).fit(X)
    found = quick(OnDisk(nouns), train=train).fit(OnDisk(X))
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    np.testing.assert_array_equal(found.selected_nouns_, expected.selected_nouns_)


def test_a_graph_of_ones_own_is_used(monkeypatch):
    X, nouns, _ = made_space()
    made = []
    monkeypatch.setattr(
        "kinfold.methods._base.knn_graph", lambda *a, **o: [made.append(o), knn_graph(*a, **o)][1]
    )
    graph = knn_graph(X, 5)
    quick(nouns).fit(X, graph=graph)
    assert len(made) == 1  # of texts
    quick(nouns).fit(X)
    assert len(made) == 3
    with pytest.raises(InputError, match="the graph has 200 samples"):
        quick(nouns).fit(X[:50], graph=graph)
    with pytest.raises(InputError, match="graph must be a NeighborGraph"):
        quick(nouns).fit(X, graph=np.eye(200))


def test_an_interrupted_fit_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    X, nouns, _ = made_space()
    expected = quick(nouns, batch_size=64).fit(X)
    whole, taken = DualHeads.step, []
    checkpoint = tmp_path / "checkpoint"

    def interrupted(self, batch, batch_size, step, share_done):
        if step == 17:
            raise KeyboardInterrupt
        return whole(self, batch, batch_size, step, share_done)

    with monkeypatch.context() as patched:
        patched.setattr(DualHeads, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(nouns, batch_size=64).fit(X, checkpoint=checkpoint)

    def counted(self, batch, batch_size, step, share_done):
        taken.append(step)
        return whole(self, batch, batch_size, step, share_done)

    monkeypatch.setattr(DualHeads, "step", counted)
    resumed = quick(nouns, batch_size=64).fit(X, checkpoint=checkpoint)
    assert taken[0] == 15  # three steps an epoch
    np.testing.assert_array_equal(resumed.history_, expected.history_)
    for name, value in expected.to_model().tensors.items():
        np.testing.assert_array_equal(resumed.to_model().tensors[name], value, err_msg=name)


def test_checkpoints_of_other_nouns_are_not_continued_from(tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    X, nouns, _ = made_space()
    quick(nouns).fit(X, checkpoint=tmp_path / "checkpoint")
    others = nouns + 0.3 * np.random.default_rng(1).normal(size=nouns.shape)
    found = quick(others).fit(X, checkpoint=tmp_path / "checkpoint")
    np.testing.assert_array_equal(found.history_, quick(others).fit(X).history_)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("centres", ["kmeans", "agglomerative", "spectral", "dbscan", "louvain", "none"])
@pytest.mark.parametrize("case", ["one noun", "duplicates", "equal rows", "zero rows", "two samples"])
def test_degenerate_input_is_fitted(case, centres, train):
    X, nouns, _ = made_space(n=60)
    n_clusters = K
    if case == "one noun":
        nouns = nouns[:1]
    elif case == "duplicates":
        nouns, X = np.repeat(nouns[:2], 9, axis=0), np.repeat(X[:6], 10, axis=0)
    elif case == "equal rows":
        X = np.repeat(X[:1], 60, axis=0)
    elif case == "zero rows":
        X[::7] = 0
    else:
        X, n_clusters = X[:2], 2
    model = quick(nouns, n_clusters=n_clusters, centres=centres, train=train, n_epochs=2)
    model.fit(X)
    assert model.labels_.shape == (len(X),)
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.labels_.min() >= 0
    assert model.labels_.max() < n_clusters


def test_without_networkx_louvain_is_refused_before_any_work_and_nothing_else_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    X, nouns, _ = made_space(n=60)
    with monkeypatch.context() as patch:
        patch.setattr("kinfold.methods._tac.Neighbors", None)  # a search would be another error
        with pytest.raises(MissingExtraError, match=r"louvain.* needs networkx: .*kinfold\[louvain\]"):
            quick(nouns, centres="louvain").fit(X)
    assert quick(nouns, train=False).fit(X).labels_.shape == (60,)


def test_images_without_any_direction_are_refused():
    with pytest.raises(InputError, match="no group of images with a direction"):
        quick(made_space()[1]).fit(np.zeros((20, D)))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"noun_features": None}, "TAC needs noun_features"),
        ({"noun_features": np.ones((5, D + 1))}, f"{D + 1} dimensions, but X has {D}"),
        ({"noun_features": np.zeros((5, D))}, "noun_features: .*zero"),
        ({"noun_features": np.full((5, D), np.nan)}, "noun_features: .*not finite"),
        ({"nouns": ["one"]}, "nouns are 1, but noun_features have 40 rows"),
        ({"nouns": "words"}, "nouns must be a list of words"),
        ({"nouns": list(range(V))}, "nouns must be a list of words"),
        ({"n_clusters": 201}, "more than n_samples"),
        ({"centres": "k-means"}, "did you mean 'kmeans'"),
        ({"distillation": "text-to-image"}, "did you mean 'text_to_image'"),
        ({"train": "yes"}, "train must be True or False"),
        ({"confidence": 1}, "confidence must be True or False"),
        ({"balance_weight": -1}, "balance_weight must be"),
        ({"temperature": 0}, "temperature must be .*a number above 0"),
        ({"retrieval_temperature": 0}, "retrieval_temperature must be .*a number above 0"),
        ({"nouns_per_centre": 0}, "nouns_per_centre must be .*an integer of at least 1"),
        ({"n_centres": 0}, "n_centres must be .*an integer of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be .*an integer of at least 1"),
    ],
)
def test_what_can_not_work_is_refused_by_name(parameters, words):
    X, nouns, _ = made_space()
    with pytest.raises(InputError, match=words):
        TAC(**{**QUICK, "noun_features": nouns, **parameters}).fit(X)


def test_nouns_given_twice_are_told(caplog):
    X, nouns, _ = made_space()
    with caplog.at_level("WARNING"):
        quick(nouns, nouns=["same"] * 2 + [str(j) for j in range(V - 2)]).fit(X)
    assert "1 nouns are given more than once" in caplog.text


def test_the_plan_is_the_papers_and_longer_for_few_samples():
    small, large = plan_tac(50_000, 10), plan_tac(1_281_167, 1000)
    assert (small.n_epochs, small.batch_size, small.temperature) == (20, 512, 0.5)
    assert (large.n_epochs, large.batch_size, large.temperature) == (100, 8192, 5.0)
    assert small.learning_rate == large.learning_rate == 1e-3
    few = plan_tac(300, 10)
    assert (few.batch_size, few.n_epochs) == (300, 500)
    assert plan_tac(300, 10, n_epochs=3).n_epochs == 3


def test_one_cluster_is_one_cluster():
    X, nouns, _ = made_space()
    for train in (True, False):
        assert set(quick(nouns, n_clusters=1, train=train).fit(X).labels_) == {0}


def test_training_in_bfloat16_finds_the_kinds():
    X, nouns, truth = made_space()
    model = quick(nouns, precision="bfloat16", n_epochs=200).fit(X)
    assert clustering_accuracy(truth, model.labels_) > 0.95
    assert torch.float32 == model._model.head.weight1.dtype


@pytest.mark.parametrize("change", [{"separate_moments": True}, {"initialization": "truncated_normal"}])
def test_the_network_of_the_authors_reaches_the_heads(change, monkeypatch):
    given, make = [], DualHeads.__init__
    monkeypatch.setattr(
        DualHeads,
        "__init__",
        lambda self, *rest, **options: [given.append(options), make(self, *rest, **options)][1],
    )
    X, nouns, truth = made_space()
    model = quick(nouns, n_epochs=200, **change).fit(X)
    assert {name: given[0][name] for name in change} == change
    assert clustering_accuracy(truth, model.labels_) > 0.9
