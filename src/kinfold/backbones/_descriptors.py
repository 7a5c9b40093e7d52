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

_BATCH = 256  # workers have computed everything: a batch only groups rows for writing
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# Dalal and Triggs's choices (section 6): finer orientations than 20° gain nothing, and cells of 6 to 8 pixels
# in blocks of 2 × 2 or 3 × 3 detect best.
_ORIENTATIONS = 9
_CELL = 8  # pixels
_BLOCK = 2  # cells
# No entry of a block of unit length may be above it: one strong edge else hides all others.
_CLIP = 0.2
_EPSILON = 1e-5  # keeps blocks without any gradient at zero instead of 0 / 0


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


def oriented_gradients(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the histograms of oriented gradients of an image (Dalal and Triggs, CVPR 2005, section 6).

    Gradients are central differences, 0 at the image's border, of the channel where they are longest. Every
    pixel votes with their length for one of 9 orientations of 20° from 0° to 180°, of its cell alone: votes
    are not shared with neighboring cells or orientations. Blocks of 2 × 2 cells overlap by one cell and are
    scaled to unit length, clipped at 0.2 and scaled anew (L2-Hys).

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, channels)
        16 pixels or more each way. Rows and columns beyond the last whole cell of 8 × 8 are left out.

    Returns
    -------
    ndarray of float64, shape (n_blocks * 36,)
        Blocks row by row; in each, cells row by row; in each, orientations. 1,764 values for 64 × 64.
    """
    values = pixels.astype(np.float64)
    down, right = np.zeros_like(values), np.zeros_like(values)
    down[1:-1] = values[2:] - values[:-2]
    right[:, 1:-1] = values[:, 2:] - values[:, :-2]
    lengths = np.hypot(right, down)
    strongest = lengths.argmax(axis=2)[..., None]  # the first channel among equals

    rows, columns = (size // _CELL for size in pixels.shape[:2])
    whole = np.s_[: rows * _CELL, : columns * _CELL]
    down, right, lengths = (
        np.take_along_axis(each, strongest, axis=2)[whole][..., 0] for each in (down, right, lengths)
    )
    # Opposite directions are one orientation. Of whole-number differences only 0° lies on a bin's edge.
    angles = np.rad2deg(np.arctan2(down, right)) % 180
    bins = (angles // (180 / _ORIENTATIONS)).astype(np.int64)
    cells = (np.arange(rows * _CELL)[:, None] // _CELL) * columns + np.arange(columns * _CELL) // _CELL
    # Added pixel by pixel in single precision, because the features in stores made before were: sums in
    # double precision differ in the seventh digit, and the fingerprint promises the same numbers.
    votes = np.zeros(rows * columns * _ORIENTATIONS, np.float32)
    np.add.at(votes, (cells * _ORIENTATIONS + bins).ravel(), lengths.ravel())
    histograms = votes.reshape(rows, columns, _ORIENTATIONS).astype(np.float64) / _CELL**2

    steps = range(_BLOCK)
    down_to, right_to = rows - _BLOCK + 1, columns - _BLOCK + 1
    cells_of_blocks = [histograms[r : down_to + r, c : right_to + c] for r in steps for c in steps]
    blocks = np.stack(cells_of_blocks, axis=2).reshape(-1, _BLOCK * _BLOCK * _ORIENTATIONS)
    clipped = np.minimum(_to_unit_length(blocks), _CLIP)
    return _to_unit_length(clipped).ravel()


def _to_unit_length(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = blocks / np.sqrt((blocks**2).sum(axis=1, keepdims=True) + _EPSILON**2)
    return scaled


class HogTransform:
    """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005) beside a colour histogram.

    The image is squashed to 64 × 64. Gradients: :func:`oriented_gradients`, 1,764 values scaled
    to unit length. Colour: the square roots of a joint RGB histogram of 4 × 4 × 4 bins
    (Hellinger), 64 values of unit length, weighted by ``colour_weight``.
    """

    side: ClassVar[int] = 64
    # 64 colours: finer bins would keep few pixels each at 64 × 64.
    bins: ClassVar[int] = 4
    # Half the length of the gradients: shape counts more, colour decides among like shapes.
    colour_weight: ClassVar[float] = 0.5
    dim: ClassVar[int] = 1764 + bins**3
    preprocessing = Preprocessing(side, side, None, "bicubic", _ZERO, _ONE)

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        """Return the descriptor of one image, float32 (1828,)."""
        pixels = self.preprocessing(image)
        gradients = oriented_gradients(pixels)
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
        card = {**asdict(self.card), "preprocessing": self.card.preprocessing.facts()}
        return hash_json({"card": card, "version": self.version})


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
