from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

WIDTH, DEPTH, PATCH, SIDE = 32, 5, 8, 32


def _configs() -> dict[str, Callable[[], Any]]:
    import transformers as tf

    plain = {
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    full = {**plain, "intermediate_size": 64}
    return {
        "dinov2": lambda: tf.Dinov2Config(**plain, mlp_ratio=2),
        "dinov2_with_registers": lambda: tf.Dinov2WithRegistersConfig(
            **plain, mlp_ratio=2, num_register_tokens=3
        ),
        "vit": lambda: tf.ViTConfig(**full),
        "deit": lambda: tf.DeiTConfig(**full),
        "dinov3_vit": lambda: tf.DINOv3ViTConfig(**full, num_register_tokens=4),
        "clip_vision_model": lambda: tf.CLIPVisionConfig(**full, projection_dim=20),
        "siglip_vision_model": lambda: tf.SiglipVisionConfig(**full),
        "siglip2_vision_model": lambda: tf.Siglip2VisionConfig(
            **{k: v for k, v in full.items() if k != "image_size"}, num_patches=16
        ),
        "vit_msn": lambda: tf.ViTMSNConfig(**full),
        "vit_mae": lambda: tf.ViTMAEConfig(
            **full,
            decoder_num_hidden_layers=1,
            decoder_hidden_size=16,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        ),
        "ijepa": lambda: tf.IJepaConfig(**full),
    }


class TinyModels:
    """Random-weight models of every family, saved in the hub's layout."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make(self, family: str) -> Any:
        """Return a model of the family, or skip if this transformers is too old for it."""
        import transformers

        try:
            config = _configs()[family]()
        except AttributeError:
            pytest.skip(f"transformers {transformers.__version__} has no {family}")
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config).eval()
        randomise(model)
        return model

    def save(self, model: Any, name: str) -> Path:
        folder = self.root / name
        model.save_pretrained(folder)
        return folder


def randomise(model: torch.nn.Module) -> None:
    """Give every weight a value that matters: fresh models have biases and tokens of zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModels:
    return TinyModels(tmp_path)


@pytest.fixture
def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in ((40, 60), (60, 40), (32, 32), (97, 51))
    ]
