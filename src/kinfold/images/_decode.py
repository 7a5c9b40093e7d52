"""Bytes to an upright RGB image, or the reason why not."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from kinfold.images._formats import FORMATS, is_cut_signature, missing_bytes, sniff, webp_size
from kinfold.images._modes import to_rgb, turn_upright
from kinfold.images._reasons import SkipReason, UnusableImage

PIXEL_LIMIT = 178_956_970
"""Images of more pixels are not decoded unless asked for: the limit at which Pillow suspects a bomb."""

_OPENERS: dict[str, Callable[..., ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}


def decode_image(data: bytes, *, min_side: int | None = None, pixel_limit: int = PIXEL_LIMIT) -> Image.Image:
    """Decode the first frame of an image file.

    Parameters
    ----------
    data : bytes
        The whole file: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, or HEIC (extra ``heif``).
    min_side : int, optional
        A JPEG whose shorter side is at least twice as long is decoded at 1/2, 1/4 or 1/8 of its size, never
        below this, which is several times faster. None decodes at full size.
    pixel_limit : int
        Images whose header says that they have more pixels are not decoded. Above the default Pillow has
        a limit of its own for WebP and TIFF, ``2 * PIL.Image.MAX_IMAGE_PIXELS``, which stays as it is.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, turned as EXIF wants it, transparent parts on white. Colour profiles are not applied.

    Raises
    ------
    UnusableImage
        With the reason; nothing else is raised, whatever the bytes.
    """
    if not data:
        raise UnusableImage(SkipReason.EMPTY)
    kind = sniff(data)
    if kind is None:
        if is_cut_signature(data):
            raise UnusableImage(SkipReason.TRUNCATED, f"only {len(data)} bytes are there")
        raise UnusableImage(SkipReason.NOT_AN_IMAGE, f"its content is none of {', '.join(FORMATS)}")
    try:
        with _quiet_pillow():
            return _decode(kind, data, min_side, pixel_limit)
    except UnusableImage:
        raise
    except MemoryError:
        raise UnusableImage(SkipReason.UNREADABLE, "there isn't enough memory to decode it") from None
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _explain(kind, data, error) from error


def open_header(kind: str, data: bytes) -> ImageFile.ImageFile:
    """Open a file of format ``kind`` with Pillow, reading its header alone; raises :class:`UnusableImage`."""
    try:
        with _quiet_pillow():
            return _opener(kind)(BytesIO(data), "")
    except UnusableImage:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes
        raise _explain(kind, data, error) from error


def make_thumbnail(data: bytes, side: int) -> Image.Image:
    """Decode an image and shrink it to fit into a square; smaller images stay as they are.

    Parameters
    ----------
    data : bytes
        The whole file, as for :func:`decode_image`.
    side : int
        The square's side in pixels.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, aspect ratio kept.

    Raises
    ------
    UnusableImage
        With the reason.
    """
    image = decode_image(data, min_side=side)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _decode(kind: str, data: bytes, min_side: int | None, pixel_limit: int) -> Image.Image:
    if kind == "WEBP" and (size := webp_size(data)) is not None:
        _check_pixels(size, pixel_limit)
    image = _opener(kind)(BytesIO(data), "")
    _check_pixels(image.size, pixel_limit)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, data, pixel_limit)
    if min_side is not None and kind == "JPEG":
        image.draft(None, (min_side, min_side))
    image.load()
    upright = to_rgb(turn_upright(image))
    upright.info = {}  # the file's EXIF data and colour profile don't fit the pixels any more
    return upright


def _check_tiff(image: TiffImagePlugin.TiffImageFile, data: bytes, pixel_limit: int) -> None:
    """Find what libtiff accepts: tiles far larger than the image, compressed strips that are cut short."""
    if 322 in image.tag_v2 and 323 in image.tag_v2:
        _check_pixels((int(image.tag_v2[322]), int(image.tag_v2[323])), pixel_limit)
    if image.tag_v2.get(259, 1) != 1 and (missing := missing_bytes("TIFF", data)) is not None:
        raise _truncated(missing)


def _check_pixels(size: tuple[int, int], pixel_limit: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UnusableImage(SkipReason.CORRUPT, f"it is {width} × {height} pixels large")
    if width * height > pixel_limit:
        raise UnusableImage(
            SkipReason.TOO_LARGE, f"{width:,} × {height:,} pixels are more than {pixel_limit:,}"
        )


def _opener(kind: str) -> Callable[..., ImageFile.ImageFile]:
    if kind == "AVIF":
        return _avif_opener()
    if kind == "HEIF":
        return _heif_opener()
    return _OPENERS[kind]


def _avif_opener() -> Callable[..., ImageFile.ImageFile]:
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        supported = False
    else:
        supported = AvifImagePlugin.SUPPORTED
    if not supported:
        raise UnusableImage(
            SkipReason.UNREADABLE, "AVIF images need Pillow 11.3 or newer: pip install -U pillow"
        )
    return AvifImagePlugin.AvifImageFile


def _heif_opener() -> Callable[..., ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        detail = "HEIC images need pillow-heif: pip install 'kinfold[heif]'"
        raise UnusableImage(SkipReason.UNREADABLE, detail) from None
    opener: Callable[..., ImageFile.ImageFile] = HeifImageFile
    return opener


def _truncated(missing: int) -> UnusableImage:
    what = "its end is missing" if missing <= 2 else f"at least {missing:,} bytes are missing"
    return UnusableImage(SkipReason.TRUNCATED, what)


def _explain(kind: str, data: bytes, error: Exception) -> UnusableImage:
    if isinstance(error, Image.DecompressionBombError):
        return UnusableImage(SkipReason.TOO_LARGE, str(error))
    missing = missing_bytes(kind, data)
    if missing is not None:
        return _truncated(missing)
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower():
        return UnusableImage(SkipReason.TRUNCATED, "its data end early")
    return UnusableImage(SkipReason.CORRUPT, text[:200])


class _Quiet:
    """How many decodings run in this process, and the warning filters from before the first."""

    lock = threading.Lock()
    depth = 0
    saved: Any = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings to ourselves: safe in threads, and gone when the last decoding ends."""
    with _Quiet.lock:
        _Quiet.depth += 1
        if _Quiet.depth == 1:
            _Quiet.saved = warnings.catch_warnings()
            _Quiet.saved.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pillow_heif)(\.|$)")
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if _Quiet.depth == 0:
                _Quiet.saved.__exit__(None, None, None)
