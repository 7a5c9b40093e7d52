"""Original checkpoint files of plain vision transformers, loaded into the ViT of transformers.

DINO, iBOT and MAE name their weights as timm does, with query, key and value in one matrix; MAE-Refined
(MIM-Refiner) names its CLS token and position embedding otherwise. Both become the names of the hub's
ViT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kinfold.backbones._card import BackboneCard, VitShape
from kinfold.backbones._fit import check_fit
from kinfold.backbones._tower import Tower
from kinfold.errors import FormatError, InputError

# Where the weights lie in the files of the various projects; the teacher is what the papers evaluate.
_NESTS = ("teacher", "state_dict", "model", "student")
_ANCHOR = "patch_embed.proj.weight"
_TOP = {
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "cls_token": "embeddings.cls_token",
    "cls_tokens.tokens": "embeddings.cls_token",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_IN_BLOCK = re.compile(r"blocks\.(?:\d+\.(?=\d))?(\d+)\.(.+)\.(weight|bias)$")


def load_checkpoint(file: Path, card: BackboneCard) -> Tower:
    """Load an original checkpoint of ``card``.

    Raises
    ------
    InputError
        The file isn't there, or the card takes no checkpoint file.
    FormatError
        The file is damaged or holds another architecture.
    """
    from transformers import ViTConfig, ViTModel

    from kinfold.backbones._transformers import make_tower
    from kinfold.backbones._weights import quiet_transformers

    if card.shape is None:
        raise InputError(f"{card.name} takes no checkpoint file; give a directory in the hub's layout")
    shape = card.shape
    weights = convert(read_checkpoint(file), shape, str(file))
    config = ViTConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=int(shape.width * shape.mlp_ratio),
        image_size=shape.image_size,
        patch_size=shape.patch,
        layer_norm_eps=1e-6,
        qkv_bias=True,
    )
    with quiet_transformers():
        model, info = ViTModel.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            add_pooling_layer=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in our own words
        )
    check_fit(
        str(file),
        card.name,
        f"Give a checkpoint of {card.name} itself, or the card that this one belongs to",
        missing=info["missing_keys"],
        misfits=info["mismatched_keys"],
    )
    return make_tower(model, config, card.preprocessing)


def read_checkpoint(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a ``.safetensors`` or torch file; tensors only, nothing in it can run code."""
    if not file.is_file():
        raise InputError(f"there is no checkpoint {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip errors have no common base
        raise FormatError(
            f"{file} can't be read as a file of weights only: {error}. "
            "If it holds more (arguments, an optimiser), save its state dict alone"
        ) from error
    return _unnest(content, file)


def convert(weights: Mapping[str, torch.Tensor], shape: VitShape, origin: str) -> dict[str, torch.Tensor]:
    """Rename a checkpoint's weights to those of the hub's ViT, splitting query, key and value.

    The position embedding is interpolated (bicubic) if the checkpoint was made for another image size.
    Heads, decoders and mask tokens are left out.

    Raises
    ------
    FormatError
        The weights aren't those of a vision transformer of ``shape``.
    """
    prefix = next((name[: -len(_ANCHOR)] for name in weights if name.endswith(_ANCHOR)), None)
    if prefix is None:
        raise FormatError(
            f"{origin} holds no vision transformer: no {_ANCHOR} among its {len(weights)} names"
        )
    own = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    _check_shape(own, shape, origin)
    out = {_TOP[name]: value.float() for name, value in own.items() if name in _TOP}
    for name, value in own.items():
        match = _IN_BLOCK.match(name)
        if match is None:
            continue
        layer, part, kind = match.groups()
        base = f"encoder.layer.{layer}."
        if part == "attn.qkv":
            for target, piece in zip(("query", "key", "value"), value.float().chunk(3), strict=True):
                out[f"{base}attention.attention.{target}.{kind}"] = piece.clone()
        elif part in _BLOCK:
            out[f"{base}{_BLOCK[part]}.{kind}"] = value.float()
    out["embeddings.position_embeddings"] = _positions(own, shape, origin)
    return out


def _unnest(content: Any, file: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping):
        nest = next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        content = content[nest]
    raise FormatError(f"{file} holds no mapping of weights")


def _check_shape(own: Mapping[str, torch.Tensor], shape: VitShape, origin: str) -> None:
    width, _, patch = own[_ANCHOR].shape[:3]
    layers = {m.group(1) for m in map(_IN_BLOCK.match, own) if m}
    found = (len(layers), int(width), int(patch))
    wanted = (shape.depth, shape.width, shape.patch)
    if found != wanted:
        raise FormatError(
            f"{origin} has {found[0]} blocks of width {found[1]} and patches of {found[2]} pixels, "
            f"the card says {wanted[0]}, {wanted[1]} and {wanted[2]}"
        )


def _positions(own: Mapping[str, torch.Tensor], shape: VitShape, origin: str) -> torch.Tensor:
    """Return the position embedding (1, 1 + patches, width) for the card's image size."""
    if "pos_embed" in own:
        first, patches = own["pos_embed"][:, :1].float(), own["pos_embed"][:, 1:].float()
        side = round(patches.shape[1] ** 0.5)
        grid = patches.reshape(1, side, side, -1)
    elif "pos_embed.embed" in own:  # MIM-Refiner: (1, rows, columns, width), nothing is added to CLS
        grid = own["pos_embed.embed"].float()
        first = torch.zeros(1, 1, grid.shape[-1])
    else:
        raise FormatError(f"{origin} has no position embedding")
    side = shape.image_size // shape.patch
    if grid.shape[1:3] != (side, side):
        grid = torch.nn.functional.interpolate(
            grid.permute(0, 3, 1, 2), size=(side, side), mode="bicubic", align_corners=False
        ).permute(0, 2, 3, 1)
    return torch.cat([first, grid.reshape(1, side * side, -1)], dim=1)
