from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kinfold.language import NounCache, TextEncoder, load_text_encoder
from support import text_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Models of every kind: name → directory and the model that was saved there."""
    root = tmp_path_factory.mktemp("models")
    return {
        "clip": (root / "clip", text_models.make_clip(root / "clip")),
        "old clip": (root / "old", text_models.make_clip(root / "old", legacy_end=True)),
        "siglip": (root / "siglip", text_models.make_siglip(root / "siglip")),
        "siglip 2": (root / "siglip2", text_models.make_siglip(root / "siglip2", second=True)),
        "bert": (root / "bert", text_models.make_sentence_encoder(root / "bert")),
    }


@pytest.fixture(scope="session")
def encoder(models: dict[str, tuple[Path, Any]]) -> TextEncoder:
    return load_text_encoder(models["clip"][0], device="cpu", precision="float32")


@pytest.fixture
def cache(tmp_path: Path) -> NounCache:
    return NounCache(tmp_path / "nouns")
