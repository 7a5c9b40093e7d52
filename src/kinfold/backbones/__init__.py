"""Frozen networks and weight-free descriptors that turn images into vectors.

>>> from kinfold.backbones import load_backbone
>>> backbone = load_backbone("hog")
>>> dict(backbone.variants)
{'cls': 1828}
"""

from __future__ import annotations

from kinfold.backbones._backbone import Backbone, BackboneCard, Preprocessing, VitShape
from kinfold.backbones._catalogue import AUTO_BACKBONES, DEFAULT_BACKBONE, get_card, list_cards, load_backbone
from kinfold.backbones._engines import usable_engines
from kinfold.backbones._hub import hub_reachable

__all__ = [
    "AUTO_BACKBONES",
    "DEFAULT_BACKBONE",
    "Backbone",
    "BackboneCard",
    "Preprocessing",
    "VitShape",
    "get_card",
    "hub_reachable",
    "list_cards",
    "load_backbone",
    "usable_engines",
]
