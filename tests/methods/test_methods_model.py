import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError

from kinfold import TEMI, SphericalKMeans
from kinfold.errors import FormatError, InputError
from kinfold.methods import METHODS, assess, diagnose, get_method, load_model, predict_top, save_model

HEADS = {"n_heads": 2, "n_epochs": 3}
QUICK = {
    "auto": {"candidates": ("kmeans", "temi"), "parameters": {"temi": HEADS}},
    "icce": {**HEADS, "self_training_iterations": 20},
    "scan": HEADS,
    "tac": {"n_epochs": 3, "noun_features": np.random.default_rng(1).normal(size=(20, 8))},
    "temi": HEADS,
    "turtle": {"n_steps": 10},
}


@pytest.fixture(params=sorted(METHODS))
def fitted(request):
    X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    options = QUICK.get(request.param, {})
    return METHODS[request.param](n_clusters=6, random_state=0, **options).fit(X), X


def test_a_saved_model_predicts_the_same(fitted, tmp_path):
    model, X = fitted
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    np.testing.assert_array_equal(loaded.predict(X), model.labels_)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("n_clusters", [3, 9])
def test_a_fitted_model_keeps_its_clusters_whatever_the_parameter_says_later(fitted, n_clusters, tmp_path):
    model, X = fitted
    expected, found = model.predict_proba(X), assess(model, X)
    model.set_params(n_clusters=n_clusters)
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    assert predict_top(model, X, 50).clusters.shape == (60, 6)
    assert assess(model, X) == found
    save_model(model, tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict_proba(X), expected)


def test_a_saved_model_is_the_same_bytes_twice(fitted, tmp_path):
    model, _ = fitted
    save_model(model, tmp_path / "one")
    save_model(model, tmp_path / "two")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_loaded_model_refuses_other_widths(fitted, tmp_path):
    model, X = fitted
    save_model(model, tmp_path)
    with pytest.raises(ValueError, match="features"):
        load_model(tmp_path).predict(X[:, :5])


def test_predict_top_orders_the_probabilities(fitted, monkeypatch):
    model, X = fitted
    monkeypatch.setattr("kinfold.methods._model._BLOCK_VALUES", 8 * 13)
    top = predict_top(model, X, 3)
    probabilities = model.predict_proba(X)
    assert top.clusters.dtype == np.int32
    np.testing.assert_allclose(top.probabilities, -np.sort(-probabilities, axis=1)[:, :3], atol=1e-6)
    np.testing.assert_array_equal(top.clusters[:, 0], model.labels_)


def test_predict_top_gives_at_most_all_clusters(fitted):
    model, X = fitted
    assert predict_top(model, X, 50).clusters.shape == (60, 6)


def test_unknown_methods_get_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'kmeans'"):
        get_method("kmean")


def test_damaged_and_foreign_models_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"model\.json is missing"):
        load_model(tmp_path)
    save_model(SphericalKMeans(n_clusters=2, random_state=0).fit(np.eye(4)), tmp_path)
    weights, description = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3])
    with pytest.raises(FormatError, match=r"model\.safetensors is damaged"):
        load_model(tmp_path)
    save_file({"other": np.zeros(3)}, weights)
    with pytest.raises(FormatError, match="does not fit"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(FormatError, match="upgrade"):
        load_model(tmp_path)
    description.write_text(json.dumps({**content, "format": "else"}))
    with pytest.raises(FormatError, match="does not describe"):
        load_model(tmp_path)
    for method in ("auto", "kmean", None, []):  # of "auto" the chosen method is saved
        description.write_text(json.dumps({**content, "method": method}))
        with pytest.raises(FormatError, match="does not fit"):
            load_model(tmp_path)
    description.write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        load_model(tmp_path)


def test_only_the_best_head_is_kept(tmp_path):
    X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    save_model(TEMI(n_clusters=3, n_heads=4, n_epochs=2, random_state=0).fit(X), tmp_path)
    assert load_file(tmp_path / "model.safetensors")["gain"].shape == (1, 3, 1)


def test_diagnosis_names_dead_clusters_and_giants():
    healthy = diagnose(np.arange(100) % 4, 4)
    assert not healthy.messages
    sick = diagnose(np.array([2] * 90 + [0] * 10), 5)
    assert sick.dead == (1, 3, 4)
    assert (sick.largest, sick.largest_share) == (2, 0.9)
    assert len(sick.messages) == 2
    assert "3 of 5 clusters are empty" in sick.messages[0]
    assert "Cluster 2 holds 90%" in sick.messages[1]


def test_diagnosis_of_two_uneven_kinds_is_no_alarm():
    assert not diagnose(np.array([0] * 70 + [1] * 30), 2).messages


@pytest.mark.parametrize("method", sorted(METHODS))
def test_nothing_is_predicted_before_a_fit(method):
    X = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    for predict in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(METHODS[method](n_clusters=6), predict)(X)
