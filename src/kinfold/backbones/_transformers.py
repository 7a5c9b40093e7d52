"""Vision models of transformers, their processor files, and original ViT checkpoints loaded into them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinfold.backbones._backbone import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    BackboneCard,
    Preprocessing,
    VitShape,
)
from kinfold.backbones._network import Tower, find_tokens
from kinfold.backbones._processors import read_preprocessing
from kinfold.backbones.model_files import (
    check_fit,
    load_weights,
    quiet_transformers,
    read_checkpoint,
    read_config,
)
from kinfold.errors import FormatError, InputError

# Families whose sequence is known: whether it begins with CLS. Registers are counted besides.
_BEGINS_WITH_CLS = {
    "dinov2": True,
    "dinov2_with_registers": True,
    "dinov3_vit": True,
    "vit": True,
    "deit": True,
    "vit_msn": True,
    "vit_mae": True,
    "clip_vision_model": True,
    "siglip_vision_model": False,
    "siglip2_vision_model": False,
    "ijepa": False,
}
# Their pooler isn't part of what was trained: it must neither be made up nor read.
_NO_POOLER = {"vit", "deit", "ijepa"}
# Weights that may be missing: no vector depends on them.
_UNREAD = ("mask_token", "pooler.", "position_ids", "decoder")

# Every plain ViT has this weight; what stands before it is the prefix that a training script added.
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


@dataclass(frozen=True)
class LoadedModel:
    """A tower, the preprocessing of its directory, and the names of weights that no vector depends on."""

    tower: Tower
    preprocessing: Preprocessing
    unread: frozenset[str]


def load_directory(folder: Path, preprocessing: Preprocessing | None = None) -> LoadedModel:
    """Load a vision model from a local directory in the hub's layout.

    Parameters
    ----------
    folder : Path
        Holds ``config.json``, weights, and ``preprocessor_config.json`` if ``preprocessing`` is None.
    preprocessing : Preprocessing or None
        Given by a card; None reads the directory's own.

    Raises
    ------
    InputError
        It isn't a vision model, or this transformers doesn't know its architecture.
    FormatError
        Weights are missing or damaged.
    """
    config = read_config(folder)
    vision, model_class, options = _choose_class(folder, config)
    if preprocessing is None:
        preprocessing = read_preprocessing(folder, _default_preprocessing(vision), config.model_type)
    model, missing = load_weights(folder, model_class, vision, options, _UNREAD)
    tower = make_tower(model, vision, preprocessing)
    return LoadedModel(tower, preprocessing, frozenset(missing))


def make_tower(model: Any, config: Any, preprocessing: Preprocessing) -> Tower:
    """Wrap a transformers vision model."""
    kind = config.model_type
    forward = _make_forward(model, config, preprocessing)
    projection = getattr(model, "visual_projection", None)
    tokens = None
    if kind in _BEGINS_WITH_CLS:
        has_cls = _BEGINS_WITH_CLS[kind]
        extra = int(getattr(config, "num_register_tokens", 0) or 0) + (kind == "deit")
        tokens = find_tokens(
            model,
            depth=config.num_hidden_layers,
            width=config.hidden_size,
            n_prefix=has_cls + extra,
            has_cls=has_cls,
        )
    if projection is not None:
        return Tower(model, forward, tokens, lambda output: output.image_embeds, projection.out_features)
    if kind.startswith("siglip"):
        return Tower(model, forward, tokens, lambda output: output.pooler_output, config.hidden_size)
    if tokens is not None:
        return Tower(model, forward, tokens, None, config.hidden_size)
    pooled = _make_pooled(model)
    # An unknown architecture tells its dimension only by running.
    blank = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    try:
        with torch.inference_mode():
            dim = pooled(forward(blank)).shape[1]
    except (ValueError, RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise InputError(
            f"a model of type {kind!r} makes no vector of an image of {preprocessing.height} × "
            f"{preprocessing.width} pixels, which its image processor gives it: {error}. "
            "Take another backbone, or put the processor there that belongs to this model"
        ) from error
    return Tower(model, forward, None, pooled, dim)


def _choose_class(folder: Path, config: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the vision part of a configuration, the class that loads it, and options of that class."""
    import transformers

    vision = getattr(config, "vision_config", None)
    towers = {
        "clip": "CLIPVisionModelWithProjection",
        "siglip": "SiglipVisionModel",
        "siglip2": "Siglip2VisionModel",
    }
    if vision is not None and config.model_type in towers:
        # The size of CLIP's joint space is said at the top; older files repeat it wrongly below.
        if config.model_type == "clip":
            vision.projection_dim = config.projection_dim
        return vision, getattr(transformers, towers[config.model_type]), {}
    if vision is not None:
        raise InputError(
            f"{folder.name} is a composite model of type {config.model_type!r}; of those, CLIP and SigLIP "
            "are supported: give a directory with its vision model alone"
        )
    if config.model_type == "clip_vision_model" and "CLIPVisionModelWithProjection" in (
        config.architectures or ()
    ):
        return config, transformers.CLIPVisionModelWithProjection, {}
    mapping = transformers.AutoModel._model_mapping
    if type(config) not in mapping:
        raise InputError(f"{folder.name} is of type {config.model_type!r}, which has no bare model")
    model_class = mapping[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class.main_input_name != "pixel_values":
        raise InputError(
            f"{folder.name} is a model of type {config.model_type!r}, which takes "
            f"{model_class.main_input_name} and not images: a backbone must be a vision model"
        )
    return config, model_class, {"add_pooling_layer": False} if config.model_type in _NO_POOLER else {}


def _make_forward(model: Any, config: Any, preprocessing: Preprocessing) -> Callable[[torch.Tensor], Any]:
    size = (preprocessing.height, preprocessing.width)
    kind = config.model_type
    if kind == "siglip2_vision_model":
        return _make_flexible_forward(model, config.patch_size)
    options: dict[str, Any] = {}
    trained = getattr(config, "image_size", None)
    trained = (trained, trained) if isinstance(trained, int) else trained
    resized = trained is not None and tuple(trained) != size
    if resized and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        options["interpolate_pos_encoding"] = True
    if kind != "vit_mae":
        return lambda pixels: model(pixel_values=pixels, **options)
    # MAE masks and shuffles: a mask ratio of 0 keeps every patch, rising "noise" keeps their order.
    config.mask_ratio = model.config.mask_ratio = 0.0
    n_patches = (size[0] // config.patch_size) * (size[1] // config.patch_size)

    def forward_unmasked(pixels: torch.Tensor) -> Any:
        order = torch.arange(n_patches, device=pixels.device, dtype=torch.float32)
        return model(pixel_values=pixels, noise=order.expand(pixels.shape[0], -1), **options)

    return forward_unmasked


def _make_flexible_forward(model: Any, patch: int) -> Callable[[torch.Tensor], Any]:
    """SigLIP 2's flexible models take rows of (patch, patch, channel) values and the shape of their grid."""

    def forward_patches(pixels: torch.Tensor) -> Any:
        n, channels, height, width = pixels.shape
        rows, columns = height // patch, width // patch
        grid = pixels.reshape(n, channels, rows, patch, columns, patch)
        patches = grid.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)
        mask = torch.ones(n, rows * columns, dtype=torch.long, device=pixels.device)
        shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(n, -1)
        return model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)

    return forward_patches


def _make_pooled(model: nn.Module) -> Callable[[Any], torch.Tensor]:
    """Return how to read an unknown architecture: its pooled output, else the mean over places or tokens."""
    starts_with_cls = any(name.endswith("cls_token") for name, _ in model.named_parameters())

    def pooled(output: Any) -> torch.Tensor:
        vector: torch.Tensor | None = getattr(output, "pooler_output", None)
        if vector is not None:
            return vector.flatten(1)
        hidden: torch.Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if starts_with_cls else hidden.mean(dim=1)

    return pooled


def _default_preprocessing(config: Any) -> Preprocessing:
    side = getattr(config, "image_size", None) or 224
    side = max(side) if isinstance(side, (list, tuple)) else int(side)
    kind = config.model_type
    if kind.startswith("siglip"):
        if kind == "siglip2_vision_model":
            side = int(config.num_patches**0.5) * config.patch_size
        return Preprocessing(side, side, None, "bilinear", HALF, HALF)
    if kind.startswith("clip"):
        return Preprocessing(side, side, side, mean=CLIP_MEAN, std=CLIP_STD)
    if kind == "dinov2":
        side = min(side, 224)  # trained at 518 in its last phase, used at 224
    return Preprocessing(side, side, side * 256 // 224)


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
