"""Claims about the contract of methods: every method keeps it, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from kinfold.compute import Runtime
from kinfold.errors import InputError
from kinfold.methods import METHODS
from kinfold.methods.protocol import Machine, Shape
from kinfold.neighbors import knn_graph

HEADS = {"n_heads": 2, "n_epochs": 3}
QUICK = {
    "auto": {"candidates": ("kmeans", "temi"), "parameters": {"temi": HEADS}},
    "graph": {"restarts": (0.1,)},
    "icce": {**HEADS, "self_training_iterations": 20},
    "kmeans": {},
    "scan": HEADS,
    "tac": {"noun_features": np.random.default_rng(1).normal(size=(30, 8)), "n_epochs": 3},
    "temi": HEADS,
    "turtle": {"n_steps": 60},
}
# Data, and what Auto hands on: checked by the estimator itself, with errors that name what is wrong in them.
WITHOUT_A_RULE = {"tac": {"noun_features", "nouns"}, "auto": {"candidates", "parameters"}}
MACHINE = Machine(rate=1e10, bandwidth=1e10)


@pytest.fixture(scope="module", name="X")
def blobs():
    return make_blobs(120, centers=3, n_features=8, random_state=0)[0].astype(np.float32)


def quick(name, **more):
    return METHODS[name](**{"n_clusters": 3, "random_state": 0, **QUICK[name], **more})


class Noting:
    """Progress that keeps the titles of what it is told."""

    def __init__(self):
        self.titles = []

    def task(self, title, *_args, **_more):
        self.titles.append(title)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, n=1, **figures):
        pass


@pytest.mark.parametrize("name", sorted(METHODS))
class TestEveryMethod:
    def test_has_a_rule_for_each_parameter_and_defaults_that_keep_to_them(self, name):
        method = METHODS[name]
        assert method.name == name
        assert set(method().get_params(deep=False)) - set(method.constraints) == WITHOUT_A_RULE.get(
            name, set()
        )
        assert set(method.constraints) <= set(method().get_params(deep=False))
        method().check_parameters()

    def test_refuses_what_breaks_a_shared_rule(self, name):
        for parameter, wrong in {"n_clusters": 0, "precision": "half", "random_state": -1}.items():
            with pytest.raises(InputError, match=f"{parameter} must be .*; got {wrong!r}"):
                quick(name, **{parameter: wrong}).check_parameters()

    def test_expects_a_fit_to_take_longer_with_more_samples(self, name):
        few, many = (quick(name).cost(Shape(n, 64), MACHINE) for n in (1_000, 1_000_000))
        assert 0 < few.seconds < many.seconds or name == "turtle"  # n_steps is fixed there
        assert few.model_bytes > 0
        assert few.n_fits == len(QUICK[name].get("candidates", "1"))

    def test_takes_its_own_graph_from_several(self, name, X):
        wanted = quick(name).needs(len(X)).graphs
        graphs = {key: knn_graph(X, **options) for key, options in wanted.items()}
        by_name, made = quick(name).fit(X, graph=graphs), quick(name).fit(X)
        np.testing.assert_array_equal(by_name.labels_, made.labels_)

    def test_is_told_the_device_and_whom_to_tell_by_a_runtime(self, name, X):
        progress = Noting()
        runtime = Runtime.resolve("cpu", "float32", progress=progress)
        unknown = {} if name == "auto" else {"device": "mps"}  # it isn't here: asking for it would raise
        if torch.backends.mps.is_available():
            unknown = {}
        fitted = quick(name, **unknown).fit(X, runtime=runtime)
        np.testing.assert_array_equal(fitted.labels_, quick(name, precision="float32").fit(X).labels_)
        assert progress.titles

    def test_predicts_the_same_from_its_model(self, name, X):
        fitted = quick(name).fit(X)
        model = fitted.to_model()
        loaded = METHODS[model.method].from_model(model, device="cpu")
        np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
        again = loaded.to_model()
        assert (again.method, again.config, again.n_features) == (model.method, model.config, 8)

    def test_describes_what_decides_a_fit_without_what_a_run_tells_by_itself(self, name):
        described = quick(name, n_clusters=5).describe_parameters(1_000)
        assert not {"n_clusters", "random_state", "device", "noun_features", "nouns"} & set(described)
        parameter = METHODS[name].neighbors_parameter
        if name in quick(name).needs(1_000).graphs:
            assert described[parameter] == quick(name, n_clusters=5).needs(1_000).graphs[name]["n_neighbors"]


def test_a_model_of_auto_is_read_by_the_chosen_method(X):
    fitted = quick("auto").fit(X)
    model = fitted.to_model()
    assert model.method == fitted.method_
    assert set(model.extra["chosen_from"]) == {"kmeans", "temi"}
    assert fitted.criteria_ == fitted.table_[fitted.method_]
    with pytest.raises(InputError, match="not by 'auto'"):
        METHODS["auto"].from_model(model)
