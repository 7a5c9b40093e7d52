"""Claims about the engine that runs a network: chosen by the number of images, recorded, and gone on with."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

import kinfold
from kinfold.backbones import usable_engines
from kinfold.errors import InputError
from kinfold.features import FeatureStore
from kinfold.features.store import StoreManifest
from kinfold.pipeline import _source

needs_another = pytest.mark.skipif(
    "onnxruntime" not in usable_engines(), reason="pip install 'kinfold[onnxruntime]'"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny vision transformer with random weights, as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    folder = tmp_path_factory.mktemp("model") / "vit"
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def embed(photos, out, model, **more):
    return kinfold.embed(photos, out, backbone=model, device="cpu", n_workers=1, **more)


def fit(photos, out, model, **more):
    more = {"precision": "float32", **more}
    return kinfold.cluster(
        photos, 3, method="kmeans", out=out, backbone=model, device="cpu", report=False, n_workers=1, **more
    )


@needs_another
def test_a_run_of_one_engine_takes_images_by_another(photos, tmp_path, model):
    run = fit(photos, tmp_path / "run", model, engine="onnxruntime")
    assert run.manifest.backbone["engine"] == "onnxruntime"
    tables = [
        kinfold.predict(run, photos, tmp_path / f"{engine}.parquet", device="cpu", engine=engine, n_workers=1)
        for engine in ("torch", "onnxruntime")
    ]
    assert tables[0]["cluster"].to_pylist() == tables[1]["cluster"].to_pylist()
    assert pc.max(pc.abs(pc.subtract(tables[0]["confidence"], tables[1]["confidence"]))).as_py() < 1e-3
    assert tables[1]["cluster"].to_pylist() == run.assignments["cluster"].to_pylist()
    embedded = FeatureStore.open(run.path / "features").matrix()[:]
    again = embed(photos, tmp_path / "again", model, precision="float32", engine="onnxruntime")
    assert np.array_equal(again.matrix()[:], embedded)


@needs_another
def test_auto_starts_an_engine_for_many_images_in_float32_alone(
    photos, tmp_path, model, precision, monkeypatch
):
    few = embed(photos, tmp_path / "few", model)
    monkeypatch.setattr(_source, "_WORTH_AN_ENGINE", 45)
    many = embed(photos, tmp_path / "many", model)
    asked = embed(photos, tmp_path / "asked", model, engine="torch")
    assert (few.backbone["engine"], asked.backbone["engine"]) == ("torch", "torch")
    fastest = list(usable_engines())[1]
    assert many.backbone["engine"] == (fastest if precision == "float32" else "torch")
    np.testing.assert_allclose(many.matrix()[:], few.matrix()[:], rtol=0, atol=1e-4)


@needs_another
def test_auto_goes_on_with_the_engine_of_an_unfinished_store(photos, tmp_path, model):
    store = embed(photos, tmp_path / "f", model, precision="float32", engine="onnxruntime")
    whole = store.matrix()[:]
    manifest = StoreManifest.read(store.path)
    assert manifest.complete
    assert _source._recorded_engine(manifest) is None  # nothing is left to be embedded
    manifest.complete = False
    manifest.variants["cls"].shards.clear()
    manifest.write(store.path)
    again = embed(photos, tmp_path / "f", model, precision="float32")
    assert again.backbone["engine"] == "onnxruntime"
    assert np.array_equal(again.matrix()[:], whole)


def test_an_engine_that_is_gone_does_not_stop_an_unfinished_store(photos, tmp_path, model, monkeypatch):
    store = embed(photos, tmp_path / "f", model, precision="float32")
    manifest = StoreManifest.read(store.path)
    manifest.complete, manifest.backbone["engine"] = False, "openvino"
    manifest.write(store.path)
    monkeypatch.setattr(_source, "usable_engines", lambda: {"torch": "2"})
    again = embed(photos, tmp_path / "f", model, precision="float32")
    assert again.backbone["engine"] == "torch"


def test_in_bfloat16_a_run_loads_its_own_engine(photos, tmp_path, model):
    run = fit(photos, tmp_path / "run", model, precision="bfloat16")
    assert run.backbone(device="cpu", engine="onnxruntime").engine == "torch"


@pytest.mark.parametrize("work", [embed, fit])
def test_an_unknown_engine_is_refused_before_anything_is_written(work, photos, tmp_path):
    with pytest.raises(InputError, match="engine must be one of"):
        work(photos, tmp_path / "out", "hog", engine="tensorrt")
    assert not list(tmp_path.glob("out/*"))
