"""The tokenizer that lies beside a text model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kinfold.backbones.model_files import has_tokenizer, quiet_transformers
from kinfold.errors import FormatError, InputError, MissingExtraError
from kinfold.storage import hash_json

Tokenize = Callable[[list[str]], list[list[int]]]

_SAMPLES = [
    "a photo of the large Siamese cat.",
    "itap of a 1960s pick-up truck, isn't it?",
    "  Über  naïve façade: 東京 ½ № 🙂  ",
    "antidisestablishmentarianism",
]


def load_tokenizer(folder: Path, vocab_size: int) -> Any:
    """Load the tokenizer of a model with ``vocab_size`` tokens.

    Raises
    ------
    InputError
        There is none.
    FormatError
        It is damaged, or knows more tokens than the model.
    MissingExtraError
        It needs sentencepiece.
    """
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        raise InputError(
            f"{folder} has no tokenizer: tokenizer.json (or vocab.json and merges.txt) must lie beside "
            "config.json; copy it from the model, or write it with tokenizer.save_pretrained"
        )
    if (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file():
        _check_sentencepiece(folder)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers, JSON and transformers have no common base
        raise FormatError(f"the tokenizer in {folder} can't be loaded: {error}") from error
    if not 0 < tokenizer.vocab_size <= vocab_size:
        raise FormatError(_say_mismatch(folder, tokenizer.vocab_size, vocab_size))
    return tokenizer


def make_tokenize(tokenizer: Any, folder: Path, *, length: int, vocab_size: int) -> Tokenize:
    """Return the function that cuts texts into at most ``length`` tokens, special ones in.

    It raises :class:`FormatError` for a token that a model with ``vocab_size`` tokens doesn't know.
    """

    def tokenize(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(
            texts, truncation=True, max_length=length, padding=False, return_attention_mask=False
        )["input_ids"]
        largest = max((max(row, default=0) for row in ids), default=0)
        if largest >= vocab_size:
            raise FormatError(_say_mismatch(folder, largest + 1, vocab_size))
        return ids

    return tokenize


def max_length(tokenizer: Any, positions: int) -> int:
    """Return how many tokens a text may have: by the tokenizer, and by the model's positions."""
    return int(min(tokenizer.model_max_length, positions))


def hash_tokenizer(tokenizer: Any, tokenize: Tokenize) -> str:
    """Return the SHA-256 of a tokenizer's vocabulary and of what it makes of a few texts.

    Not of its files: releases of transformers write them differently.
    """
    return hash_json({"vocabulary": tokenizer.get_vocab(), "samples": tokenize(_SAMPLES)})


def _say_mismatch(folder: Path, n_tokens: int, vocab_size: int) -> str:
    return (
        f"the tokenizer in {folder} has {n_tokens:,} tokens or more, the model knows {vocab_size:,}: "
        "it belongs to another model"
    )


def _check_sentencepiece(folder: Path) -> None:
    for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # the package around it is missing
            found = False
        if not found:
            raise MissingExtraError(f"The tokenizer in {folder}", package, "sentencepiece")
