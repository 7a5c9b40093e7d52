"""Claims about graph clustering as an estimator; its labelings are in test_methods_graph_labelings.py."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs
from sklearn.utils.estimator_checks import check_estimator

import kinfold.methods._base as base_module
import kinfold.methods._graph_labelings as labelings_module
import kinfold.methods._self_training as self_training_module
from kinfold import GraphClustering
from kinfold.consensus import consensus
from kinfold.errors import InputError
from kinfold.methods import load_model, save_model
from kinfold.methods._graph_labelings import graph_labelings
from kinfold.metrics import clustering_accuracy
from kinfold.neighbors import knn_graph

QUICK = {"n_clusters": 4, "restarts": (0.1,), "random_state": 0}
X = make_blobs(150, centers=4, n_features=6, cluster_std=2.0, random_state=1)[0].astype(np.float32)


def test_check_estimator_passes(monkeypatch):
    # Some fifty fits that tell nothing of quality: one labeling of each kind, and a short training.
    monkeypatch.setattr(labelings_module, "N_KMEANS", 1)
    monkeypatch.setattr(labelings_module, "N_WARD", 1)
    monkeypatch.setattr(self_training_module, "_LEAST_ITERATIONS", 40)
    check_estimator(GraphClustering(restarts=(0.1,)))


def test_digits_are_told_apart():
    rows, truth = load_digits(return_X_y=True)
    model = GraphClustering(n_clusters=10, random_state=0).fit(rows)
    assert clustering_accuracy(truth, model.labels_) > 0.8


def test_the_classifier_predicts_what_it_learned_of_the_consensus_of_the_labelings():
    graph = knn_graph(X, n_neighbors=8)
    model = GraphClustering(**QUICK).fit(X, graph=graph)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    labelings = graph_labelings(X, graph, 4, seed=seed, restarts=(0.1,))
    expected = consensus(labelings, n_clusters=4, random_state=seed)
    np.testing.assert_array_equal(model.consensus_labels_, expected.labels)
    found = model.self_training_
    logits = ((X - found.mean) / found.scale) @ found.weight.T + found.bias
    np.testing.assert_array_equal(model.labels_, logits.argmax(axis=1))
    np.testing.assert_array_equal(model.predict(X), model.labels_)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_touches_no_label(precision):
    plain = GraphClustering(**QUICK).fit(X)
    np.testing.assert_array_equal(GraphClustering(**QUICK, precision=precision).fit(X).labels_, plain.labels_)


def test_more_neighbours_than_there_are_samples_are_cut():
    few = GraphClustering(n_clusters=2, n_neighbors=50, random_state=0).fit(X[:7])
    assert few.needs(7).graphs["graph"] == {"n_neighbors": 6}
    assert set(few.labels_) <= {0, 1}


def test_a_saved_model_predicts_and_is_calibrated_the_same(tmp_path):
    model = GraphClustering(**QUICK).fit(X)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.temperature_ == model.temperature_
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_the_fit_tells_how_consensus_and_classifier_were_chosen():
    facts = GraphClustering(**QUICK).fit(X).facts()
    assert facts["consensus"] in {candidate["name"] for candidate in facts["candidates"]}
    assert {"learning_rate", "dims", "agreement"} == set(facts["self_training"][0])


def test_a_graph_that_is_given_is_not_made_again(monkeypatch):
    graph = knn_graph(X, n_neighbors=10)
    made = GraphClustering(**QUICK).fit(X)
    monkeypatch.setattr(base_module, "knn_graph", None)
    np.testing.assert_array_equal(GraphClustering(**QUICK).fit(X, graph=graph).labels_, made.labels_)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"restarts": ()}, "restarts must be a list of"),
        ({"restarts": (0.0,)}, r"restarts must be a list of .*\[0.05, 0.1\]"),
        ({"restarts": (1.0,)}, "restarts must be a list of"),
        ({"restarts": 0.1}, "restarts must be a list of"),
        ({"n_neighbors": 0}, "n_neighbors must be"),
    ],
)
def test_impossible_parameters_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        GraphClustering(**{**QUICK, **wrong}).fit(X)


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(InputError, match="n_clusters"):
        GraphClustering(n_clusters=8).fit(X[:5])
