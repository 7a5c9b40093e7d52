from __future__ import annotations

import dataclasses
import json

import pytest

from kinfold.backbones import AUTO_BACKBONES, DEFAULT_BACKBONE, get_card, list_cards
from kinfold.errors import InputError

PROMISED = {
    "dinov2-small": 384,
    "dinov2-base": 768,
    "dinov2-large": 1024,
    "dinov2-giant": 1536,
    "dinov2-reg-small": 384,
    "dinov2-reg-giant": 1536,
    "dino-vits16": 384,
    "dino-vits8": 384,
    "dino-vitb16": 768,
    "dino-vitb8": 768,
    "dinov3-vits16": 384,
    "dinov3-vitb16": 768,
    "dinov3-vitl16": 1024,
    "clip-vit-b32": 512,
    "clip-vit-b16": 512,
    "clip-vit-l14": 768,
    "openclip-vit-bigg14": 1280,
    "siglip2-base-patch16-224": 768,
    "msn-vitl16": 1024,
    "mae-vitb16": 768,
    "ijepa-vith14-1k": 1280,
    "ibot-vitb16": 768,
    "mae-refined-vith14": 1280,
    "pixels": 768,
    "hog": 1828,
}


def test_every_promised_backbone_has_a_card_with_its_dimension():
    assert {name: get_card(name).dim for name in PROMISED} == PROMISED
    assert DEFAULT_BACKBONE == "auto"
    assert [get_card(name).dim for name in AUTO_BACKBONES] == [384, 1280]


def test_names_and_sources_are_unique_and_cards_are_json():
    cards = list_cards()
    assert len({card.name for card in cards}) == len(cards)
    hub = [card.source for card in cards if card.adapter == "transformers"]
    assert len(set(hub)) == len(hub)
    assert all(source.count("/") == 1 for source in hub)
    for card in cards:
        json.dumps(dataclasses.asdict(card))


def test_cards_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_card("hog").name = "x"  # type: ignore[misc]


def test_gated_and_noncommercial_weights_say_so():
    assert all("gated" in card.note for card in list_cards() if card.family == "DINOv3")
    assert all(card.licence == "cc-by-nc-4.0" for card in list_cards() if card.family == "I-JEPA")


def test_those_with_a_text_tower_are_clip_and_siglip():
    assert {card.family for card in list_cards() if card.has_text_tower} == {"CLIP", "OpenCLIP", "SigLIP 2"}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("dinov2-smal", "dinov2-small"), ("clip-vitb32", "clip-vit-b32"), ("hogg", "hog"), ("pixel", "pixels")],
)
def test_a_wrong_name_gets_the_nearest_right_one(wrong, right):
    with pytest.raises(InputError, match=f"did you mean '{right}'"):
        get_card(wrong)
