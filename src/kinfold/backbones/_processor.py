"""Reading the processor file that lies beside a model into our own preprocessing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinfold.backbones._card import INTERPOLATIONS, Preprocessing
from kinfold.errors import InputError
from kinfold.storage import read_json

logger = logging.getLogger(__name__)

_BY_CODE = {int(code): name for name, code in INTERPOLATIONS.items()}


def read_preprocessing(folder: Path, default: Preprocessing) -> Preprocessing:
    """Return what ``preprocessor_config.json`` in a model directory says, else ``default`` with a warning."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        return parse_processor(read_json(file), default)
    nested = folder / "processor_config.json"
    if nested.is_file() and "image_processor" in (config := read_json(nested)):
        return parse_processor(config["image_processor"], default)
    logger.warning(
        "%s has no preprocessor_config.json, so how it was trained to see images is a guess: %s. "
        "If that isn't right, put the model's own file there",
        folder.name,
        _say(default),
    )
    return default


def parse_processor(config: Mapping[str, Any], default: Preprocessing) -> Preprocessing:
    """Translate the settings of a transformers image processor.

    Parameters
    ----------
    config : mapping
        The content of ``preprocessor_config.json``, of any age: sizes as a number or as a mapping.
    default : Preprocessing
        For what isn't said there.

    Raises
    ------
    InputError
        The settings make no input of a fixed size.
    """
    height, width, resize = _geometry(config, default)
    code = config.get("resample")
    normalise = config.get("do_normalize", True)
    scale = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    n_channels = len(default.mean)
    return Preprocessing(
        height=height,
        width=width,
        resize=resize,
        interpolation=default.interpolation if code is None else _BY_CODE.get(int(code), "bicubic"),
        mean=_channels(config.get("image_mean"), default.mean) if normalise else (0.0,) * n_channels,
        std=_channels(config.get("image_std"), default.std) if normalise else (1.0,) * n_channels,
        rescale=scale,
    )


def _geometry(config: Mapping[str, Any], default: Preprocessing) -> tuple[int, int, int | None]:
    """Return height and width of the input, and the length of the shorter side before the crop."""
    if "max_num_patches" in config:  # SigLIP 2's flexible layout, used with a square grid
        side = int(config.get("patch_size", 16)) * math.isqrt(int(config["max_num_patches"]))
        return side, side, None
    size = config.get("size")
    crops = bool(config.get("do_center_crop", False))
    if size is None or not config.get("do_resize", True):
        size = config.get("crop_size", size) or {"height": default.height, "width": default.width}
    if isinstance(size, int):
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    crop = config.get("crop_size") if crops else None
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if "height" in size and "width" in size:
        height, width = int(size["height"]), int(size["width"])
        if crop and (int(crop["height"]), int(crop["width"])) != (height, width):
            return int(crop["height"]), int(crop["width"]), min(height, width)
        return height, width, None
    if "shortest_edge" not in size:
        raise InputError(f"the processor's size {dict(size)} gives no input of a fixed size")
    resize = int(size["shortest_edge"])
    if crop:
        return int(crop["height"]), int(crop["width"]), resize
    share = config.get("crop_pct")
    if share and resize < 384:  # ConvNeXt: the crop is what remains
        return resize, resize, int(resize / share)
    return resize, resize, resize


def _channels(values: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if values else default


def _say(preprocessing: Preprocessing) -> str:
    """Return in words what is done to an image."""
    size = f"{preprocessing.height} × {preprocessing.width} pixels"
    if preprocessing.resize is None:
        shape = f"images are squashed to {size}"
    else:
        shape = f"the shorter side is resized to {preprocessing.resize} pixels, the centre cropped to {size}"
    mean, std = (
        ", ".join(f"{value:.3g}" for value in values) for values in (preprocessing.mean, preprocessing.std)
    )
    return f"{shape} ({preprocessing.interpolation}), values are normalised with mean {mean}, deviation {std}"
