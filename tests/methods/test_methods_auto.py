import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from kinfold import TEMI, SphericalKMeans
from kinfold.errors import InputError
from kinfold.heads import trainer as trainer_module
from kinfold.methods import Auto, Criteria, assess, choose, load_model, save_model
from kinfold.methods import _base as base_module
from kinfold.neighbors import knn_graph

HEADS = {"n_heads": 2, "n_epochs": 4}
FAST = {"temi": HEADS, "icce": {**HEADS, "self_training_iterations": 20}}


def blobs(n=120, k=3, dim=8, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    return (random.normal(size=(k, dim))[truth] + 0.3 * random.normal(size=(n, dim))).astype(np.float32)


def criteria(agreement, *, live=4, share=0.3, k=4):
    return Criteria(k, live, share, agreement, 0.9)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_check_estimator_passes():
    check_estimator(Auto(parameters=FAST))


def test_the_highest_neighbour_agreement_wins():
    assert choose({"a": criteria(0.5), "b": criteria(0.7), "c": criteria(0.6)}) == "b"
    assert choose({"a": criteria(0.5), "b": criteria(0.5)}) == "a"


def test_collapsed_fits_are_out_as_long_as_there_is_another():
    assert choose({"a": criteria(0.5), "b": criteria(0.9, live=3), "c": criteria(0.8, share=0.8)}) == "a"
    assert choose({"a": criteria(0.5, live=2), "b": criteria(0.9, live=1), "c": criteria(0.6, live=2)}) == "c"


def test_another_criterion_can_decide():
    found = {"a": criteria(0.9, live=1), "b": criteria(0.5), "c": criteria(0.6)}
    found = {
        name: replace(one, cross_validated_accuracy=1 - one.neighbor_agreement) for name, one in found.items()
    }
    assert choose(found) == "c"
    assert choose(found, by="cross_validated_accuracy") == "b"


def test_a_dead_cluster_of_many_counts_by_its_share():
    many = {"live": 99, "k": 100, "share": 0.05}
    healthy = {"live": 100, "k": 100, "share": 0.05}
    assert choose({"a": criteria(0.3, **healthy), "b": criteria(0.8, **many)}) == "b"
    assert choose({"a": criteria(0.795, **healthy), "b": criteria(0.8, **many)}) == "a"
    assert choose({"a": criteria(-0.01, **many), "b": criteria(-0.005, **healthy)}) == "b"


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("neighbour_agreement", "did you mean 'neighbor_agreement'"),
        ("n_clusters", "can't"),
        ("head_nmi", "can't"),
    ],
)
def test_fits_are_chosen_by_a_criterion_that_all_have(by, words):
    with pytest.raises(InputError, match=words):
        choose({"a": criteria(0.5), "b": criteria(0.7)}, by=by)


def test_nothing_is_chosen_from_no_fits():
    with pytest.raises(InputError, match="no fit to choose from"):
        choose({})


@pytest.mark.parametrize(("live", "chosen"), [(90, "b"), (89, "a")])
def test_a_fit_whose_clusters_are_dead_by_more_than_a_tenth_is_out(live, chosen):
    collapsed = criteria(0.9, live=live, k=100, share=0.05)
    assert choose({"a": criteria(0.3, live=100, k=100, share=0.05), "b": collapsed}) == chosen


def test_each_candidate_is_what_it_would_be_alone():
    X = blobs()
    model = Auto(n_clusters=3, candidates=("kmeans", "temi"), parameters=FAST | {}, random_state=3)
    with pytest.raises(InputError, match="'icce', which is no candidate"):
        model.fit(X)
    model.set_params(parameters={"temi": HEADS}).fit(X)
    alone = {
        "kmeans": SphericalKMeans(n_clusters=3, random_state=3).fit(X),
        "temi": TEMI(n_clusters=3, random_state=3, **HEADS).fit(X),
    }
    graph = knn_graph(X, **alone["temi"].needs(len(X)).graphs["temi"])
    expected = {name: assess(fitted, X, graph=graph, seed=3) for name, fitted in alone.items()}
    assert model.table_ == expected
    assert model.method_ == choose(expected)
    np.testing.assert_array_equal(model.labels_, alone[model.method_].labels_)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.predict_proba(X), alone[model.method_].predict_proba(X))


def test_the_same_graph_is_made_once(monkeypatch):
    made = []

    def count(X, **options):
        made.append(options)
        return knn_graph(X, **options)

    monkeypatch.setattr(base_module, "knn_graph", count)
    X = blobs()
    parameters = dict.fromkeys(("temi", "scan"), HEADS)
    Auto(n_clusters=3, candidates=("temi", "scan"), parameters=parameters, random_state=0).fit(X)
    assert len(made) == 1
    Auto(n_clusters=3, parameters=FAST, random_state=0).fit(X)
    assert len(made) == 4  # graph clustering, TEMI and ICCE want different ones


def test_given_graphs_are_used(monkeypatch):
    X = blobs()
    options = {"n_clusters": 3, "parameters": FAST, "random_state": 0}
    expected = Auto(**options).fit(X)
    wanted = expected.needs(len(X)).graphs
    assert set(wanted) == {"graph", "temi", "icce"}
    graphs = {name: knn_graph(X, **chosen) for name, chosen in wanted.items()}
    monkeypatch.setattr(base_module, "knn_graph", None)
    assert Auto(**options).fit(X, graph=graphs).table_ == expected.table_
    Auto(**options).fit(X, graph=knn_graph(X, 7))


def test_n_neighbors_reaches_all_candidates_that_learn_from_neighbours():
    model = Auto(n_clusters=3, n_neighbors=7)
    assert {options["n_neighbors"] for options in model.needs(500).graphs.values()} == {7}


def test_the_chosen_method_is_saved_as_itself_with_the_table(tmp_path):
    X = blobs()
    model = Auto(n_clusters=3, parameters=FAST, random_state=0).fit(X)
    save_model(model, tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    assert content["method"] == model.method_
    assert {name: Criteria(**found) for name, found in content["chosen_from"].items()} == model.table_
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model.chosen_)
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)


def test_a_stopped_fit_goes_on_in_every_candidate(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN", 0.0)
    X = blobs()
    candidates = ("kmeans", "temi", "icce")
    options = {"n_clusters": 3, "candidates": candidates, "parameters": FAST, "random_state": 0}
    whole = Auto(**options).fit(X)

    class StopError(Exception):
        pass

    class Stopping:
        def __init__(self, after):
            self.left = after

        def task(self, *_args, **_more):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, n=1, **figures):
            self.left -= n
            if self.left < 0:
                raise StopError

    file = tmp_path / "checkpoint-1"
    with pytest.raises(StopError):
        Auto(**options).fit(X, progress=Stopping(after=18), checkpoint=file)
    left = {path.name for path in tmp_path.iterdir()}
    assert left
    assert left <= {"checkpoint-1.temi", "checkpoint-1.icce"}
    again = Auto(**options).fit(X, checkpoint=file)
    assert again.table_ == whole.table_
    np.testing.assert_array_equal(again.labels_, whole.labels_)


def test_only_the_chosen_fit_is_warned_of(monkeypatch):
    X = blobs()
    collapsed = {"temi": {"n_heads": 1, "n_epochs": 1}}
    model = Auto(n_clusters=30, candidates=("kmeans", "temi"), parameters=collapsed, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X)
    assert model.method_ == "kmeans"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"candidates": ("kmean",)}, "did you mean 'kmeans'"),
        ({"candidates": ("auto",)}, "unknown"),
        ({"candidates": "icce"}, "must be a list of .*each the name of a method"),
        ({"candidates": ()}, "must be a list of .*each the name of a method"),
        ({"candidates": None}, "must be a list of .*each the name of a method .icce, graph, kmeans"),
        ({"candidates": {"icce": 1}}, "must be a list of .*each the name of a method"),
        ({"candidates": 3}, "must be a list of .*each the name of a method"),
        ({"candidates": ("icce", 3)}, "must be a list of .*each the name of a method"),
        ({"candidates": (["icce"],)}, "must be a list of .*each the name of a method"),
        ({"candidates": ("icce", "temi", "icce")}, "'icce' more than once"),
        ({"parameters": ["icce"]}, "parameters must be a mapping of candidates"),
        ({"parameters": "icce"}, "parameters must be a mapping of candidates"),
        ({"parameters": {"icce": 32}}, "parameters of 'icce' must be a mapping"),
        ({"parameters": {"icce": None}}, "parameters of 'icce' must be a mapping"),
        ({"parameters": {"icce": {"n_heads": [32]}}}, "n_heads must be"),
        ({"parameters": {"icce": {3: 32}}}, "no parameter 3"),
        ({"parameters": {3: {}}}, "3, which is no candidate; candidates are kmeans, graph, temi, icce"),
        ({"parameters": {"temi": {"n_head": 2}}}, "did you mean 'n_heads'"),
        ({"parameters": {"temi": {"n_heads": 0}}}, "n_heads must be"),
        ({"parameters": {"temi": {"n_clusters": 2}}}, "no parameter 'n_clusters'"),
        ({"parameters": {"tem": {}}}, "did you mean 'temi'"),
        ({"n_neighbors": 0}, "n_neighbors must be"),
        ({"precision": "half"}, "precision must be one of .*; got 'half'"),
    ],
)
def test_impossible_parameters_are_refused_before_any_work(wrong, words):
    with pytest.raises(InputError, match=words):
        Auto(n_clusters=3, **wrong).check_parameters()


def test_graphs_that_fit_no_candidate_or_not_the_samples_are_refused():
    X = blobs()
    graph, small = knn_graph(X, 5), knn_graph(X[:30], 5)
    model = Auto(n_clusters=3, candidates=("kmeans", "temi"), parameters={"temi": HEADS})
    for wrong, words in (
        ({"tmei": graph}, "'tmei', which is no candidate; did you mean 'temi'"),
        ({"temi": 3}, "must be a NeighborGraph, not int"),
        ({"temi": small}, "the graph has 30 samples"),
        (small, "the graph has 30 samples"),
        (np.ones((len(X), 3)), "must be a NeighborGraph, not ndarray"),
        ("temi", "must be a NeighborGraph, not str"),
    ):
        with pytest.raises(InputError, match=words):
            model.fit(X, graph=wrong)
