from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinfold.backbones import BackboneCard, Preprocessing, VitShape, load_backbone
from kinfold.backbones import _catalogue as catalogue
from kinfold.errors import FormatError, InputError

SHAPE = VitShape(patch=8, width=32, depth=5, heads=2, mlp_ratio=2, image_size=32)


@pytest.fixture(autouse=True)
def tiny_card(monkeypatch: pytest.MonkeyPatch) -> BackboneCard:
    card = BackboneCard(
        "ibot-tiny", "iBOT", "nowhere", Preprocessing(32, 32, 36), 32, adapter="checkpoint", shape=SHAPE
    )
    monkeypatch.setitem(catalogue.CARDS, card.name, card)
    return card


class Block(torch.nn.Module):
    """One block as the original projects write it, independent of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(32, eps=1e-6), torch.nn.LayerNorm(32, eps=1e-6)
        self.attn = torch.nn.Module()
        self.attn.qkv, self.attn.proj = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32)
        self.mlp = torch.nn.Module()
        self.mlp.fc1, self.mlp.fc2 = torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(n, t, 3, 2, 16).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) * 16**-0.5).softmax(-1) @ v
        x = x + self.attn.proj(mixed.transpose(1, 2).reshape(n, t, 32))
        return x + self.mlp.fc2(torch.nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class Original(torch.nn.Module):
    """A vision transformer in the layout of DINO, iBOT and MAE."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, 32, 8, 8)
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 32))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = torch.nn.ModuleList([Block() for _ in range(5)])
        self.norm = torch.nn.LayerNorm(32, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.fixture
def original() -> Original:
    torch.manual_seed(0)
    model = Original().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    return model


def check(file: Path, original: Original, pictures: list[Any]) -> None:
    """Assert that the file, loaded by us, gives what the original gives."""
    backbone = load_backbone(f"ibot-tiny:{file}", device="cpu", precision="float32")
    images = np.stack([backbone.transform(picture) for picture in pictures])
    p = backbone.card.preprocessing
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
    pixels = (pixels - torch.tensor(p.mean).view(1, 3, 1, 1)) / torch.tensor(p.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        hidden = original(pixels)
    got = backbone.embed(images, ("cls", "cls+patches"))
    np.testing.assert_allclose(got["cls"], hidden[:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["cls+patches"][:, 32:], hidden[:, 1:].mean(1), rtol=1e-3, atol=1e-4)


def test_ibot_teacher_file_gives_what_the_original_gives(original, tmp_path, pictures):
    weights = {
        **original.state_dict(),
        "masked_embed": torch.zeros(1, 32),
        "head.mlp.0.weight": torch.zeros(2, 2),
    }
    torch.save({"state_dict": weights}, tmp_path / "teacher.pth")
    check(tmp_path / "teacher.pth", original, pictures)


def test_a_training_checkpoint_is_read_from_its_teacher(original, tmp_path, pictures):
    teacher = {f"backbone.{name}": value for name, value in original.state_dict().items()}
    student = {f"module.backbone.{name}": value + 1 for name, value in original.state_dict().items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "checkpoint.pth")
    check(tmp_path / "checkpoint.pth", original, pictures)


def test_mae_file_gives_what_the_original_gives(original, tmp_path, pictures):
    weights = {
        **original.state_dict(),
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_embed.weight": torch.zeros(8, 32),
    }
    decoder = {f"decoder_blocks.0.{n}": v + 1 for n, v in original.blocks[0].state_dict().items()}
    torch.save({"model": {**weights, **decoder}}, tmp_path / "mae.pth")
    check(tmp_path / "mae.pth", original, pictures)


def test_refined_mae_names_cls_and_positions_otherwise(original, tmp_path, pictures):
    with torch.no_grad():
        original.pos_embed[:, 0] = 0  # nothing is added to its CLS token
    weights = original.state_dict()
    weights["cls_tokens.tokens"] = weights.pop("cls_token")
    weights["pos_embed.embed"] = weights.pop("pos_embed")[:, 1:].reshape(1, 4, 4, 32)
    torch.save({"state_dict": weights}, tmp_path / "refined.th")
    check(tmp_path / "refined.th", original, pictures)


def test_safetensors_files_work(original, tmp_path, pictures):
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in original.state_dict().items()}, tmp_path / "weights.safetensors")
    check(tmp_path / "weights.safetensors", original, pictures)


def test_positions_of_another_image_size_are_interpolated(original, tmp_path, pictures):
    smooth = torch.linspace(-1, 1, 8).view(1, 8, 1, 1).expand(1, 8, 8, 32)
    weights = original.state_dict()
    weights["pos_embed"] = torch.cat([weights["pos_embed"][:, :1], smooth.reshape(1, 64, 32)], 1)
    torch.save(weights, tmp_path / "larger.pth")
    expected = torch.nn.functional.interpolate(
        smooth.permute(0, 3, 1, 2), size=(4, 4), mode="bicubic", align_corners=False
    )
    with torch.no_grad():
        original.pos_embed[:, 1:] = expected.permute(0, 2, 3, 1).reshape(1, 16, 32)
    check(tmp_path / "larger.pth", original, pictures)


def test_a_checkpoint_of_another_size_is_refused_with_both_sizes(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "small.pth")
    with pytest.raises(FormatError, match=r"5 blocks of width 32 .* 12, 768 and 16"):
        load_backbone(f"ibot-vitb16:{tmp_path / 'small.pth'}", device="cpu")


def test_missing_weights_are_named(original, tmp_path):
    weights = original.state_dict()
    del weights["blocks.2.attn.qkv.bias"]
    torch.save(weights, tmp_path / "holes.pth")
    with pytest.raises(FormatError, match="lacks weights"):
        load_backbone(f"ibot-tiny:{tmp_path / 'holes.pth'}", device="cpu")


def test_weights_of_another_shape_are_named_with_both_shapes(original, tmp_path):
    weights = original.state_dict()
    weights["blocks.2.mlp.fc1.bias"] = torch.zeros(7)
    torch.save(weights, tmp_path / "wide.pth")
    with pytest.raises(
        FormatError, match=r"wide\.pth don't fit ibot-tiny: .* is 7 there, the model has \d+\. "
    ):
        load_backbone(f"ibot-tiny:{tmp_path / 'wide.pth'}", device="cpu")


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, {"state_dict": {}}, [1, 2]])
def test_a_file_without_a_vision_transformer_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(FormatError):
        load_backbone(f"ibot-tiny:{tmp_path / 'other.pth'}", device="cpu")


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("trap-was-sprung"),))


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(FormatError, match="weights only"):
        load_backbone(f"ibot-tiny:{tmp_path / 'trap.pth'}", device="cpu")
    assert not (tmp_path / "trap-was-sprung").exists()


def test_damaged_and_absent_files_are_named(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00")
    for name in ("half.pth", "half.safetensors"):
        with pytest.raises(FormatError, match=name):
            load_backbone(f"ibot-tiny:{tmp_path / name}", device="cpu")
    with pytest.raises(InputError, match="no checkpoint"):
        load_backbone(f"ibot-tiny:{tmp_path / 'absent.pth'}", device="cpu")


def test_a_checkpoint_card_without_a_file_says_where_to_get_it():
    with pytest.raises(InputError, match=re.escape("github.com/bytedance/ibot and use ibot-vitb16:FILE")):
        load_backbone("ibot-vitb16", device="cpu")


def test_a_card_that_takes_no_file_says_so(original, tmp_path):
    torch.save(original.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="takes no checkpoint file"):
        load_backbone(f"dinov2-small:{tmp_path / 'w.pth'}", device="cpu")


def test_the_spec_of_a_checkpoint_is_absolute(original, tmp_path, monkeypatch):
    torch.save(original.state_dict(), tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("ibot-tiny:w.pth", device="cpu").spec == f"ibot-tiny:{tmp_path / 'w.pth'}"
