"""The backbone that was asked for, by name, by directory or loaded already."""

from __future__ import annotations

from pathlib import Path

from kinfold.backbones import Backbone, load_backbone


def as_backbone(backbone: str | Path | Backbone, device: str, precision: str) -> Backbone:
    """Load a backbone, unless it is loaded already."""
    if isinstance(backbone, Backbone):
        return backbone
    return load_backbone(backbone, device=device, precision=precision)


def as_spec(backbone: str | Path | Backbone) -> str | None:
    """Return what loads this backbone again, from any folder; None if it was loaded by someone else."""
    if isinstance(backbone, Backbone):
        return None
    return str(Path(backbone).absolute()) if Path(backbone).is_dir() else str(backbone)
