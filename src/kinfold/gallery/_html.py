"""Self-contained HTML: templates with styles and scripts inside, and images as data URIs."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup
from PIL import features

from kinfold.compute import cpu_count
from kinfold.errors import KinfoldError
from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    from kinfold.images import ImageSource

_QUALITIES = (82, 65, 45, 25)  # of WebP or JPEG, tried in this order; then the image is made smaller
_BLOCK = 128  # encoded originals in memory at a time
_SMALLEST_SIDE = 16  # pixels; never smaller, even if the limit of bytes can't be kept


def render_template(name: str, *, styles: tuple[str, ...], script: str = "", **content: Any) -> str:
    """Return the HTML of a template, with styles and scripts inside, which its policy names by hash.

    Parameters
    ----------
    name : str
        File name of the template; it gets ``style``, ``script`` and their hashes besides ``content``.
    styles : tuple of str
        File names of our own style sheets, in order.
    script : str
        File name of our own script; empty for a page without one.
    **content
        Values for the template, which escapes them.
    """
    style = "".join(_static(sheet) for sheet in styles)
    code = _static(script) if script else ""
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(style),  # our own files, never data of a user: the only strings that aren't escaped
            script=Markup(code),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(code),
            **content,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("kinfold.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _static(name: str) -> str:
    return resources.files("kinfold.gallery").joinpath("static").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@dataclass(frozen=True)
class EmbeddedImage:
    """A thumbnail as part of a page.

    Attributes
    ----------
    uri : str
        ``data:image/webp;base64,…``; empty where the image couldn't be read.
    width, height : int
        Size of the encoded image in pixels.
    reason : str
        Why there is no image; empty where there is one.
    """

    uri: str
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def is_oblong(self) -> bool:
        """Tell whether cropping to a square would hide more than a third of it."""
        return max(self.width, self.height) > 1.6 * min(self.width, self.height)


def embed_images(
    source: ImageSource,
    rows: Sequence[int],
    side: int,
    max_bytes: int,
    *,
    progress: Progress = SILENT,
) -> dict[int, EmbeddedImage]:
    """Read the images of some rows and encode them as thumbnails.

    Files are read one after another (an archive is one stream) while threads decode on all cores: Pillow
    releases the interpreter lock. At most 128 encoded originals are in memory at a time.

    Parameters
    ----------
    source : ImageSource
        Source of the images.
    rows : sequence of int
        Rows of the source; every row is read once, in ascending order.
    side : int
        Longest side of a thumbnail in pixels.
    max_bytes : int
        Largest size of an encoded thumbnail; quality, then the side, is reduced until it fits.
    progress : Progress
        Shows how many are made.

    Returns
    -------
    dict
        Thumbnail by row. For an image that can't be read any more, it holds the reason.
    """
    wanted = sorted(set(rows))
    encode = partial(_encode, side=side, max_bytes=max_bytes)
    thumbnails: dict[int, EmbeddedImage] = {}
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
    """Yield the encoded image of every row, or the reason why it can't be read."""
    for row in rows:
        try:
            yield source.read(row)
        except KinfoldError as error:
            yield str(error)


def _encode(data: bytes | str, side: int, max_bytes: int) -> EmbeddedImage:
    from kinfold.images import make_thumbnail

    if isinstance(data, str):
        return EmbeddedImage("", reason=data)
    try:
        image = make_thumbnail(data, side)
    except KinfoldError as error:
        return EmbeddedImage("", reason=str(error))
    return _fit(image, max_bytes)


def _fit(image: Image, max_bytes: int) -> EmbeddedImage:
    """Encode an image in at most ``max_bytes``, at the best quality that fits."""
    while True:
        for quality in _QUALITIES:
            kind, encoded = _compress(image, quality)
            if len(encoded) <= max_bytes or max(image.size) <= _SMALLEST_SIDE:
                text = base64.b64encode(encoded).decode("ascii")
                return EmbeddedImage(f"data:image/{kind};base64,{text}", image.width, image.height)
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))


def _compress(image: Image, quality: int) -> tuple[str, bytes]:
    kind = "webp" if features.check("webp") else "jpeg"
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format=kind, quality=quality)
    return kind, stream.getvalue()
