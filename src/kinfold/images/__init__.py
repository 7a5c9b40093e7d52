"""Finding and decoding images: sources, one decoder, one loader.

Everything that can go wrong with a single image is an :class:`UnusableImage` with a :class:`SkipReason`; the
image keeps its row, so that the indices of all others stay the same.
"""

from __future__ import annotations

from kinfold.images._archives import TarSource, ZipSource
from kinfold.images._decode import (
    PIXEL_LIMIT,
    ImageFacts,
    decode_image,
    describe_image,
    describe_range,
    make_thumbnail,
    read_size,
)
from kinfold.images._folder import FolderSource
from kinfold.images._formats import EXTENSIONS, sniff
from kinfold.images._keys import KeyList, decode_key, encode_key, natural_key
from kinfold.images._loader import ImageBatch, ImageLoader, count_workers
from kinfold.images._open import open_source
from kinfold.images._source import ImageSource, SkipReason, UnusableImage
from kinfold.images._tables import ImageTableSource, PathTableSource, holds_images
from kinfold.images._thumbnails import Thumbnail, ThumbnailMaker

__all__ = [
    "EXTENSIONS",
    "PIXEL_LIMIT",
    "FolderSource",
    "ImageBatch",
    "ImageFacts",
    "ImageLoader",
    "ImageSource",
    "ImageTableSource",
    "KeyList",
    "PathTableSource",
    "SkipReason",
    "TarSource",
    "Thumbnail",
    "ThumbnailMaker",
    "UnusableImage",
    "ZipSource",
    "count_workers",
    "decode_image",
    "decode_key",
    "describe_image",
    "describe_range",
    "encode_key",
    "holds_images",
    "make_thumbnail",
    "natural_key",
    "open_source",
    "read_size",
    "sniff",
]
