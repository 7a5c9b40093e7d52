"""The image processor that a model was saved with, read as a :class:`Preprocessing`.

Every processor of transformers has settings of its own and defaults for those that its file leaves out.
What is known here gives the pixels that the processor gives; anything else is refused by name, because pixels
that the model never saw make worse groups without a word.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinfold.backbones._backbone import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INTERPOLATIONS,
    Preprocessing,
)
from kinfold.errors import FormatError, InputError
from kinfold.storage import read_json

logger = logging.getLogger(__name__)

# Processor files name Pillow's filters by number.
_BY_CODE = {int(code): name for name, code in INTERPOLATIONS.items()}
_BICUBIC, _BILINEAR = (int(INTERPOLATIONS[name]) for name in ("bicubic", "bilinear"))
_CLIP: dict[str, Any] = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_HALF: dict[str, Any] = {"image_mean": HALF, "image_std": HALF}
_IMAGENET: dict[str, Any] = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}


@dataclass(frozen=True)
class _Processor:
    """What a class of image processors does with its settings, and the settings that it has by itself.

    Parameters
    ----------
    defaults : mapping
        Its settings where the file says nothing (transformers 5).
    square : bool
        Whether a size that is one number is height and width, and not the shorter side.
    crops, normalises : bool
        Whether it heeds ``do_center_crop`` and ``do_normalize`` at all.
    rule : str
        How it resizes: ``""`` (to ``size``), ``"convnext"``, ``"levit"``, ``"poolformer"`` or ``"dpt"``.
    also : tuple of str
        Settings that it heeds besides those of all.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    square: bool = True
    crops: bool = True
    normalises: bool = True
    rule: str = ""
    also: tuple[str, ...] = ()


def _square(side: int, resample: int, *, crop: int | None = None, **more: Any) -> dict[str, Any]:
    return _settings({"height": side, "width": side}, resample, crop, more)


def _shortest(side: int, resample: int, *, crop: int | None = None, **more: Any) -> dict[str, Any]:
    return _settings({"shortest_edge": side}, resample, crop, more)


def _settings(size: dict[str, int], resample: int, crop: int | None, more: dict[str, Any]) -> dict[str, Any]:
    crops: dict[str, Any] = {"do_center_crop": crop is not None}
    if crop is not None:
        crops["crop_size"] = {"height": crop, "width": crop}
    return {"size": size, "resample": resample, **crops, **more}


_CLIP_LIKE = _Processor(_shortest(224, _BICUBIC, crop=224, **_CLIP), square=False)
_PROCESSORS = {
    "Beit": _Processor(
        {**_square(224, _BICUBIC, crop=224, **_HALF), "do_center_crop": False},
    ),
    "Bit": _CLIP_LIKE,
    "Blip": _Processor(_square(384, _BICUBIC, **_CLIP)),
    "CLIP": _CLIP_LIKE,
    "ChineseCLIP": _CLIP_LIKE,
    "ConvNext": _Processor(
        _shortest(384, _BICUBIC, crop_pct=224 / 256, **_HALF),
        square=False,
        rule="convnext",
        also=("crop_pct",),
    ),
    "DINOv3ViT": _Processor(_square(224, _BILINEAR, **_IMAGENET)),
    "DPT": _Processor(
        _square(384, _BICUBIC, **_HALF),
        crops=False,
        rule="dpt",
        also=("ensure_multiple_of", "keep_aspect_ratio", "size_divisor"),
    ),
    "DeiT": _Processor(_square(256, _BICUBIC, crop=224, **_HALF)),
    "EfficientNet": _Processor(
        {**_square(346, _BICUBIC, crop=289, include_top=True, **_HALF), "do_center_crop": False},
        also=("rescale_offset", "include_top"),
    ),
    "Levit": _Processor(_shortest(224, _BICUBIC, crop=224, **_IMAGENET), square=False, rule="levit"),
    "MobileNetV1": _Processor(_shortest(256, _BILINEAR, crop=224, **_HALF), square=False),
    "MobileNetV2": _Processor(_shortest(256, _BILINEAR, crop=224, **_HALF), square=False),
    "MobileViT": _Processor(
        _shortest(224, _BICUBIC, crop=256, do_flip_channel_order=True, **_HALF),
        square=False,
        normalises=False,
        also=("do_flip_channel_order",),
    ),
    "PoolFormer": _Processor(
        _shortest(224, _BICUBIC, crop=224, crop_pct=0.9, **_IMAGENET),
        square=False,
        rule="poolformer",
        also=("crop_pct",),
    ),
    "Pvt": _Processor(_square(224, _BICUBIC, **_IMAGENET)),
    "Segformer": _Processor(_square(512, _BILINEAR, **_IMAGENET), crops=False),
    "Siglip": _Processor(_square(224, _BICUBIC, **_HALF), square=False),
    "ViT": _Processor(_square(224, _BILINEAR, **_HALF)),
}

# Settings of all processors that are read below.
_HEEDED = {
    *(
        "do_resize",
        "size",
        "default_to_square",
        "resample",
        "do_center_crop",
        "crop_size",
        "do_pad",
        "pad_size",
    ),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
}
# Settings of single processors, passed over by all others.
_OF_SOME = {name for processor in _PROCESSORS.values() for name in processor.also}
# Settings that change no pixel of a picture in RGB.
_IDLE = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "model_input_names"),
    *("do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),
    *("do_reduce_labels", "reduce_labels", "image_seq_length", "transformers_version", "num_channels"),
    *("model_type", "name_or_path", "patch_size"),
}
_KEEPS_ITS_SHAPE = "so images keep shapes of their own, and a batch needs one shape"


def read_preprocessing(folder: Path, default: Preprocessing, model_type: str | None = None) -> Preprocessing:
    """Return what the processor file in a model directory says, else ``default`` with a warning.

    Parameters
    ----------
    folder : Path
        Holds ``preprocessor_config.json``, or ``processor_config.json`` with an image processor in it.
    default : Preprocessing
        What to do without either, and for settings that are said nowhere.
    model_type : str or None
        The model's ``model_type``: it tells the processor where the file doesn't.

    Raises
    ------
    InputError
        A setting isn't supported, or gives no input of a fixed size.
    FormatError
        A file is damaged.
    """
    # In this order, as transformers looks for them.
    nested, file = folder / "processor_config.json", folder / "preprocessor_config.json"
    if nested.is_file():
        config = read_json(nested)
        if isinstance(config, dict) and "image_processor" in config:
            return parse_processor(config["image_processor"], default, model_type, str(nested))
    if file.is_file():
        return parse_processor(read_json(file), default, model_type, str(file))
    logger.warning(
        "%s has no preprocessor_config.json, so how it was trained to see images is a guess: %s. "
        "If that isn't right, put the model's own file there",
        folder.name,
        _say(default),
    )
    return default


def parse_processor(
    config: Any,
    default: Preprocessing,
    model_type: str | None = None,
    origin: str = "the image processor",
) -> Preprocessing:
    """Translate the settings of a transformers image processor.

    Parameters
    ----------
    config : mapping
        The content of ``preprocessor_config.json``, of any age: sizes as a number or as a mapping.
    default : Preprocessing
        For what isn't said there and belongs to no known processor.
    model_type : str or None
        The model's ``model_type``: it tells the processor where ``config`` doesn't.
    origin : str
        The file, for errors.

    Raises
    ------
    InputError
        A setting isn't supported, or gives no input of a fixed size.
    FormatError
        A setting has an impossible value.
    """
    if not isinstance(config, Mapping):
        raise FormatError(f"{origin} is damaged: it isn't an object of settings")
    return _Reader(config, default, model_type, origin).read()


class _Reader:
    """One processor file: what it says, and what its processor adds."""

    def __init__(
        self, config: Mapping[str, Any], default: Preprocessing, model_type: str | None, origin: str
    ) -> None:
        self.origin = origin
        self.default = default
        # To transformers a null is the same as nothing.
        self.said = {name: value for name, value in config.items() if value is not None}
        if "max_num_patches" in self.said:
            raise self.refuse(
                "max_num_patches",
                "which cuts every image into patches of a grid of its own, and a batch needs one",
            )
        self.processor = self.find_processor(model_type)
        self.check_names()

    def read(self) -> Preprocessing:
        height, width, resize, squash = self.read_geometry()
        mean, std, scale = self.read_values()
        return Preprocessing(
            height=height,
            width=width,
            resize=resize,
            interpolation=self.read_filter(),
            mean=mean,
            std=std,
            rescale=scale,
            squash=None if squash == (height, width) else squash,
            bgr=self.heeds("do_flip_channel_order") and self.flag("do_flip_channel_order", False),
        )

    def find_processor(self, model_type: str | None) -> _Processor | None:
        """Return the processor that the file was written by; None where nothing tells."""
        for key in ("image_processor_type", "feature_extractor_type"):
            if key in self.said:
                name = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(self.said[key]))
                if name not in _PROCESSORS:
                    raise self.refuse(key, "a processor that Kinfold doesn't know")
                return _PROCESSORS[name]
        if "auto_map" in self.said:
            raise self.refuse(
                "auto_map", "code of the model's own, and Kinfold runs no code that comes with models"
            )
        usual = _processor_of(model_type)
        if usual is not None and usual not in _PROCESSORS:
            raise InputError(
                f"{self.origin} names no image_processor_type, and models of type {model_type!r} have "
                f"{usual}ImageProcessor, which Kinfold doesn't know. {_MEND}"
            )
        return None if usual is None else _PROCESSORS[usual]

    def check_names(self) -> None:
        """Refuse settings that may change pixels and that nothing here reads."""
        for name, value in self.said.items():
            known = name in _HEEDED or name in _IDLE or name in _OF_SOME or name.startswith("_")
            if not known and value is not False:
                raise self.refuse(name, "a setting that Kinfold doesn't know")
            if self.processor is None and name in _OF_SOME and value is not False:
                raise self.refuse(
                    name,
                    "a setting of some processors alone, and image_processor_type doesn't say which this is",
                )
        if self.flag("do_pad", False) and "pad_size" in self.said:
            raise self.refuse("pad_size", "and Kinfold doesn't pad images")
        if not self.flag("do_resize", True):
            raise self.refuse("do_resize", _KEEPS_ITS_SHAPE)

    def read_geometry(self) -> tuple[int, int, int | None, tuple[int, int] | None]:
        """Return height and width of the input, the shorter side before the crop, and what is squashed to."""
        size = self.read_size("size", self.squares())
        crops = (self.processor is None or self.processor.crops) and self.flag("do_center_crop", False)
        crop = self.read_size("crop_size", True) if crops else None
        if crops and (crop is None or "height" not in crop):
            raise self.refuse("do_center_crop", "and crop_size doesn't say how much is kept", say_value=False)
        if size is None:  # of no known processor
            side = self.default.height if crop is None else crop["height"]
            size = {"shortest_edge": side} if crop else {"height": side, "width": self.default.width}
        window = None if crop is None else (crop["height"], crop["width"])
        rule = self.processor.rule if self.processor else ""
        if rule == "convnext":
            return self.read_convnext(size, window)
        if rule == "poolformer":
            size = self.enlarge(size)
        shortest = size.get("shortest_edge")
        if shortest is not None:
            if window is None:
                raise self.refuse("size", f"and do_center_crop is off, {_KEEPS_ITS_SHAPE}")
            return *window, int((256 / 224) * shortest) if rule == "levit" else shortest, None
        squash = (size["height"], size["width"])
        if rule == "dpt":
            squash = self.round_to_multiple(squash)
        return *(window or squash), None, squash

    def read_convnext(
        self, size: Mapping[str, int], window: tuple[int, int] | None
    ) -> tuple[int, int, int | None, tuple[int, int] | None]:
        """Return ConvNeXt's geometry: a centre crop below 384 pixels, a squashed image from there on."""
        side = size.get("shortest_edge")
        if side is None:
            raise self.refuse("size", "where this processor takes shortest_edge alone")
        if window not in (None, (side, side)):
            raise self.refuse(
                "do_center_crop", "which would be a second crop after that of size", say_value=False
            )
        return (side, side, None, None) if side >= 384 else (side, side, int(side / self.share()), None)

    def enlarge(self, size: Mapping[str, int]) -> dict[str, int]:
        """Return PoolFormer's size: the crop is ``crop_pct`` of it."""
        share = self.share()
        larger = {name: int(side / share) for name, side in size.items()}
        if len(set(larger.values())) == 1:
            return {"shortest_edge": next(iter(larger.values()))}
        return larger

    def round_to_multiple(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return DPT's size: sides that the width of a patch divides."""
        if self.flag("keep_aspect_ratio", False):
            raise self.refuse("keep_aspect_ratio", _KEEPS_ITS_SHAPE)
        multiple = self.whole("ensure_multiple_of", self.said.get("ensure_multiple_of", 1))
        rounded = (round(size[0] / multiple) * multiple, round(size[1] / multiple) * multiple)
        divisor = self.whole("size_divisor", self.said.get("size_divisor", 1))
        if self.flag("do_pad", False) and any(side % divisor for side in rounded):
            raise self.refuse("size_divisor", "and Kinfold doesn't pad images")
        return rounded

    def read_values(self) -> tuple[tuple[float, ...], tuple[float, ...], float]:
        """Return mean, deviation and factor of the pixel values."""
        scales = self.flag("do_rescale", True)
        scale = self.number("rescale_factor", self.get("rescale_factor", 1 / 255)) if scales else 1.0
        mean: tuple[float, ...] = (0.0,) * 3
        std: tuple[float, ...] = (1.0,) * 3
        given = self.channels("image_std", self.default.std)
        if (self.processor is None or self.processor.normalises) and self.flag("do_normalize", True):
            mean, std = self.channels("image_mean", self.default.mean), given
        if scales and self.heeds("rescale_offset") and self.flag("rescale_offset", False):
            mean = tuple(value + 1 for value in mean)  # values are lowered by 1 before they are normalised
        if self.heeds("include_top") and self.flag("include_top", False):
            std = tuple(value * top for value, top in zip(std, given, strict=True))  # divided a second time
        return mean, std, scale

    def read_filter(self) -> str:
        code = self.get("resample")
        if code is None:
            return self.default.interpolation
        if isinstance(code, str) and code.lower() in INTERPOLATIONS:
            return code.lower()
        if isinstance(code, bool) or not isinstance(code, int) or code not in _BY_CODE:
            raise self.refuse(
                "resample", f"and filters are {', '.join(f'{k} ({v})' for k, v in _BY_CODE.items())}"
            )
        return _BY_CODE[code]

    def read_size(self, name: str, square: bool) -> dict[str, int] | None:
        """Return a size as height and width, or as the shorter side; None where nothing says it."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, (list, tuple)) and len(value) == 2:
            value = {"height": value[0], "width": value[1]}
        elif not isinstance(value, Mapping):
            value = {"height": value, "width": value} if square else {"shortest_edge": value}
        sides = {str(key): side for key, side in value.items() if side is not None}
        if set(sides) not in ({"height", "width"}, {"shortest_edge"}):
            raise self.refuse(name, f"{_KEEPS_ITS_SHAPE}; height and width, or shortest_edge, give it")
        return {key: self.whole(name, side) for key, side in sides.items()}

    def squares(self) -> bool:
        if "default_to_square" in self.said:
            return self.flag("default_to_square", True)
        if self.processor is None:
            return not self.flag("do_center_crop", False)
        return self.processor.square

    def heeds(self, name: str) -> bool:
        return self.processor is not None and name in self.processor.also

    def share(self) -> float:
        share = self.number("crop_pct", self.get("crop_pct"))
        if share > 1:
            raise self.wrong("crop_pct", share)
        return share

    def get(self, name: str, default: Any = None) -> Any:
        if name in self.said:
            return self.said[name]
        return default if self.processor is None else self.processor.defaults.get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if value not in (True, False):  # 0 and 1 too
            raise self.wrong(name, value)
        return bool(value)

    def whole(self, name: str, value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or value != value // 1
            or not 0 < value < 1e5
        ):
            raise self.wrong(name, value)
        return int(value)

    def number(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise self.wrong(name, value)
        return float(value)

    def channels(self, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        values = self.get(name, default)
        values = list(values) if isinstance(values, (list, tuple)) else [values] * 3
        if len(values) != 3 or not all(
            isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or name == "image_mean")
            for value in values
        ):
            raise self.wrong(name, self.get(name, default))
        return tuple(float(value) for value in values)

    def refuse(self, name: str, why: str, *, say_value: bool = True) -> InputError:
        value = f" is {self.get(name)!r}" if say_value else " is set"
        return InputError(f"{self.origin}: {name}{value}, {why}. {_MEND}")

    def wrong(self, name: str, value: Any) -> FormatError:
        return FormatError(f"{self.origin} is damaged: {name} is {value!r}")


_MEND = (
    "Kinfold feeds a model what its own image processor would; take another backbone, or describe there what "
    "the model expects with a processor that gives one size, such as ViTImageProcessor"
)


def _processor_of(model_type: str | None) -> str | None:
    """Return the processor that transformers gives to a type of model, without the end of its name."""
    if model_type is None:
        return None
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    # A name, a tuple of names, or a mapping to names, depending on the release.
    whole = model_type.removesuffix("_vision_model")
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or IMAGE_PROCESSOR_MAPPING_NAMES.get(whole)
    names = list(names.values()) if isinstance(names, Mapping) else names
    first = next((name for name in names if name), None) if isinstance(names, (list, tuple)) else names
    return None if first is None else re.sub(r"ImageProcessor(Fast|Pil)?$", "", first)


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
