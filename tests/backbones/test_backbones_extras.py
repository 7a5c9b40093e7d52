from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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


TIMM = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.25,) * 3}
TIMM_SETTINGS: list[dict[str, Any]] = [
    {},
    {"crop_pct": 0.9, "interpolation": "bicubic"},
    {"crop_pct": 0.95, "interpolation": "bilinear"},
    {"crop_pct": 1.0, "crop_mode": "squash"},
    {"crop_pct": 0.9, "crop_mode": "squash"},
    {"crop_pct": 0.9, "crop_mode": "squash", "input_size": (3, 96, 160)},
    {"crop_pct": 0.65, "interpolation": "lanczos"},
]
OPEN_CLIP_SETTINGS: list[dict[str, Any]] = [
    {},
    {"size": 96, "interpolation": "bilinear"},
    {"size": (96, 160), "resize_mode": "squash"},
    {"size": 97, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)},
]


@pytest.mark.parametrize("settings", TIMM_SETTINGS, ids=str)
def test_pixels_are_those_of_timms_own_transform(settings):
    data: Any = installed("timm.data")
    config = {**TIMM, "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic", **settings}
    compare(parse_data_config(config), data.create_transform(**config, is_training=False))


@pytest.mark.parametrize("settings", OPEN_CLIP_SETTINGS, ids=str)
def test_pixels_are_those_of_open_clips_own_transform(settings):
    package: Any = installed("open_clip.transform")
    given = {name: value for name, value in settings.items() if name != "size"}
    own = package.image_transform(settings.get("size", 224), is_train=False, **given)
    compare(parse_preprocess_config(settings, 224), own)


def compare(ours: Any, transform: Any) -> None:
    """Hold our pixels against a transform of torchvision: one grey level at the most."""
    generator = np.random.default_rng(0)
    for width, height in ((420, 301), (301, 420), (50, 77), (1003, 260)):
        small = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        image = small.resize((width, height), Image.Resampling.BICUBIC)
        theirs = transform(image).numpy().transpose(1, 2, 0) * np.array(ours.std) + np.array(ours.mean)
        assert np.abs(ours(image) - 255 * theirs).max() <= 1.01


def test_timms_crop_is_read_as_a_share_of_the_resized_side():
    assert parse_data_config({**TIMM, "crop_pct": 1.0}).resize == 224
    assert parse_data_config({**TIMM, "crop_pct": 0.9}).resize == 248
    assert parse_data_config(TIMM).resize == 256
    squash = parse_data_config({**TIMM, "crop_mode": "squash", "crop_pct": 0.9})
    assert (squash.resize, squash.squash, squash.height) == (None, (248, 248), 224)
    assert parse_data_config({**TIMM, "crop_mode": "squash", "crop_pct": 1.0}).squash is None


def test_open_clips_modes_are_read():
    shortest = parse_preprocess_config({"size": 224, "resize_mode": "shortest", "mean": (0, 0, 0)}, 224)
    assert (shortest.resize, shortest.mean) == (224, (0.0, 0.0, 0.0))
    squash = parse_preprocess_config({"resize_mode": "squash", "interpolation": "bilinear"}, (256, 200))
    assert (squash.resize, squash.height, squash.width) == (None, 256, 200)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"crop_mode": "border"}, "crop_mode = 'border'"),
        ({"input_size": (3, 224, 112)}, "input_size = "),
        ({"input_size": (1, 224, 224)}, "input_size = "),
        ({"crop_border_pixels": 4}, "crop_border_pixels = 4"),
        ({"interpolation": "cubic"}, "interpolation = 'cubic'"),
    ],
)
def test_what_timm_may_ask_for_beyond_that_is_refused_by_name(settings, named):
    with pytest.raises(InputError) as caught:
        parse_data_config({**TIMM, **settings})
    assert f"timm's setting {named}" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"resize_mode": "longest", "fill_color": 127}, "resize_mode = 'longest'"),
        ({"size": (96, 160)}, "size = "),
        ({"interpolation": "lanczos"}, "interpolation = 'lanczos'"),
        ({"mode": "L"}, "mode = 'L'"),
    ],
)
def test_what_open_clip_may_ask_for_beyond_that_is_refused_by_name(settings, named):
    with pytest.raises(InputError) as caught:
        parse_preprocess_config(settings, 224)
    assert f"open_clip's setting {named}" in str(caught.value)


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
