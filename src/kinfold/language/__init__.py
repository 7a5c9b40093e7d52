"""Words in the joint space of a vision-language model: text towers, prompts, nouns, zero-shot classification.

Everything here works on the features of a joint space, as ``clip-vit-b32`` or a SigLIP model gives them.
"""

from __future__ import annotations

from kinfold.language.cache import CachedNouns, NounCache, cache_folder
from kinfold.language.encoders import TextEncoder, load_text_encoder
from kinfold.language.lists import read_words
from kinfold.language.nouns import (
    NounFeatures,
    PreparedNouns,
    embed_nouns,
    embed_words,
    open_nouns,
    prepare_nouns,
)
from kinfold.language.prompts import PLAIN, TEMPLATES, fill
from kinfold.language.zero_shot import (
    CLIP_LOGIT_SCALE,
    LemmaChoice,
    ZeroShotClassifier,
    choose_lemmas_by_labels,
    embed_classes,
)

__all__ = [
    "CLIP_LOGIT_SCALE",
    "PLAIN",
    "TEMPLATES",
    "CachedNouns",
    "LemmaChoice",
    "NounCache",
    "NounFeatures",
    "PreparedNouns",
    "TextEncoder",
    "ZeroShotClassifier",
    "cache_folder",
    "choose_lemmas_by_labels",
    "embed_classes",
    "embed_nouns",
    "embed_words",
    "fill",
    "load_text_encoder",
    "open_nouns",
    "prepare_nouns",
    "read_words",
]
