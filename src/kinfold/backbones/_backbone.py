"""Backbones: their interface, the cards that describe them, and the preprocessing of images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.errors import InputError, nearest_name
from kinfold.validation import check_choice, check_integer

if TYPE_CHECKING:
    import torch

# Channel means and deviations of the training sets, as the authors of each model published them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
# EfficientNet-Lite, which quantizes well so: (p − 127) / 128 of pixels from 0 to 255.
LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE_STD = (128 / 255, 128 / 255, 128 / 255)

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Of an image that is longer than this many times its shorter side only what the crop keeps is resized:
# a strip of 1 × 100,000 pixels would otherwise need gigabytes.
_LONGEST_ASPECT = 4
# How many source pixels away a resized pixel can depend on at a scale of 1: Lanczos reaches furthest.
_REACH = 3


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network; calling it does the part that runs in the workers.

    The workers resize and crop (Pillow) and hand over ``uint8`` pixels, a quarter of the bytes of floats;
    rescaling and normalising happen on the device in :meth:`Backbone.embed`.

    Parameters
    ----------
    height, width : int
        Size of the network's input in pixels.
    resize : int or None
        Length in pixels that the shorter side is resized to before the centre crop of ``height`` × ``width``;
        None squashes the whole image to ``squash``. Where a crop is larger than the image, the rest is black.
    interpolation : str
        Pillow's filter: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"`` or
        ``"hamming"``.
    mean, std : tuple of float
        Channel means and deviations (R, G, B) of rescaled values.
    rescale : float
        Factor that pixel values are multiplied by before ``mean`` and ``std`` are applied.
    squash : tuple of int or None
        Height and width that the whole image is squashed to where ``resize`` is None, before the centre crop;
        None means ``height`` × ``width``, which leaves nothing to crop.
    bgr : bool
        Whether the network takes its channels as B, G, R; then ``mean`` and ``std`` are in this order too.
    crop_rounds : bool
        Where a crop can't lie in the very centre, whether its start is rounded to an even number, as
        torchvision does it, and not down.
    """

    height: int = 224
    width: int = 224
    resize: int | None = 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale: float = 1 / 255
    squash: tuple[int, int] | None = None
    bgr: bool = False
    crop_rounds: bool = False

    def __post_init__(self) -> None:
        check_choice(tuple(INTERPOLATIONS), interpolation=self.interpolation)
        check_integer(height=self.height, width=self.width)
        if self.resize is not None:
            check_integer(resize=self.resize)
        if self.squash is not None:
            check_integer(squash_height=self.squash[0], squash_width=self.squash[1])

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop an RGB image to ``uint8`` pixels of shape (height, width, 3)."""
        # Resizing a palette or a 1-bit image would mix indices in place of colours.
        image = image if image.mode == "RGB" else image.convert("RGB")
        width, height = self._resized(image)
        left, top = self._start(width - self.width), self._start(height - self.height)
        crop = (left, top, left + self.width, top + self.height)
        if max(image.size) > _LONGEST_ASPECT * min(image.size):
            image = _resize_part(image, (width, height), crop, INTERPOLATIONS[self.interpolation])
        else:
            if image.size != (width, height):
                image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
            image = image.crop(crop)  # black beyond the image
        pixels = np.asarray(image, dtype=np.uint8)
        return np.ascontiguousarray(pixels[..., ::-1]) if self.bgr else pixels

    @property
    def min_side(self) -> int:
        """The shorter side that decoding must keep, in pixels."""
        return self.resize if self.resize is not None else max(self.squash or (self.height, self.width))

    def facts(self) -> dict[str, Any]:
        """Return what fingerprints count: the settings, later ones only where they are used.

        ``crop_rounds`` is never counted: it moves a crop by a pixel at most, and features of before it was
        known must still be recognised as those of the same backbone.
        """
        unused = {"crop_rounds", *(name for name, value in _LATER.items() if getattr(self, name) == value)}
        return {name: value for name, value in asdict(self).items() if name not in unused}

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return width and height of the whole image after resizing."""
        if self.resize is None:
            height, width = self.squash or (self.height, self.width)
            return width, height
        short, long = sorted(image.size)
        long = int(self.resize * long / short)  # rounded down, as torchvision and transformers do
        return (self.resize, long) if image.width <= image.height else (long, self.resize)

    def _start(self, margin: int) -> int:
        """Return where a crop begins that leaves ``margin`` pixels out."""
        if not self.crop_rounds:
            return margin // 2
        return round(margin / 2) if margin > 0 else -(-margin // 2)


_LATER = {"squash": None, "bgr": False}


def _resize_part(
    image: Image.Image, size: tuple[int, int], crop: tuple[int, int, int, int], resample: Image.Resampling
) -> Image.Image:
    """Return ``image.resize(size, resample).crop(crop)``, computing no more than the crop."""
    spans = []  # per axis: what is seen of the resized image, the pixels it is made of, their own part
    for length, resized, first, last in zip(image.size, size, crop[:2], crop[2:], strict=True):
        first, last = max(0, first), min(resized, last)
        scale = length / resized
        margin = math.ceil(_REACH * max(1.0, scale)) + 1
        begin, end = max(0, math.floor(first * scale) - margin), min(length, math.ceil(last * scale) + margin)
        spans.append((first, last, begin, end, first * scale - begin, min(last * scale, end) - begin))
    (x0, x1, left, right, a, c), (y0, y1, top, bottom, b, d) = spans
    part = image.crop((left, top, right, bottom)).resize((x1 - x0, y1 - y0), resample, box=(a, b, c, d))
    return part.crop((crop[0] - x0, crop[1] - y0, crop[2] - x0, crop[3] - y0))


@dataclass(frozen=True)
class VitShape:
    """Geometry of a plain vision transformer, for checkpoints that come without a configuration."""

    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    image_size: int = 224


@dataclass(frozen=True)
class BackboneCard:
    """What the catalogue knows about a backbone.

    Parameters
    ----------
    name : str
        The name that ``load_backbone`` and ``--backbone`` take.
    family : str
        What it belongs to: ``"DINOv2"``, ``"CLIP"``, ``"descriptor"``, ``"custom"`` …
    source : str
        Hub id, local path, or for checkpoint-only cards where the file is published.
    preprocessing : Preprocessing
        How images are prepared.
    dim : int
        Dimension of the ``cls`` variant; 0 where it is known only after loading.
    licence : str
        Licence of the weights as published; empty if unknown.
    revision : str or None
        The hub's revision that is loaded; None is the repository's main branch.
    has_text_tower : bool
        Whether ``cls`` lies in a space that is shared with a text encoder.
    adapter : str
        Who runs it: ``"transformers"``, ``"checkpoint"`` (a local file is needed), ``"descriptor"``,
        ``"timm"``, ``"open_clip"`` or ``"package"`` (the weights are a Python package).
    shape : VitShape or None
        Geometry for original checkpoint files, where such a file can be given (``NAME:FILE``).
    note : str
        What a user should know: gated, needs a newer library …
    """

    name: str
    family: str
    source: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    dim: int = 0
    licence: str = ""
    revision: str | None = None
    has_text_tower: bool = False
    adapter: str = "transformers"
    shape: VitShape | None = None
    note: str = ""


@dataclass(frozen=True)
class Execution:
    """Where and by what a network is run; see :func:`load_backbone`, whose parameters these are."""

    device: str | torch.device = "auto"
    precision: str = "auto"
    engine: str = "torch"


class Backbone(ABC):
    """A frozen map from images to vectors.

    ``transform`` runs in the loader's workers and turns a decoded RGB image into an array of a fixed shape;
    ``embed`` takes stacks of such arrays.

    Attributes
    ----------
    card : BackboneCard
        What it is.
    spec : str
        What :func:`load_backbone` was given, with absolute paths: it loads the same backbone again.
    variants : Mapping of str to int
        The vectors that it can give, with their dimensions.
    transform : callable
        Picklable; Pillow image → array.
    min_side : int or None
        The shorter side that decoding must keep, in pixels (JPEGs may be decoded at a smaller scale);
        None keeps all.
    """

    card: BackboneCard
    spec: str
    variants: Mapping[str, int]
    transform: Callable[[Image.Image], NDArray[Any]]
    min_side: int | None

    @abstractmethod
    def embed(self, images: NDArray[Any], variants: Sequence[str] = ("cls",)) -> dict[str, NDArray[Any]]:
        """Return the vectors of a batch.

        Parameters
        ----------
        images : array of shape (B, …)
            Stacked outputs of ``transform``.
        variants : sequence of str
            Which vectors; all come from one pass.

        Returns
        -------
        dict of str to array of shape (B, dim), float32
            One entry per variant.

        Raises
        ------
        InputError
            A variant is not offered.
        """

    @abstractmethod
    def find_batch_size(self) -> int:
        """Return the number of images to embed at once: the same on every call on one machine."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and precision, whatever the variant and device."""

    def describe(self) -> dict[str, Any]:
        """Return what a manifest records, as JSON-ready data.

        ``spec`` and ``precision`` load the same backbone again, ``fingerprint`` shows whether it is the same,
        and ``batch_size`` is what :meth:`find_batch_size` gives; besides, ``card``, ``variants``, ``device``,
        and of networks ``engine``.
        """
        return {
            "spec": self.spec,
            "card": asdict(self.card),
            "variants": dict(self.variants),
            "precision": "float32",
            "device": "cpu",
            "batch_size": self.find_batch_size(),
            "fingerprint": self.fingerprint(),
        }

    def check_variants(self, variants: Sequence[str]) -> None:
        """Raise :class:`InputError` if one of ``variants`` is not offered."""
        for name in variants:
            if name not in self.variants:
                offered = ", ".join(self.variants)
                hint = nearest_name(name, list(self.variants))
                raise InputError(
                    f"backbone {self.card.name} has no variant {name!r}{hint}; it has: {offered}"
                )
