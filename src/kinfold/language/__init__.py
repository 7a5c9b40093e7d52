"""Words in the joint space of a vision-language model: text towers, prompts, nouns, zero-shot, finer labels.

Everything here works on the features of a joint space, as ``clip-vit-b32`` or a SigLIP model gives them.
"""

from __future__ import annotations

from kinfold.language._choice import CLIP_LOGIT_SCALE
from kinfold.language.cache import CachedNouns, NounCache, cache_folder
from kinfold.language.encoders import TextEncoder, load_text_encoder
from kinfold.language.naming import ClusterName, ClusterNames, Name, name_clusters
from kinfold.language.nouns import (
    NounFeatures,
    PreparedNouns,
    embed_nouns,
    embed_words,
    open_nouns,
    prepare_nouns,
    read_words,
)
from kinfold.language.prompts import PLAIN, TEMPLATES, fill
from kinfold.language.relabel import (
    Calibration,
    Relabeling,
    RelabelReport,
    WalkAccuracy,
    calibration,
    relabel,
    shared_classes,
    walk_accuracy,
)
from kinfold.language.zero_shot import (
    LemmaChoice,
    ZeroShotClassifier,
    choose_lemmas_by_labels,
    embed_classes,
    vote_for_lemmas,
)

__all__ = [
    "CLIP_LOGIT_SCALE",
    "PLAIN",
    "TEMPLATES",
    "CachedNouns",
    "Calibration",
    "ClusterName",
    "ClusterNames",
    "LemmaChoice",
    "Name",
    "NounCache",
    "NounFeatures",
    "PreparedNouns",
    "RelabelReport",
    "Relabeling",
    "TextEncoder",
    "WalkAccuracy",
    "ZeroShotClassifier",
    "cache_folder",
    "calibration",
    "choose_lemmas_by_labels",
    "embed_classes",
    "embed_nouns",
    "embed_words",
    "fill",
    "load_text_encoder",
    "name_clusters",
    "open_nouns",
    "prepare_nouns",
    "read_words",
    "relabel",
    "shared_classes",
    "vote_for_lemmas",
    "walk_accuracy",
]
