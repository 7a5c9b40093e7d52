"""Texts → raw features of the joint space that a model's images lie in."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.backbones import BackboneCard, list_cards
from kinfold.backbones.model_files import fetch_model, hash_weights
from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, count_of, nearest_name
from kinfold.language._towers import WORKING, TextTower, load_open_clip_tower, load_text_tower
from kinfold.progress import SILENT, Progress
from kinfold.storage import hash_json

logger = logging.getLogger(__name__)

# Tokens that are read at once, by kind of device: more gets no faster.
_TOKENS = {"cpu": 512, "mps": 8192, "cuda": 32768}
# Texts whose tokens are held at once; they are sorted by length among themselves.
_WINDOW = 16384
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextEncoder:
    """A frozen map from texts to vectors; get it from :func:`load_text_encoder`.

    Parameters
    ----------
    name : str
        The card's name, or that of the directory.
    spec : str
        What :func:`load_text_encoder` loads the same encoder by.
    tower : TextTower
        The model and how to use it.
    device, precision : str
        As for :func:`load_text_encoder`.

    Attributes
    ----------
    dim : int
        Dimension of the features.
    logit_scale : float or None
        Factor of cosines in zero-shot classification (CLIP: about 100), as learned; None if the model has
        none or only its text part was given.
    logit_bias : float or None
        What SigLIP adds to scaled cosines before its sigmoid.
    """

    def __init__(
        self,
        name: str,
        spec: str,
        tower: TextTower,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> None:
        self.name = name
        self.spec = spec
        self.dim = tower.dim
        self.logit_scale = tower.logit_scale
        self.logit_bias = tower.logit_bias
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self._tower = tower
        self._fingerprint: str | None = None
        tower.model.requires_grad_(False).eval().float()
        tower.model.to(self.device)

    def encode(self, texts: Sequence[str], *, progress: Progress = SILENT) -> NDArray[np.float32]:
        """Return the raw features of texts: projected into the joint space, not normalised.

        Texts that are too long are cut as the model's tokenizer does it. Texts of like length are read
        together, so that little is spent on padding; features don't depend on it but for rounding.

        Parameters
        ----------
        texts : sequence of str
            Any number.
        progress : Progress
            Who shows how far it is.

        Returns
        -------
        array of shape (n, dim), float32
            In the order of ``texts``.

        Raises
        ------
        InputError
            ``texts`` is one text, or holds something else than texts.
        """
        check_texts(texts, "texts")
        out = np.empty((len(texts), self.dim), np.float32)
        with progress.task(f"Reading texts with {self.name}", len(texts), "texts") as task:
            for start in range(0, len(texts), _WINDOW):
                ids = self._tower.tokenize(list(texts[start : start + _WINDOW]))
                for rows in self._batches(ids):
                    out[start + rows] = self._forward([ids[row] for row in rows])
                    task.advance(len(rows))
        return out

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, tokenizer, pooling and precision, whatever the device."""
        if self._fingerprint is None:
            self._fingerprint = hash_json(
                {
                    "weights": hash_weights(self._tower.model, self._tower.unread),
                    "identity": self._tower.identity,
                    "precision": str(self.dtype),
                }
            )
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """Return what a manifest records, as JSON-ready data; ``spec`` and ``precision`` load it again."""
        return {
            "name": self.name,
            "spec": self.spec,
            "dim": self.dim,
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "precision": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "fingerprint": self.fingerprint(),
        }

    def _batches(self, ids: list[list[int]]) -> list[NDArray[np.int64]]:
        """Divide rows into batches, longest first, each within the budget of tokens."""
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        budget = _TOKENS.get(self.device.type, _TOKENS["cpu"])
        batches, start = [], 0
        while start < len(order):
            widest = self._tower.length or max(1, int(lengths[order[start]]))
            stop = start + max(1, budget // widest)
            batches.append(order[start:stop])
            start = stop
        return batches

    def _forward(self, rows: list[list[int]]) -> NDArray[np.float32]:
        lengths = [len(row) for row in rows]
        padded = np.full((len(rows), self._tower.length or max(lengths)), self._tower.pad_id, np.int64)
        for line, row in zip(padded, rows, strict=True):
            line[: len(row)] = row
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            features = self._tower.read(
                torch.from_numpy(padded).to(self.device), torch.tensor(lengths, device=self.device)
            )
            values: NDArray[np.float32] = features.float().cpu().numpy()
            return values


def load_text_encoder(
    name_or_path: str | Path, *, device: str | torch.device = "auto", precision: str = "auto"
) -> TextEncoder:
    """Load the text tower that belongs to an image backbone, or a sentence encoder.

    Parameters
    ----------
    name_or_path : str or Path
        One of: a name of the catalogue whose card has a text tower (``"clip-vit-b32"``); a local directory in
        the hub's layout with the tokenizer beside the model (a whole CLIP or SigLIP model, its text part, or
        a sentence encoder that is built like BERT); any hub id of such a model;
        ``"open_clip:ARCH/PRETRAINED"``.
    device : str or torch.device
        ``"auto"`` (CUDA, else MPS, else CPU) or a device's name.
    precision : str
        ``"auto"`` (bfloat16 where the device has units for it), ``"float32"`` or ``"bfloat16"``; features are
        float32 whatever it says.

    Raises
    ------
    InputError
        There is no such model, or it has no text tower, or no tokenizer lies beside it.
    HubUnavailableError
        The files aren't cached and the hub can't be reached.
    MissingExtraError
        open_clip or sentencepiece is needed.
    FormatError
        Weights, configuration or tokenizer are damaged, or don't belong together.
    """
    # Libraries draw weights at random before they overwrite them; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        name, spec, tower = _load(name_or_path)
    return TextEncoder(name, spec, tower, device=device, precision=precision)


def check_texts(texts: Sequence[str], what: str) -> None:
    """Raise :class:`InputError` unless ``texts`` is a sequence of strings that can be written as UTF-8."""
    if isinstance(texts, (str, bytes)):
        raise InputError(f"{what} must be a list of strings; got the single string {texts!r}")
    if isinstance(texts, (Mapping, Set)) or not hasattr(texts, "__getitem__"):  # has no order, or ends
        raise InputError(f"{what} must be a list of strings; got {type(texts).__name__}")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what} must be strings; number {place} is {text!r}")
        if _SURROGATE.search(text):
            raise InputError(f"{what} must be valid Unicode; number {place} has a lone surrogate: {text!r}")


def _load(name_or_path: str | Path) -> tuple[str, str, TextTower]:
    name = str(name_or_path)
    if isinstance(name_or_path, str):
        cards = {card.name: card for card in list_cards()}
        if name in cards:
            return _load_card(cards[name])
        prefix, _, rest = name.partition(":")
        if prefix == "open_clip" and rest:
            tower, called, spec = load_open_clip_tower(rest)
            return called, spec, tower
        if rest and (prefix == "timm" or prefix in cards):
            raise InputError(f"{name} has no text tower; {WORKING}")
    path = Path(name).expanduser()
    if path.is_dir():
        path = path.resolve()
        return path.name, str(path), load_text_tower(path)
    if path.is_file():
        raise InputError(f"{name} is a file; give the directory of the model, with its tokenizer")
    return _load_hub_id(name)


def _load_card(card: BackboneCard) -> tuple[str, str, TextTower]:
    if not card.has_text_tower:
        raise InputError(f"{card.name} has no text tower; {WORKING}. {_with_text_towers()}")
    folder = fetch_model(card.source, card.revision, with_tokenizer=True)
    return card.name, card.name, load_text_tower(folder)


def _load_hub_id(name: str) -> tuple[str, str, TextTower]:
    by_source = {card.source: card for card in list_cards() if card.adapter == "transformers"}
    if name in by_source:
        return _load_card(by_source[name])
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        hint = nearest_name(name, [card.name for card in list_cards() if card.has_text_tower])
        raise InputError(
            f"there is no text encoder {name!r}{hint}; nor is it a local directory or a hub id. "
            f"{_with_text_towers()}"
        )
    return name, name, load_text_tower(fetch_model(name, None, with_tokenizer=True))


def _with_text_towers() -> str:
    names = [card.name for card in list_cards() if card.has_text_tower]
    return f"{count_of(len(names), 'card')} with a text tower: {', '.join(names)}"
