"""What TAC refuses, before any work: impossible parameters, and nouns that don't go with the images."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from kinfold.errors import InputError, nearest_name
from kinfold.heads import DIRECTIONS
from kinfold.methods._base import check_flags, check_positive, check_whole
from kinfold.methods._tac_centres import CENTRES
from kinfold.rows import RowMatrix, as_row_matrix
from kinfold.rows.readers import UnitRows

logger = logging.getLogger(__name__)


def check_tac(parameters: Any) -> None:
    """Raise :class:`InputError` for a parameter of TAC that is impossible whatever the data."""
    for name in ("n_centres", "n_neighbors", "n_epochs", "batch_size"):
        if (value := getattr(parameters, name)) is not None:
            check_whole(**{name: value})
    check_whole(nouns_per_centre=parameters.nouns_per_centre)
    names = ("samples_per_centre", "resolution", "retrieval_temperature", "learning_rate")
    check_positive(**{name: getattr(parameters, name) for name in names})
    if parameters.temperature is not None:
        check_positive(temperature=parameters.temperature)
    check_flags(train=parameters.train, confidence=parameters.confidence)
    weight = parameters.balance_weight
    if not (isinstance(weight, Real) and not isinstance(weight, bool) and 0 <= float(weight) < math.inf):
        raise InputError(f"balance_weight must be a number of at least 0; got {weight!r}")
    _check_choice("centres", parameters.centres, CENTRES)
    _check_choice("distillation", parameters.distillation, DIRECTIONS)


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


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            f"{name} must be one of {', '.join(known)}, not {value!r}{nearest_name(str(value), list(known))}"
        )
