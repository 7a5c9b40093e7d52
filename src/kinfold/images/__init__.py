"""Finding and decoding images: sources, one decoder, one loader.

Everything that can go wrong with a single image is an :class:`UnusableImage` with a :class:`SkipReason`; the
row stays where it is and nobody shifts.
"""

from __future__ import annotations

from kinfold.images._archives import TarSource, ZipSource
from kinfold.images._decode import PIXEL_LIMIT, ImageFacts, decode_image, describe_image, make_thumbnail
from kinfold.images._folder import FolderSource
from kinfold.images._formats import EXTENSIONS, sniff
from kinfold.images._keys import KeyList, decode_key, encode_key, natural_key
from kinfold.images._loader import ImageBatch, ImageLoader, count_workers
from kinfold.images._open import open_source
from kinfold.images._source import ImageSource, SkipReason, UnusableImage
from kinfold.images._tables import ImageTableSource, PathTableSource
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
    "encode_key",
    "make_thumbnail",
    "natural_key",
    "open_source",
    "sniff",
]
