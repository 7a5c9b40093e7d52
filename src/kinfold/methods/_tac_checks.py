"""What TAC refuses, before any work: impossible parameters, and nouns that don't go with the images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kinfold.errors import InputError
from kinfold.features.matrix import RowMatrix, as_row_matrix
from kinfold.features.unit_rows import UnitRows

logger = logging.getLogger(__name__)


def check_nouns(noun_features: Any, nouns: Sequence[str] | None, n_features: int) -> RowMatrix:
    """Return the features of nouns as a row matrix, or say what is wrong with them.

    Raises
    ------
    InputError
        They are missing, of another width than the images, without a direction, or not as many as ``nouns``.
    """
    if noun_features is None:
        raise InputError(
            "TAC needs noun_features: the features of nouns in the space of X, made by the same "
            "vision-language model (kinfold.language.embed_nouns makes those of WordNet)"
        )
    try:
        features = as_row_matrix(noun_features)
        UnitRows(features, torch.device("cpu")).check()
    except InputError as error:
        raise InputError(f"noun_features: {error}") from error
    if features.shape[1] != n_features:
        raise InputError(
            f"noun_features have {features.shape[1]} dimensions, but X has {n_features}: both must come from "
            "the same vision-language model"
        )
    if nouns is not None:
        _check_names(nouns, int(features.shape[0]))
    return features


def _check_names(nouns: Any, n_features: int) -> None:
    listed = isinstance(nouns, Sequence | np.ndarray) and not isinstance(nouns, str)
    if not listed or not all(isinstance(noun, str) for noun in nouns):
        raise InputError(f"nouns must be a list of words, not {type(nouns).__name__}")
    if len(nouns) != n_features:
        raise InputError(f"nouns are {len(nouns)}, but noun_features have {n_features} rows")
    if twice := len(nouns) - len(set(nouns)):
        logger.warning("%d nouns are given more than once: they take places of others", twice)
