"""The backbone that was asked for, by name, by directory or loaded already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kinfold.backbones import Backbone, list_cards, load_backbone
from kinfold.features import Features, FeatureStore


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


def describe_backbone(features: Features, spec: str | None) -> dict[str, Any] | None:
    """Return what embeds later images in the same way; None for features of unknown origin.

    Parameters
    ----------
    features : Features
        A feature store knows its backbone.
    spec : str or None
        What ``load_backbone`` was given; None takes the card's name or source.
    """
    if not isinstance(features, FeatureStore):
        return None
    described = features.manifest.backbone
    card = described.get("card", {})
    known = {listed.name for listed in list_cards()}
    return {
        **described,
        "spec": spec or (card.get("name") if card.get("name") in known else card.get("source")),
        "fingerprint": features.manifest.backbone_fingerprint,
        "batch_size": features.manifest.batch_size,
    }
