"""The ONNX file of every method, run by onnxruntime, against the method's own predictions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import kinfold
from kinfold.corrections import Corrections, Merge, Move, Rename, Split
from kinfold.errors import MissingExtraError
from kinfold.exports._onnx import Outputs, build_model
from kinfold.methods import ICCE, SCAN, TAC, TEMI, TURTLE, SphericalKMeans
from kinfold.run import Run
from support.export_runs import expected

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
DIM, K = 12, 4


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(K, DIM))
    return (np.repeat(centers, 25, axis=0) + 0.3 * rng.normal(size=(25 * K, DIM))).astype(np.float32)


def nouns():
    return np.random.default_rng(1).normal(size=(30, DIM)).astype(np.float32)


SHORT = {"n_clusters": K, "n_epochs": 2, "n_heads": 2, "n_neighbors": 5, "random_state": 0}
MAKERS = {
    "kmeans": lambda: SphericalKMeans(n_clusters=K, temperature=0.07, random_state=0),
    "temi": lambda: TEMI(**SHORT),
    "scan": lambda: SCAN(**SHORT),
    "icce": lambda: ICCE(n_clusters=K, n_epochs=2, n_heads=4, random_state=0),
    "icce without classifier": lambda: ICCE(
        n_clusters=K, n_epochs=2, n_heads=2, consensus=False, self_training=False, random_state=0
    ),
    "turtle": lambda: TURTLE(n_clusters=K, n_steps=50, random_state=0),
    "turtle in two spaces": lambda: TURTLE(n_clusters=K, n_steps=50, space_dims=(7, 5), random_state=0),
    "tac": lambda: TAC(n_clusters=K, noun_features=nouns(), n_epochs=2, random_state=0),
    "tac without training": lambda: TAC(n_clusters=K, noun_features=nouns(), train=False, random_state=0),
}


def run_model(data: bytes, features: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": features.astype(np.float32)}), strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_every_method_predicts_the_same_as_onnx(name, features):
    model = MAKERS[name]().fit(features)
    built = build_model(name.split()[0], model, Outputs(np.arange(K), np.arange(K), ()))
    data = built.SerializeToString()
    rng = np.random.default_rng(2)
    strange = np.concatenate(
        [rng.normal(size=(50, DIM)), 1e3 * rng.normal(size=(5, DIM)), 1e-3 * features[:5]]
    )
    for rows in (features, strange.astype(np.float32), features[:1], np.zeros((1, DIM), np.float32)):
        own, found = model.predict_proba(rows), run_model(data, rows)
        np.testing.assert_allclose(found["probabilities"], own, atol=2e-5)
        np.testing.assert_array_equal(found["probabilities"], found["cluster_probabilities"])
        clear = np.sort(own, axis=1)[:, -1] - np.sort(own, axis=1)[:, -2] > 1e-4
        np.testing.assert_array_equal(found["group"][clear], own.argmax(axis=1)[clear])
    assert len(run_model(data, features)["group"]) == len(features)


@pytest.mark.parametrize("name", ["temi", "turtle"])
def test_a_batch_may_be_empty(name, features):
    model = MAKERS[name]().fit(features)
    data = build_model(name, model, Outputs(np.arange(K), np.arange(K), ())).SerializeToString()
    assert run_model(data, features[:0])["probabilities"].shape == (0, K)


def read_metadata(path) -> dict:
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def test_the_file_of_a_run_gives_the_groups_as_corrected(run, tmp_path):
    found = kinfold.export(run, "onnx", tmp_path / "model.onnx")
    features = run.features()
    matrix = np.asarray(features.matrix(run.manifest["features"]["variant"])[:])
    outputs = run_model(found.path.read_bytes(), matrix)
    own = run.model.predict_proba(matrix)
    np.testing.assert_allclose(outputs["cluster_probabilities"], own, atol=1e-5)
    joined = np.stack([own[:, 0], own[:, 1], own[:, 2] + own[:, 3]], axis=1)
    np.testing.assert_allclose(outputs["probabilities"], joined, atol=1e-5)
    plain = [record for record in expected(run) if not record["by_hand"] and record["cluster"] >= 0]
    rows = {row: place for place, row in enumerate(features.rows)}
    same = [outputs["group"][rows[record["row"]]] == record["cluster"] for record in plain]
    assert np.mean(same) > 0.9  # the sum of two may pass a third
    metadata = read_metadata(found.path)
    assert [group["id"] for group in metadata["kinfold.groups"]] == [0, 1, 2]
    assert metadata["kinfold.groups"][0]["name"] == "cats/dogs: <b>&amp;</b>"
    assert metadata["kinfold.clusters"] == [0, 1, 2, 2]
    assert metadata["kinfold.groups_not_told"] == [4]
    assert metadata["kinfold.backbone"]["card"]["name"] == "pixels"


def test_corrections_that_features_cannot_tell_are_said(run, tmp_path):
    other = Run.open(shutil.copytree(run.path, tmp_path / "run"))
    (other.path / "corrections.sqlite").unlink()
    with Corrections.open(other, source=run.features().path) as corrections:
        corrections.apply(Split(0, 2))
        corrections.apply(Merge([1, 3], 2))
        corrections.apply(Merge([2], 4))
        corrections.apply(Move(other.assignments["row"].to_pylist()[:1], None))
        corrections.apply(Rename(4, "joined"))
    metadata = read_metadata(kinfold.export(other, "onnx", tmp_path / "model.onnx").path)
    assert metadata["kinfold.clusters"] == [0, 4, 4, 4]
    assert [group["label"] for group in metadata["kinfold.groups"]] == ["group 0", "joined"]
    assert metadata["kinfold.groups_not_told"] == [5]


def test_without_the_package_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"kinfold\[onnx\]"):
        kinfold.export(run, "onnx", tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
