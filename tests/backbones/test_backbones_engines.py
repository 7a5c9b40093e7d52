"""Claims about the engines that run a network in PyTorch's place."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from kinfold.backbones import _efficientnet_lite as lite
from kinfold.backbones import _engines, load_backbone, usable_engines
from kinfold.compute import ENGINES, has_bfloat16_units
from kinfold.errors import InputError, MissingExtraError

OTHERS = [name for name in ENGINES if name not in ("auto", "torch")]
FAMILIES = ("dinov2_with_registers", "clip_vision_model", "vit_mae")
CPU = torch.device("cpu")


@pytest.fixture(params=OTHERS)
def engine(request):
    if request.param not in usable_engines():
        pytest.skip(
            f"{request.param}, or onnx with it, isn't installed: pip install 'kinfold[{request.param}]'"
        )
    return request.param


def load(folder, engine="torch", precision="float32"):
    return load_backbone(folder, device="cpu", precision=precision, engine=engine)


def photographs(backbone, n):
    """Return real pixels (n, side, side, 3): squares cut out of two photographs."""
    side = backbone.card.preprocessing.height
    rng = np.random.default_rng(0)
    squares = []
    for number in range(n):
        pixels = load_sample_images().images[number % 2]
        left, top = int(rng.integers(0, 440)), int(rng.integers(0, 220))
        square = Image.fromarray(pixels[top : top + 200, left : left + 200])
        squares.append(np.asarray(square.resize((side, side))))
    return np.stack(squares)


def assert_alike(found, expected):
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max(initial=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_pytorch_up_to_rounding(family, engine, tiny):
    folder = tiny.save(tiny.make(family), family)
    exact, other = load(folder), load(folder, engine)
    assert other.engine == engine
    names = list(exact.variants)[::-1]
    batch = photographs(exact, 5)
    expected = exact.embed(batch, names)
    for n in (0, 1, 2, 5):
        found = other.embed(batch[:n], names)
        assert list(found) == names
        for name in names:
            assert found[name].shape == (n, exact.variants[name])
            assert_alike(found[name], expected[name][:n])


def test_position_embeddings_made_for_another_size_are_those_of_pytorch(engine, tiny):
    folder = tiny.save(tiny.make("dinov2_with_registers"), "dinov2")
    settings = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 48, "width": 40},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    exact, other = load(folder), load(folder, engine)
    batch = np.random.default_rng(0).integers(0, 256, (5, 48, 40, 3), dtype=np.uint8)
    assert_alike(other.embed(batch)["cls"], exact.embed(batch)["cls"])


def test_a_network_with_operators_that_the_exporter_lacks_is_refused(tiny):
    if "onnxruntime" not in usable_engines():
        pytest.skip("onnxruntime isn't installed: pip install 'kinfold[onnxruntime]'")
    folder = tiny.save(tiny.make("siglip2_vision_model"), "siglip2")  # interpolates for each image
    with pytest.raises(InputError, match=r"the engine onnxruntime can't run this network: .*; use PyTorch"):
        load(folder, "onnxruntime")


@pytest.mark.skipif(not lite.is_installed(), reason="the weights of the small network aren't installed")
def test_vectors_of_photographs_by_the_small_network_are_those_of_pytorch(engine):
    exact, other = load(lite.NAME), load(lite.NAME, engine)
    batch = photographs(exact, 5)
    expected, found = exact.embed(batch)["cls"], other.embed(batch)["cls"]
    assert_alike(found, expected)
    assert np.array_equal(other.embed(batch)["cls"], found)
    assert np.array_equal(load(lite.NAME, engine).embed(batch)["cls"], found)


def test_in_float32_any_engine_is_the_same_backbone_and_is_recorded(engine, tiny):
    folder = tiny.save(tiny.make("vit"), "vit")
    exact, other = load(folder), load(folder, engine)
    assert other.fingerprint() == exact.fingerprint()
    assert other.find_batch_size() == exact.find_batch_size()
    assert (exact.describe()["engine"], other.describe()["engine"]) == ("torch", engine)
    assert other.describe()["precision"] == "float32"


def test_in_bfloat16_openvino_is_another_backbone_than_pytorch(tiny):
    if "openvino" not in usable_engines():
        pytest.skip("openvino isn't installed: pip install 'kinfold[openvino]'")
    folder = tiny.save(tiny.make("vit"), "vit")
    exact, coarse = load(folder), load(folder, precision="bfloat16")
    if not has_bfloat16_units(CPU):
        with pytest.raises(InputError, match="no bfloat16 on this processor"):
            load(folder, "openvino", "bfloat16")
        return
    other = load(folder, "openvino", "bfloat16")
    assert len({exact.fingerprint(), coarse.fingerprint(), other.fingerprint()}) == 3
    expected = exact.embed(photographs(exact, 4))["cls"]
    found = other.embed(photographs(exact, 4))["cls"]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() > 0.99


def test_onnx_runtime_means_float32_by_auto_and_refuses_bfloat16(precision, monkeypatch):
    monkeypatch.setattr(_engines, "_missing_package", lambda engine: None)
    assert _engines.resolve_engine("onnxruntime", "auto", CPU) == (("onnxruntime",), torch.float32)
    with pytest.raises(InputError, match="no bfloat16 on a CPU"):
        _engines.resolve_engine("onnxruntime", "bfloat16", CPU)


def test_auto_is_another_engine_only_where_vectors_are_the_same(precision, monkeypatch):
    monkeypatch.setattr(_engines, "_missing_package", lambda engine: None)
    engines, dtype = _engines.resolve_engine("auto", "auto", CPU)
    assert str(dtype) == f"torch.{precision}"
    assert engines == (("openvino", "onnxruntime", "torch") if precision == "float32" else ("torch",))
    others, _ = _engines.resolve_engine("auto", "auto", CPU, is_transformer=False)
    assert sorted(others) == sorted(engines)
    assert others[-1] == "torch"
    assert _engines.resolve_engine("auto", "float32", torch.device("cuda"))[0] == ("torch",)


@pytest.mark.parametrize("name", OTHERS)
def test_engines_run_on_the_cpu_alone(name, monkeypatch):
    monkeypatch.setattr(_engines, "_missing_package", lambda engine: None)
    with pytest.raises(InputError, match=f"{name} runs on the CPU alone"):
        _engines.resolve_engine(name, "float32", torch.device("cuda"))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("gone", ["itself", "onnx"])
def test_without_its_packages_the_message_names_the_extra(name, gone, tiny, monkeypatch):
    folder = tiny.save(tiny.make("vit"), "vit")
    gone = name if gone == "itself" else gone
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module, *more: None if module == gone else find_spec(module, *more),
    )
    with pytest.raises(MissingExtraError, match=rf"The engine {name} needs {gone}: .*'kinfold\[{name}\]'"):
        load(folder, name)
    assert name not in usable_engines()
    assert name != load(folder, "auto").engine


def test_an_unknown_engine_is_refused(tiny):
    with pytest.raises(InputError, match="engine must be one of"):
        load(tiny.save(tiny.make("vit"), "vit"), "tensorrt")


@pytest.mark.parametrize("harm", ["another vector", "not a number", "no file"])
def test_an_engine_that_errs_is_refused_and_auto_takes_pytorch(harm, tiny, monkeypatch, caplog):
    if "onnxruntime" not in usable_engines():
        pytest.skip("onnxruntime isn't installed: pip install 'kinfold[onnxruntime]'")

    def open_wrongly(file, dtype, n_threads):
        if harm == "no file":
            raise RuntimeError("unknown operator\nand more")
        run = _engines._open_onnxruntime(file, dtype, n_threads)
        wrong = {
            "another vector": lambda values: values[:, ::-1],
            "not a number": lambda values: values * np.nan,
        }[harm]
        return lambda images: [wrong(values) for values in run(images)]

    monkeypatch.setattr(_engines, "_OPENERS", dict.fromkeys(OTHERS, open_wrongly))
    folder = tiny.save(tiny.make("vit"), "vit")
    words = (
        "can't run this network: unknown operator and more; use PyTorch"
        if harm == "no file"
        else "other vectors"
    )
    with pytest.raises(InputError, match=words):
        load(folder, "onnxruntime")
    with caplog.at_level(logging.INFO, logger="kinfold"):
        fallen = load(folder, "auto")
    assert fallen.engine == fallen.describe()["engine"] == "torch"
    assert words in caplog.text
    batch = photographs(fallen, 2)
    assert np.array_equal(fallen.embed(batch)["cls"], load(folder).embed(batch)["cls"])


def test_loading_openvino_reports_to_nobody(tiny):
    if "openvino" not in usable_engines():
        pytest.skip("openvino isn't installed: pip install 'kinfold[openvino]'")
    load(tiny.save(tiny.make("vit"), "vit"), "openvino")
    assert "openvino_telemetry" not in sys.modules
    telemetry = sys.modules["openvino.tools.ovc"].telemetry
    assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"


def test_descriptors_take_no_engine():
    assert "engine" not in load_backbone("hog", engine="auto").describe()
