"""The images of a page: only the rows shown are read, made small and encoded as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from PIL import features

from kinfold.compute import cpu_count
from kinfold.errors import KinfoldError
from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from kinfold.images import ImageSource

_QUALITIES = (82, 65, 45, 25)
_BLOCK = 128
_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Thumbnail:
    """One image of a page.

    Attributes
    ----------
    uri : str
        ``data:image/webp;base64,…``; empty where the image could not be had.
    width, height : int
        Of the encoded image, in pixels.
    reason : str
        Why there is no image; empty where there is one.
    """

    uri: str
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def is_oblong(self) -> bool:
        """Tell whether cropping to a square would hide a good part of it."""
        return max(self.width, self.height) > 1.6 * min(self.width, self.height)


def make_thumbnails(
    source: ImageSource,
    rows: Sequence[int],
    side: int,
    max_bytes: int,
    *,
    progress: Progress = SILENT,
) -> dict[int, Thumbnail]:
    """Read and encode the images of some rows.

    The files are read one after another (an archive is one stream) while all cores decode: Pillow decodes,
    shrinks and encodes outside Python's lock. At most 128 encoded originals are held at a time.

    Parameters
    ----------
    source : ImageSource
        Where the images are.
    rows : sequence of int
        Rows of the source; every row is read once, in rising order.
    side : int
        Longest side in pixels.
    max_bytes : int
        Most bytes of one encoded thumbnail; quality, then the side, give way until it fits.

    Returns
    -------
    dict
        Row to thumbnail. An image that can't be used any more gives one that says why.
    """
    wanted = sorted(set(rows))
    encode = partial(_encode, side=side, max_bytes=max_bytes)
    thumbnails: dict[int, Thumbnail] = {}
    with (
        ThreadPoolExecutor(cpu_count()) as pool,
        progress.task("Making thumbnails", len(wanted), "images") as task,
    ):
        for start in range(0, len(wanted), _BLOCK):
            block = wanted[start : start + _BLOCK]
            thumbnails.update(zip(block, pool.map(encode, _read(source, block)), strict=True))
            task.advance(len(block))
    return thumbnails


def _read(source: ImageSource, rows: Sequence[int]) -> Iterator[bytes | str]:
    """Yield every row's bytes, or the reason why there are none."""
    for row in rows:
        try:
            yield source.read(row)
        except KinfoldError as error:
            yield str(error)


def _encode(data: bytes | str, side: int, max_bytes: int) -> Thumbnail:
    from kinfold.images import make_thumbnail

    if isinstance(data, str):
        return Thumbnail("", reason=data)
    try:
        image = make_thumbnail(data, side)
    except KinfoldError as error:
        return Thumbnail("", reason=str(error))
    return _fit(image, max_bytes)


def _fit(image: Image, max_bytes: int) -> Thumbnail:
    """Encode an image in at most ``max_bytes``, as well as possible."""
    while True:
        for quality in _QUALITIES:
            kind, encoded = _compress(image, quality)
            if len(encoded) <= max_bytes or max(image.size) <= _SMALLEST_SIDE:
                text = base64.b64encode(encoded).decode("ascii")
                return Thumbnail(f"data:image/{kind};base64,{text}", image.width, image.height)
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))


def _compress(image: Image, quality: int) -> tuple[str, bytes]:
    kind = "webp" if features.check("webp") else "jpeg"
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format=kind, quality=quality)
    return kind, stream.getvalue()
