"""Descriptors that need no weights: they work offline, on anything, and in milliseconds.

They are computed in the loader's workers; ``embed`` only stacks. They see shape and colour, not
meaning: good for digits, glyphs, textures and near-duplicates, weak on photographs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.backbones._backbone import Backbone, BackboneCard, Preprocessing
from kinfold.errors import InputError
from kinfold.storage import hash_json

_BATCH = 256
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class PixelTransform:
    """The image itself, squashed to 16 × 16 RGB; 768 values in (0, 1]."""

    side: ClassVar[int] = 16
    dim: ClassVar[int] = side * side * 3
    preprocessing = Preprocessing(side, side, None, "bicubic", _ZERO, _ONE)

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Return the descriptor of one image, float32 (768,)."""
        pixels = self.preprocessing(image)
        # (p + 1) / 256 instead of p / 255: a black image keeps a direction, so its cosine is defined.
        return ((pixels.reshape(-1).astype(np.float32) + 1) / 256).astype(np.float32)


class HogTransform:
    """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005) beside a colour histogram.

    The image is squashed to 64 × 64. Gradients: scikit-image's ``hog`` with 9 orientations, cells of 8
    × 8 pixels, blocks of 2 × 2 cells, per pixel the channel of the strongest gradient; 1,764 values
    scaled to unit length. Colour: the square roots of a joint RGB histogram of 4 × 4 × 4 bins
    (Hellinger), 64 values of unit length, weighted by ``colour_weight``.
    """

    side: ClassVar[int] = 64
    bins: ClassVar[int] = 4
    colour_weight: ClassVar[float] = 0.5
    dim: ClassVar[int] = 1764 + bins**3
    preprocessing = Preprocessing(side, side, None, "bicubic", _ZERO, _ONE)

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Return the descriptor of one image, float32 (1828,)."""
        from skimage.feature import hog

        pixels = self.preprocessing(image)
        gradients = hog(
            pixels, orientations=9, pixels_per_cell=(8, 8), cells_per_block=(2, 2), channel_axis=-1
        )
        length = float(np.linalg.norm(gradients))
        shape = gradients / length if length > 0 else gradients
        level = pixels.astype(np.int64) * self.bins // 256
        codes = (level[..., 0] * self.bins + level[..., 1]) * self.bins + level[..., 2]
        share = np.bincount(codes.reshape(-1), minlength=self.bins**3) / codes.size
        vector: NDArray[Any] = np.concatenate([shape, self.colour_weight * np.sqrt(share)])
        return vector.astype(np.float32)


class _Descriptor(Backbone):
    CARD: ClassVar[BackboneCard]
    # Part of the fingerprint: raised when the numbers that come out change.
    version: ClassVar[int] = 1

    def __init__(self, transform: PixelTransform | HogTransform) -> None:
        self.card = self.CARD
        self.spec = self.CARD.name
        self.transform = transform
        self.variants: Mapping[str, int] = {"cls": transform.dim}
        self.min_side = transform.side

    def embed(self, images: NDArray[Any], variants: Sequence[str] = ("cls",)) -> dict[str, NDArray[Any]]:
        """Return the descriptors as they came from the workers; the only variant is ``cls``."""
        self.check_variants(variants)
        if images.ndim != 2 or images.shape[1] != self.card.dim:
            raise InputError(
                f"{self.card.name} takes arrays of shape (B, {self.card.dim}), got {images.shape}"
            )
        return {name: np.ascontiguousarray(images, dtype=np.float32) for name in variants}

    def find_batch_size(self) -> int:
        """Return 256."""
        return _BATCH

    def fingerprint(self) -> str:
        """Return the SHA-256 of the descriptor's name, version and parameters."""
        return hash_json({"card": asdict(self.card), "version": self.version})


class PixelDescriptor(_Descriptor):
    """The downsampled image: 16 × 16 RGB, 768 values."""

    CARD = BackboneCard(
        "pixels",
        "descriptor",
        "kinfold",
        PixelTransform.preprocessing,
        PixelTransform.dim,
        "apache-2.0",
        adapter="descriptor",
    )

    def __init__(self) -> None:
        super().__init__(PixelTransform())


class HogDescriptor(_Descriptor):
    """Oriented gradients beside a colour histogram: 1,828 values."""

    CARD = BackboneCard(
        "hog",
        "descriptor",
        "kinfold",
        HogTransform.preprocessing,
        HogTransform.dim,
        "apache-2.0",
        adapter="descriptor",
    )

    def __init__(self) -> None:
        super().__init__(HogTransform())
