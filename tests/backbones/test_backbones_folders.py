from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kinfold.backbones import load_backbone
from kinfold.backbones._hub import is_complete
from kinfold.backbones.model_files import read_numbers
from kinfold.errors import FormatError, HubUnavailableError, InputError
from kinfold.language import load_text_encoder

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98"
TIMM = {
    "architecture": "vit_small_patch14_dinov2",
    "num_classes": 0,
    "num_features": 384,
    "pretrained_cfg": {"input_size": [3, 518, 518], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No hub, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.fixture
def cache(tiny) -> Path:
    """A model as the hub's cache holds it: files in blobs, links to them in snapshots, the commit in refs."""
    model = tiny.save(tiny.make("vit"), "model")
    home = tiny.root / "hub" / "models--someone--tiny-vit"
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in model.iterdir():
        shutil.copy(file, home / "blobs" / f"hash-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"hash-{file.name}")
    return home


def refusal(name: Any, load: Any = load_backbone) -> str:
    with pytest.raises(InputError) as caught:
        load(name, device="cpu")
    return str(caught.value)


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("part", ["", "snapshots", f"snapshots/{COMMIT}", "refs", "refs/main", "blobs"])
def test_any_place_in_the_hubs_cache_layout_is_the_model(part, cache):
    backbone = load_backbone(str(cache / part), device="cpu")
    assert backbone.spec == str(cache / "snapshots" / COMMIT)
    assert backbone.card.name == "someone/tiny-vit"
    assert backbone.variants["cls"] == 32


def test_the_current_one_of_several_snapshots_is_taken(cache):
    write(cache / "snapshots" / OLDER, config__json={"model_type": "resnet"})
    assert load_backbone(cache, device="cpu").spec.endswith(COMMIT)
    (cache / "refs" / "main").unlink()
    assert "holds 2 versions" in refusal(cache)
    shutil.rmtree(cache / "snapshots" / OLDER)
    assert load_backbone(cache, device="cpu").spec.endswith(COMMIT)


def test_the_whole_cache_is_told_to_name_one_model(cache):
    message = refusal(cache.parent)
    assert "holds someone/tiny-vit" in message
    assert str(cache) in message


def test_a_snapshot_that_was_copied_without_its_blobs_is_told_so(cache, tmp_path):
    lonely = tmp_path / "copied" / COMMIT
    shutil.copytree(cache / "snapshots" / COMMIT, lonely, symlinks=True)
    assert "link to a file that isn't there" in refusal(lonely)


def test_a_cache_without_a_snapshot_is_told_so(cache):
    shutil.rmtree(cache / "snapshots" / COMMIT)
    assert "never downloaded" in refusal(cache)


def test_a_file_inside_a_model_leads_to_its_folder(cache):
    file = cache / "snapshots" / COMMIT / "model.safetensors"
    assert f"give its folder {file.parent}" in refusal(str(file))


@pytest.mark.parametrize("load", [load_backbone, load_text_encoder])
@pytest.mark.parametrize(
    "name",
    [
        *("./models/dino", "../models/dino", "~/models/dino", "~nobody-here/dino", "/models/dino"),
        *(
            "C:\\models\\dino",
            "C:/models/dino",
            "models\\dino",
            "\\\\server\\dino",
            "models/dino/",
            "a/b/dino",
        ),
        "./" + "x" * 300,
    ],
)
def test_a_mistyped_path_is_no_hub_id(name, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(name, load)
    assert message.startswith(f"there is no folder {name}")
    assert "hub id" not in message


def test_a_mistyped_path_shows_where_it_ends_and_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dinov2", "resnet", ".hidden"):
        (tmp_path / "models" / name).mkdir(parents=True)
    message = refusal("./models/dino2")
    assert f"(looked for {tmp_path / 'models' / 'dino2'})" in message
    assert f"{tmp_path / 'models'} holds the folders dinov2, resnet; did you mean 'dinov2'?" in message
    assert "no folder" in refusal(Path("models/dino2"))  # a Path is never a hub id


def test_a_hub_id_that_may_be_a_path_says_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "dinov2").mkdir(parents=True)
    with pytest.raises(HubUnavailableError) as caught:
        load_backbone("models/dino2")
    assert "Nor is there a folder models/dino2" in str(caught.value)
    assert "did you mean 'dinov2'" in str(caught.value)
    with pytest.raises(HubUnavailableError) as caught:
        load_backbone("someone/dino2")
    assert "Nor is there" not in str(caught.value)


@pytest.mark.parametrize("start", ["https://huggingface.co/", "hf.co/", "huggingface.co/"])
def test_an_address_of_the_hub_leads_to_the_id(start):
    assert refusal(f"{start}facebook/dinov2-base/tree/main").endswith(
        "give the model's hub id facebook/dinov2-base"
    )


@pytest.mark.parametrize(
    "config",
    [
        TIMM,
        {**TIMM, "model_type": "timm_wrapper", "architectures": ["TimmWrapperModel"]},
        {"architecture": "resnet18", "num_classes": 1000, "input_size": [3, 224, 224]},
    ],
    ids=["hub", "TimmWrapper", "old"],
)
@pytest.mark.parametrize("load", [load_backbone, load_text_encoder])
def test_a_folder_of_timm_is_told_what_it_is_and_what_to_give(config, load, tmp_path):
    folder = write(tmp_path / "vit", config__json=config, model__safetensors={})
    message = refusal(folder, load)
    assert f"{folder} is a model of timm" in message
    assert "pip install 'kinfold[timm]'" in message
    assert "timm:NAME:FILE" in message
    assert f"timm:{config['architecture']}:{folder / 'model.safetensors'}" in message


def test_a_model_of_timm_in_the_hubs_cache_is_told_the_same(tmp_path, monkeypatch):
    message = refusal("timm/vit_small_patch14_dinov2.lvd142m")
    assert "is a model of timm. Install kinfold[timm]" in message
    assert "timm:vit_small_patch14_dinov2.lvd142m, or timm:NAME:FILE" in message
    home = tmp_path / "models--someone--copy"
    write(home / "snapshots" / COMMIT, config__json=TIMM, model__safetensors={})
    assert "is a model of timm" in refusal(home)


def test_the_command_refuses_a_folder_of_timm_without_a_traceback(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for shade in range(4):
        Image.new("RGB", (20, 20), (60 * shade, 0, 0)).save(photos / f"{shade}.png")
    folder = write(tmp_path / "vit", config__json=TIMM, model__safetensors={})
    command = [sys.executable, "-m", "kinfold", "cluster", str(photos), "-k", "2", "-m", "kmeans"]
    done = subprocess.run(
        [*command, "-b", str(folder), "--no-report", "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 2
    assert "timm" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"open_clip_config.json": {}, "open_clip_model.safetensors": {}},
            "open_clip:ViT-B-32/{}/open_clip_model",
        ),
        ({"model_index.json": {}, "image_encoder/config.json": {}}, "of diffusers, .*: image_encoder"),
        ({"config.json": {"_class_name": "AutoencoderKL", "_diffusers_version": "1"}}, "of diffusers"),
        ({"modules.json": [], "0_CLIPModel/config.json": {}}, "sentence-transformers; .*: 0_CLIPModel"),
        ({"adapter_config.json": {}, "adapter_model.safetensors": {}}, "adapter of PEFT"),
        ({"model.gguf": {}}, r"of GGUF \(model\.gguf\)"),
        ({"model.onnx": {}}, r"of ONNX \(model\.onnx\)"),
        ({"onnx/model.onnx": {}}, r"of ONNX \(onnx/\)"),
        ({"model.keras": {}}, r"of Keras \(model\.keras\)"),
        ({"saved_model.pb": {}}, "of TensorFlow"),
        ({"tf_model.h5": {}, "config.json": {"model_type": "vit"}}, r"has no weights: .*Keras or TensorFlow"),
        ({"flax_model.msgpack": {}, "config.json": {"model_type": "vit"}}, "has no weights: .*of Flax"),
        ({"best.pt": {}}, r"PyTorch without a description of the model \(best\.pt\)"),
        ({"small/config.json": {}, "large/config.json": {}}, "give one of them: large, small"),
        ({"config.json": []}, "it isn't an object"),
        ({"config.json": {"model_type": "vit", "hidden_size": "wide"}}, r"config\.json"),
        (
            {"config.json": {"model_type": "vit", "num_attention_heads": 0}, "model.safetensors": {}},
            "weights",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_other_libraries_folders_are_refused_with_what_they_are(files, says, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises((InputError, FormatError), match=says.replace("{}", str(tmp_path))) as caught:
        load_backbone(tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value)


class Evil:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["pickle", "old", "rubbish", "empty", "zip"])
@pytest.mark.parametrize("load", [load_backbone, load_text_encoder])
def test_pickles_beside_a_configuration_are_refused_in_words_and_never_run(kind, load, tiny, tmp_path):
    import torch

    folder = tmp_path / "model"
    if load is load_backbone:
        tiny.save(tiny.make("vit"), "model")
        (folder / "model.safetensors").unlink()
    else:
        import transformers

        transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(
            folder
        )
    weights, trace = folder / "pytorch_model.bin", tmp_path / "ran"
    if kind == "pickle":
        weights.write_bytes(pickle.dumps({"a": Evil(trace)}))
    elif kind in ("old", "zip"):
        torch.save({"a": Evil(trace)}, weights, _use_new_zipfile_serialization=kind == "zip")
    else:
        weights.write_bytes(b"" if kind == "empty" else np.random.default_rng(0).bytes(500))
    with pytest.raises(FormatError) as caught:
        load(folder, device="cpu")
    message = str(caught.value)
    assert str(folder) in message
    if kind in ("pickle", "old", "zip"):
        assert "could run code, which Kinfold doesn't open" in message
        assert "model.safetensors" in message
    assert not trace.exists()


def test_plain_weights_in_pytorchs_format_are_still_read(tiny):
    import torch

    model = tiny.make("vit")
    folder = tiny.save(model, "model")
    expected = load_backbone(folder, device="cpu").fingerprint()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert load_backbone(folder, device="cpu").fingerprint() == expected


@pytest.mark.parametrize("place", ["../other/model.safetensors", "/etc/hostname", "..", 3, None])
def test_an_index_of_weights_leads_to_no_file_elsewhere(tmp_path, place):
    for name in ("model", "other"):
        (tmp_path / name).mkdir()
    folder, other = tmp_path / "model", tmp_path / "other" / "model.safetensors"
    save_file({"logit_scale": torch.tensor(3.0)}, other)
    (folder / "config.json").write_text("{}")
    index = {"weight_map": {"logit_scale": place}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(folder)
    with pytest.raises(FormatError, match="no name of a file beside it"):
        read_numbers(folder, ["logit_scale"])
    index = {"weight_map": {"logit_scale": "part-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(other, folder / "part-1.safetensors")
    assert is_complete(folder)
    assert read_numbers(folder, ["logit_scale"]) == {"logit_scale": 3.0}
