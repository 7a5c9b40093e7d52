"""The door to models' files for rooms that load the other half of a model, such as its text tower."""

from __future__ import annotations

from kinfold.backbones._hub import fetch_model, has_tokenizer
from kinfold.backbones._open_clip import OpenClipModel, create_open_clip
from kinfold.backbones._weights import (
    hash_weights,
    load_weights,
    quiet_transformers,
    read_config,
    read_numbers,
)

__all__ = [
    "OpenClipModel",
    "create_open_clip",
    "fetch_model",
    "has_tokenizer",
    "hash_weights",
    "load_weights",
    "quiet_transformers",
    "read_config",
    "read_numbers",
]
