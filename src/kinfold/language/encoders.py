"""Text encoders: from strings to raw features in a model's joint space, and the text models they use."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kinfold.backbones import BackboneCard, list_cards
from kinfold.backbones.extras import create_open_clip
from kinfold.backbones.model_files import (
    fetch_model,
    find_folder,
    has_tokenizer,
    hash_weights,
    load_weights,
    name_folder,
    quiet_transformers,
    read_config,
    read_numbers,
)
from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import FormatError, InputError, MissingExtraError, count_of, nearest_name
from kinfold.progress import SILENT, Progress
from kinfold.storage import hash_json, read_json

# Tokens that are read at once, by kind of device: larger batches are no faster and take more memory.
_TOKENS = {"cpu": 512, "mps": 8192, "cuda": 32768}
# Texts whose tokens are held at once. Sorted by length among themselves, so that batches need little padding;
# a window rather than all texts bounds memory for lists of millions.
_WINDOW = 16384
# Half of a UTF-16 pair: valid in a Python str, but tokenizers and UTF-8 refuse it with obscure errors.
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
            Receives progress.

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
        # Longest first, so that the first row of a batch gives the length that all are padded to.
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
    folder = find_folder(name_or_path, file_hint="give the directory of the model, with its tokenizer")
    if folder is not None:
        return name_folder(folder), str(folder), load_text_tower(folder)
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
    if name.count("/") != 1:
        hint = nearest_name(name, [card.name for card in list_cards() if card.has_text_tower])
        raise InputError(
            f"there is no text encoder {name!r}{hint}; nor is it a local directory or a hub id. "
            f"{_with_text_towers()}"
        )
    return name, name, load_text_tower(fetch_model(name, None, with_tokenizer=True))


def _with_text_towers() -> str:
    names = [card.name for card in list_cards() if card.has_text_tower]
    return f"{count_of(len(names), 'card')} with a text tower: {', '.join(names)}"


Tokenize = Callable[[list[str]], list[list[int]]]

# Texts whose tokens are part of a tokenizer's fingerprint: capitals, digits, apostrophes, spaces, scripts, an
# emoji and a long word, where tokenizers of one vocabulary differ. Changing one makes all noun caches anew.
_SAMPLES = [
    "a photo of the large Siamese cat.",
    "itap of a 1960s pick-up truck, isn't it?",
    "  Über  naïve façade: 東京 ½ № 🙂  ",
    "antidisestablishmentarianism",
]

_CLIP, _SIGLIP = "CLIPTextModelWithProjection", {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
# Weights that may be missing, because no feature depends on them.
_UNREAD = ("position_ids", "pooler.")
WORKING = "clip-vit-b32 has one"  # ends messages about models that have no text tower


@dataclass(frozen=True)
class TextTower:
    """A text model and how to use it.

    Parameters
    ----------
    model : nn.Module
        The model.
    tokenize : callable
        Texts → lists of token ids, special tokens in, cut to what the model takes.
    read : callable
        Token ids (B, T) and token counts (B,) → raw features (B, dim).
    dim : int
        Dimension of the features.
    pad_id : int
        What rows are filled up with, on the right.
    length : int or None
        Length that every row is padded to; None pads to the longest of the batch, which must not change
        the features.
    logit_scale, logit_bias : float or None
        Learned with the model; None where it has none or its weights don't include it.
    identity : dict
        Besides the weights, what the features depend on; JSON.
    unread : frozenset of str
        Names of weights that no feature depends on.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], list[list[int]]]
    read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    dim: int
    pad_id: int
    length: int | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()


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


def load_text_tower(folder: Path) -> TextTower:
    """Load the text tower of a model in a local directory.

    Parameters
    ----------
    folder : Path
        A whole CLIP or SigLIP model, or its text part, or a sentence encoder, with its tokenizer, in the
        hub's layout.

    Raises
    ------
    InputError
        The model has no text tower, or the directory has no tokenizer.
    FormatError
        Weights or tokenizer are damaged or of another model.
    MissingExtraError
        The tokenizer needs sentencepiece.
    """
    config = read_config(folder)
    kind = config.model_type.removesuffix("_text_model")
    text = getattr(config, "text_config", config)
    if kind == "clip":
        return _load_clip(folder, config, text)
    if kind in _SIGLIP:
        return _load_siglip(folder, kind, text)
    if text is not config:
        raise InputError(
            f"{folder.name} is a composite model of type {config.model_type!r}; of those, the text towers of "
            f"CLIP and SigLIP are supported: {WORKING}"
        )
    return _load_sentence_encoder(folder, config)


def _load_clip(folder: Path, config: Any, text: Any) -> TextTower:
    import transformers

    if text is not config:
        # The size of the joint space stands at the top; older files repeat it wrongly in the text part.
        text.projection_dim = config.projection_dim
    elif _CLIP not in (config.architectures or ()):
        raise InputError(
            f"{folder} holds a CLIP text model without its projection into the joint space; "
            f"give the whole model, or one that was saved as {_CLIP}"
        )
    model, missing = load_weights(folder, getattr(transformers, _CLIP), text, {}, _UNREAD)
    tokenizer = load_tokenizer(folder, text.vocab_size)
    length = max_length(tokenizer, text.max_position_embeddings)
    tokenize = make_tokenize(tokenizer, folder, length=length, vocab_size=text.vocab_size)
    last = tokenize(["a"])[0][-1]
    # Configurations from before 2023 say 2; for those the model looks for the highest id instead.
    if last != (max(tokenizer.get_vocab().values()) if text.eos_token_id == 2 else text.eos_token_id):
        raise FormatError(
            f"the tokenizer in {folder} ends texts with token {last}, which isn't the end that the model "
            "looks for; put the model's own tokenizer there"
        )

    # Attention is causal and the features are read at the end of the text: what follows it has no influence.
    def read(ids: torch.Tensor, _lengths: torch.Tensor) -> torch.Tensor:
        embeds: torch.Tensor = model(input_ids=ids).text_embeds
        return embeds

    numbers = read_numbers(folder, ["logit_scale"])
    return TextTower(
        model,
        tokenize,
        read,
        int(text.projection_dim),
        pad_id=0,
        logit_scale=_exp(numbers.get("logit_scale")),
        identity={"kind": "clip", "tokenizer": hash_tokenizer(tokenizer, tokenize), "length": length},
        unread=frozenset(missing),
    )


def _load_siglip(folder: Path, kind: str, text: Any) -> TextTower:
    import transformers

    model, missing = load_weights(folder, getattr(transformers, _SIGLIP[kind]), text, {}, _UNREAD)
    tokenizer = load_tokenizer(folder, text.vocab_size)
    if tokenizer.pad_token_id is None:
        raise FormatError(
            f"the tokenizer in {folder} has no token to pad with; put the model's own one there"
        )
    # Trained on lower-case texts, always padded on the right to all positions, and without a mask: the
    # features are read at the last position, padding or not.
    length = int(text.max_position_embeddings)
    cut = make_tokenize(tokenizer, folder, length=length, vocab_size=text.vocab_size)

    def tokenize(texts: list[str]) -> list[list[int]]:
        return cut([one.lower() for one in texts])

    def read(ids: torch.Tensor, _lengths: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = model(input_ids=ids).pooler_output
        return pooled

    numbers = read_numbers(folder, ["logit_scale", "logit_bias"])
    return TextTower(
        model,
        tokenize,
        read,
        int(getattr(text, "projection_size", None) or text.hidden_size),
        pad_id=int(tokenizer.pad_token_id),
        length=length,
        logit_scale=_exp(numbers.get("logit_scale")),
        logit_bias=numbers.get("logit_bias"),
        identity={"kind": "siglip", "tokenizer": hash_tokenizer(tokenizer, tokenize), "length": length},
        unread=frozenset(missing),
    )


def _load_sentence_encoder(folder: Path, config: Any) -> TextTower:
    """Load a BERT-like model; its features are the mean (or the first) of its tokens' vectors."""
    import transformers

    if type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING or config.is_encoder_decoder:
        raise InputError(
            f"{folder.name} is a model of type {config.model_type!r}, which has no text tower; {WORKING}, "
            "and so have all CLIP and SigLIP models; sentence encoders that are built like BERT work too"
        )
    pooling = _read_pooling(folder)
    model_class = transformers.MODEL_MAPPING[type(config)]
    model, missing = load_weights(folder, model_class, config, {}, _UNREAD)
    tokenizer = load_tokenizer(folder, config.vocab_size)
    length = max_length(tokenizer, _sentence_length(folder, model, config))
    tokenize = make_tokenize(tokenizer, folder, length=length, vocab_size=config.vocab_size)

    def read(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(ids.shape[1], device=ids.device)[None, :] < lengths[:, None]
        hidden: torch.Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        if pooling == "cls":
            return hidden[:, 0]
        return (hidden.float() * mask[:, :, None]).sum(dim=1) / lengths[:, None]

    return TextTower(
        model,
        tokenize,
        read,
        int(config.hidden_size),
        pad_id=int(tokenizer.pad_token_id or 0),
        identity={
            "kind": "sentence",
            "pooling": pooling,
            "tokenizer": hash_tokenizer(tokenizer, tokenize),
            "length": length,
        },
        unread=frozenset(missing),
    )


def _read_pooling(folder: Path) -> str:
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    modes = _read_object(file)
    chosen = [name for name, on in modes.items() if name.startswith("pooling_mode_") and on is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise InputError(f"{file} asks for the pooling {chosen}; known are {' or '.join(known)}, one of them")
    return known[chosen[0]]


def _sentence_length(folder: Path, model: Any, config: Any) -> int:
    file = folder / "sentence_bert_config.json"
    limit = _read_object(file).get("max_seq_length") if file.is_file() else None
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise FormatError(f"{file} is damaged: max_seq_length is {limit!r}")
    positions = int(config.max_position_embeddings)
    # RoBERTa and models like it begin positions behind the index of their padding token.
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    offset = 0 if padding is None else int(padding) + 1
    return min(limit or positions, positions - offset)


def _read_object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise FormatError(f"{file} is damaged: it isn't an object")
    return content


def _exp(value: float | None) -> float | None:
    # Models keep the logarithm of the scale, so that training can't make it negative.
    return None if value is None else math.exp(value)


def load_open_clip_tower(spec: str) -> tuple[TextTower, str, str]:
    """Return the text tower of an open_clip model, its name, and what loads it again.

    Parameters
    ----------
    spec : str
        ``ARCH/TAG``, ``ARCH/FILE`` or ``hf-hub:ORGANISATION/NAME``.
    """
    created = create_open_clip(spec, part="")
    package, model = created.package, created.model
    tokenizer = package.get_tokenizer(created.arch)
    if hasattr(model, "visual"):
        model.visual = torch.nn.Identity()  # the larger half, freed because no text needs it

    def tokenize(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts).tolist()
        return ids

    def read(ids: torch.Tensor, _lengths: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.encode_text(ids)
        return features

    # Its tokenizers pad by themselves, each model's in its own way; every row has the same length.
    rows = tokenize(["a photo of a cat.", "an origami dog."])
    with torch.inference_mode():
        dim = int(read(torch.tensor(rows[:1]), torch.tensor([len(rows[0])])).shape[1])
    sample = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    tower = TextTower(
        model.eval(),
        tokenize,
        read,
        dim,
        pad_id=0,
        length=len(rows[0]),
        logit_scale=_number(model, "logit_scale", exp=True),
        logit_bias=_number(model, "logit_bias"),
        identity={"kind": "open_clip", "arch": created.arch, "sample": sample, "length": len(rows[0])},
    )
    return tower, f"open_clip:{created.arch}", created.spec


def _number(model: Any, name: str, *, exp: bool = False) -> float | None:
    value = getattr(model, name, None)
    if value is None:
        return None
    return float(value.detach().exp() if exp else value.detach())
