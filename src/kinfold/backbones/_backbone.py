"""Backbones: their interface, the cards that describe them, and the preprocessing of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.errors import InputError, nearest_name
from kinfold.validation import check_choice, check_integer

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
# A panorama is cut to this many times its shorter side before it is resized: what lies further out
# would be cropped away, and a strip of 1 × 100,000 pixels would otherwise need gigabytes.
_LONGEST_ASPECT = 4


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
        None squashes the whole image to ``height`` × ``width`` without a crop.
    interpolation : str
        Pillow's filter: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"`` or
        ``"hamming"``.
    mean, std : tuple of float
        Channel means and deviations (R, G, B) of rescaled values.
    rescale : float
        Factor that pixel values are multiplied by before ``mean`` and ``std`` are applied.
    """

    height: int = 224
    width: int = 224
    resize: int | None = 256
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        check_choice(tuple(INTERPOLATIONS), interpolation=self.interpolation)
        check_integer(height=self.height, width=self.width)
        if self.resize is not None and self.resize < max(self.height, self.width):
            raise InputError(
                f"the crop of {self.height} × {self.width} is larger than the resized side {self.resize}"
            )

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Resize and crop an RGB image to ``uint8`` pixels of shape (height, width, 3)."""
        # Resizing a palette or a 1-bit image would mix indices in place of colours.
        image = image if image.mode == "RGB" else image.convert("RGB")
        resample = INTERPOLATIONS[self.interpolation]
        if self.resize is None:
            return np.asarray(image.resize((self.width, self.height), resample), dtype=np.uint8)
        image = _trim(image)
        short, long = sorted(image.size)
        long = int(self.resize * long / short)  # rounded down, as torchvision and transformers do
        size = (self.resize, long) if image.width <= image.height else (long, self.resize)
        if image.size != size:
            image = image.resize(size, resample)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image, dtype=np.uint8)

    @property
    def min_side(self) -> int:
        """The shorter side that decoding must keep, in pixels."""
        return self.resize if self.resize is not None else max(self.height, self.width)


def _trim(image: Image.Image) -> Image.Image:
    """Cut the ends off an image that is far longer than wide."""
    keep = _LONGEST_ASPECT * min(image.size)
    if max(image.size) <= keep:
        return image
    left, top = max(0, (image.width - keep) // 2), max(0, (image.height - keep) // 2)
    return image.crop((left, top, min(image.width, left + keep), min(image.height, top + keep)))


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
        and ``batch_size`` is what :meth:`find_batch_size` gives; besides, ``card``, ``variants``, ``device``.
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
