"""Text models of transformers: CLIP's and SigLIP's towers, and sentence encoders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from kinfold.backbones.model_files import load_weights, read_config, read_numbers
from kinfold.errors import FormatError, InputError
from kinfold.language._tokenizer import hash_tokenizer, load_tokenizer, make_tokenize, max_length
from kinfold.language._tower import TextTower
from kinfold.storage import read_json

_CLIP, _SIGLIP = "CLIPTextModelWithProjection", {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
_UNREAD = ("position_ids", "pooler.")
WORKING = "clip-vit-b32 has one"


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

    if (
        text is not config
    ):  # the size of the joint space is said at the top; older files repeat it wrongly below
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
    # RoBERTa and its kin count positions from behind the number of their padding token.
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    offset = 0 if padding is None else int(padding) + 1
    return min(limit or positions, positions - offset)


def _read_object(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise FormatError(f"{file} is damaged: it isn't an object")
    return content


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
