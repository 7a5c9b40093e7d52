"""Frozen networks and weight-free descriptors that turn images into vectors.

>>> from kinfold.backbones import load_backbone
>>> backbone = load_backbone("hog")
>>> dict(backbone.variants)
{'cls': 1828}
"""

from __future__ import annotations

from kinfold.backbones._base import Backbone
from kinfold.backbones._card import BackboneCard, Preprocessing, VitShape
from kinfold.backbones._catalogue import DEFAULT_BACKBONE, get_card, list_cards
from kinfold.backbones._hub import hub_reachable
from kinfold.backbones._loading import load_backbone

__all__ = [
    "DEFAULT_BACKBONE",
    "Backbone",
    "BackboneCard",
    "Preprocessing",
    "VitShape",
    "get_card",
    "hub_reachable",
    "list_cards",
    "load_backbone",
]
