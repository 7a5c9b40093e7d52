"""Models of transformers: the families of the catalogue, and what AutoModel knows besides."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kinfold.backbones._card import CLIP_MEAN, CLIP_STD, HALF, Preprocessing
from kinfold.backbones._fit import check_fit
from kinfold.backbones._tower import Tower, find_tokens
from kinfold.errors import FormatError, InputError
from kinfold.storage import read_json

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
    from kinfold.backbones._processor import read_preprocessing

    config = _read_config(folder)
    vision, model_class, options = _choose_class(folder, config)
    if preprocessing is None:
        preprocessing = read_preprocessing(folder, _default_preprocessing(vision))
    model, missing = _load_weights(folder, model_class, vision, options)
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
    blank = torch.zeros(1, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        dim = pooled(forward(blank)).shape[1]
    return Tower(model, forward, None, pooled, dim)


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} isn't a model: it has no config.json")
    content = read_json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} can't be used: {_say_trouble(content, error)}") from error
    except OSError as error:
        raise FormatError(f"{folder / 'config.json'} is damaged: {error}") from error


def _say_trouble(config: Any, error: Exception) -> str:
    """Say why a configuration isn't understood; what transformers says itself only if we know no better."""
    import transformers

    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        return "it names no model_type, so it wasn't written by save_pretrained of transformers"
    if kind not in transformers.CONFIG_MAPPING:
        return (
            f"transformers {transformers.__version__} doesn't know models of type {kind!r}. "
            "Update transformers, or take another backbone"
        )
    return str(error)


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


def _load_weights(
    folder: Path, model_class: Any, config: Any, options: dict[str, Any]
) -> tuple[nn.Module, set[str]]:
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FormatError(
            f"{folder} has no weights: model.safetensors (or pytorch_model.bin) must lie beside config.json"
        )
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, in our own words
                **options,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(f"the weights in {folder} can't be loaded: {error}") from error
    except Exception as error:
        if "safetensor" not in type(error).__name__.lower():
            raise
        raise FormatError(f"the weights in {folder} are damaged: {error}") from error
    missing = set(info["missing_keys"])
    check_fit(
        str(folder),
        f"the {config.model_type} model that its config.json describes",
        "Put config.json and weights of one and the same model there, or save the model anew",
        missing=[name for name in missing if not any(part in name for part in _UNREAD)],
        misfits=info["mismatched_keys"],
    )
    return model, missing


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars and reports off the screen while weights load."""
    from transformers.utils import logging as theirs

    level, bar = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bar:
            theirs.enable_progress_bar()


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
        return model(pixel_values=pixels, noise=order.expand(len(pixels), -1), **options)

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
