"""The nouns that guide a method: prepared before anything long begins, read when the fit needs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kinfold.backbones import Backbone
from kinfold.errors import InputError
from kinfold.language import PreparedNouns, TextEncoder, fill, prepare_nouns, read_words
from kinfold.pipeline._method import Method
from kinfold.pipeline._source import Source
from kinfold.pipeline._text import open_text_encoder_of

WORDNET = "WordNet 3.0"
_SAMPLE_WORDS = 64

NounsLike: TypeAlias = "str | Path | Sequence[str] | None"


@dataclass(frozen=True)
class Guide:
    """Nouns and what reads them.

    Attributes
    ----------
    encoder : TextEncoder
        The text tower.
    nouns : PreparedNouns
        The words, and where their features are or will be.
    source : str
        Where the words are from: "WordNet 3.0", a file, or "given".
    """

    encoder: TextEncoder
    nouns: PreparedNouns
    source: str

    def describe(self) -> dict[str, Any]:
        """Return what the manifest records, JSON-ready."""
        return {
            "text_encoder": self.encoder.describe(),
            "nouns": {
                "source": self.source,
                "n_words": len(self.nouns.words),
                "prompts": list(self.nouns.prompts),
                "fingerprint": self.nouns.fingerprint,
            },
        }

    def estimate_seconds(self) -> float:
        """Return how long the nouns will take to read, from some of them; 0 where that is done."""
        n_texts = self.nouns.count_texts()
        if not n_texts:
            return 0.0
        step = max(1, len(self.nouns.words) // _SAMPLE_WORDS)
        texts = fill(self.nouns.prompts, self.nouns.words[::step][:_SAMPLE_WORDS])
        self.encoder.encode(texts[:1])
        started = time.perf_counter()
        self.encoder.encode(texts)
        return n_texts * (time.perf_counter() - started) / len(texts)


def prepare_guide(
    method: Method,
    nouns: NounsLike,
    text_model: str | Path | None,
    source: Source,
    backbone: Backbone | None,
    variant: str,
    device: str,
    precision: str,
) -> Guide | None:
    """Find the words and load the text tower of a method that needs them; None for one that doesn't.

    Raises
    ------
    InputError
        Words are given to a method that reads none, or there is no text tower for these features.
    """
    if not method.needs_nouns:
        for name, value in (("nouns", nouns), ("text_model", text_model)):
            if value is not None:
                raise InputError(f"method {method.name!r} reads no words: {name} is for 'tac'")
        return None
    words, origin = read_nouns(nouns)
    encoder = open_text_encoder_of(source, backbone, variant, text_model, device=device, precision=precision)
    return Guide(encoder, prepare_nouns(encoder, words), origin)


def read_nouns(nouns: NounsLike) -> tuple[Sequence[str] | None, str]:
    """Return the words, None for those of WordNet, and where they are from."""
    if nouns is None:
        return None, WORDNET
    if isinstance(nouns, str | Path):
        return read_words(nouns), str(Path(nouns).absolute())
    return nouns, "given"
