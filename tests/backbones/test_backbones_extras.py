from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from kinfold.backbones import load_backbone
from kinfold.backbones.extras import parse_data_config, parse_preprocess_config
from kinfold.errors import FormatError, InputError, MissingExtraError

FACTS = {
    "timm": ("timm:vit_tiny_patch16_224", "timm"),
    "open_clip": ("open_clip:ViT-B-32/openai", "open-clip"),
}


@pytest.fixture
def hidden(monkeypatch):
    """Make an installed package look absent."""

    def hide(module: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a)
        )

    return hide


@pytest.mark.parametrize("module", ["timm", "open_clip"])
def test_a_missing_extra_is_named_with_its_command(module, hidden):
    hidden(module)
    spec, extra = FACTS[module]
    with pytest.raises(MissingExtraError, match=rf"pip install 'kinfold\[{extra}\]'"):
        load_backbone(spec)


@pytest.mark.parametrize("module", ["timm", "open_clip"])
def test_a_broken_torchvision_is_named(module, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(InputError, match="torchvision that was built for PyTorch"):
        load_backbone(FACTS[module][0])


class TimmViT(torch.nn.Module):
    """What our adapter relies on in a timm vision transformer."""

    global_pool, num_prefix_tokens, embed_dim, num_features = "token", 3, 16, 16

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(3, 16, 8, 8)
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 16))
        self.reg_token = torch.nn.Parameter(torch.randn(1, 2, 16))
        self.blocks = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(4)])
        self.norm = torch.nn.LayerNorm(16)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(pixels).flatten(2).transpose(1, 2)
        prefix = torch.cat([self.cls_token, self.reg_token], 1).expand(len(pixels), -1, -1)
        return self.norm(self.blocks(torch.cat([prefix, tokens], 1)))

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return features[:, 0]


@pytest.fixture
def fake_timm(monkeypatch):
    module: Any = ModuleType("timm")
    module.__spec__ = importlib.util.spec_from_loader("timm", loader=None)
    module.is_model = lambda name: name == "vit_fake"
    module.list_models = lambda: ["vit_fake"]
    module.create_model = lambda name, pretrained, num_classes: TimmViT()
    module.data = ModuleType("timm.data")
    module.data.resolve_model_data_config = lambda model: {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_timm_transformers_are_read_token_by_token_without_registers(fake_timm, tmp_path, pictures):
    torch.manual_seed(0)
    model = TimmViT().eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(f"timm:vit_fake:{tmp_path / 'w.pth'}", device="cpu", precision="float32")
    images = np.stack([backbone.transform(p) for p in pictures])
    with torch.inference_mode():
        hidden = model.forward_features(torch.tensor(images).permute(0, 3, 1, 2) / 255 * 2 - 1)
    got = backbone.embed(images, ("cls", "cls+patches"))
    np.testing.assert_allclose(got["cls"], hidden[:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["cls+patches"][:, 16:], hidden[:, 3:].mean(1), rtol=1e-3, atol=1e-4)
    assert backbone.variants == {"cls": 16, "cls+patches": 32, "last4": 64}
    assert backbone.spec == f"timm:vit_fake:{tmp_path / 'w.pth'}"
    assert backbone.card.preprocessing.resize == 35


def test_timm_names_and_weights_that_do_not_fit_are_refused(fake_timm, tmp_path):
    with pytest.raises(InputError, match="did you mean 'vit_fake'"):
        load_backbone("timm:vit_fak")
    torch.save({"patch.bias": torch.zeros(16)}, tmp_path / "w.pth")
    with pytest.raises(FormatError, match="lacks weights"):
        load_backbone(f"timm:vit_fake:{tmp_path / 'w.pth'}")
    torch.save({**TimmViT().state_dict(), "norm.bias": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(FormatError, match=r"don't fit vit_fake: norm\.bias is 3 there, the model has 16"):
        load_backbone(f"timm:vit_fake:{tmp_path / 'w.pth'}")


def test_timm_squash_mode_and_open_clips_modes_are_read():
    config = {"input_size": (3, 384, 384), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_mode": "squash"}
    assert parse_data_config(config).resize is None
    assert parse_data_config({**config, "crop_mode": "center", "crop_pct": 1.0}).resize == 384
    shortest = parse_preprocess_config({"size": 224, "resize_mode": "shortest", "mean": (0, 0, 0)}, 224)
    assert (shortest.resize, shortest.mean) == (224, (0.0, 0.0, 0.0))
    assert (
        parse_preprocess_config({"resize_mode": "squash", "interpolation": "bilinear"}, (256, 256)).resize
        is None
    )
    with pytest.raises(InputError, match="longest"):
        parse_preprocess_config({"resize_mode": "longest"}, 224)


def installed(module: str) -> ModuleType:
    """Import an extra, or skip with the reason why it can't be."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        pytest.skip(f"{module} can't be imported: {error}")


def test_a_real_timm_model_gives_what_timm_gives(tmp_path, pictures):
    timm: Any = installed("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(
        f"timm:vit_tiny_patch16_224:{tmp_path / 'w.pth'}", device="cpu", precision="float32"
    )
    images = np.stack([backbone.transform(p) for p in pictures])
    p = backbone.card.preprocessing
    pixels = (
        torch.tensor(images).permute(0, 3, 1, 2) / 255 - torch.tensor(p.mean).view(1, 3, 1, 1)
    ) / torch.tensor(p.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = model(pixels)
    np.testing.assert_allclose(backbone.embed(images)["cls"], expected, rtol=1e-3, atol=1e-4)


def test_a_real_open_clip_model_gives_what_open_clip_gives(tmp_path, pictures):
    open_clip: Any = installed("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt").eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    backbone = load_backbone(f"open_clip:ViT-S-32-alt/{tmp_path / 'w.pt'}", device="cpu", precision="float32")
    images = np.stack([backbone.transform(p) for p in pictures])
    p = backbone.card.preprocessing
    pixels = (
        torch.tensor(images).permute(0, 3, 1, 2) / 255 - torch.tensor(p.mean).view(1, 3, 1, 1)
    ) / torch.tensor(p.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = model.encode_image(pixels)
    np.testing.assert_allclose(backbone.embed(images)["cls"], expected, rtol=1e-3, atol=1e-4)
