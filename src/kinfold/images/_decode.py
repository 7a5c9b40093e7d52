"""Decode an image file to upright RGB, or say why it can't be; read its header and EXIF data."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from kinfold.images._deep import Deep, pnm_size, read_deep_png, read_deep_pnm, scale_image
from kinfold.images._formats import (
    FORMATS,
    describe_other,
    is_cut_signature,
    missing_bytes,
    sniff,
    webp_size,
)
from kinfold.images._source import SkipReason, UnusableImage
from kinfold.images._tiff import has_deep_planes, has_deep_values, read_deep_tiff, tiff_size

_ORIENTATION = 0x0112  # EXIF tag; the turns undo what its values 2 to 8 say
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PIXEL_LIMIT = 178_956_970
"""Images of more pixels are not decoded unless asked for: the limit at which Pillow suspects a bomb."""

# Called by format rather than through Image.open, which tries all of Pillow's plugins on hostile bytes.
_OPENERS: dict[str, Callable[..., ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

_MOST_TEXT = 200  # characters of an EXIF text: the field may hold any number of them
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height

_ORIENTATIONS = {
    2: "mirrored",
    3: "turned by 180°",
    4: "upside down, mirrored",
    5: "turned left, mirrored",
    6: "turned left",
    7: "turned right, mirrored",
    8: "turned right",
}


def turn_upright(image: Image.Image) -> Image.Image:
    """Return the image as its EXIF orientation wants it shown; damaged EXIF data counts as none."""
    return _turn(image, image)


def _turn(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Return the pixels as the orientation of the image that they are from wants them shown."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF parsing raises anything from struct.error to TypeError
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image of at most eight bits per value in mode RGB, what is transparent on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # it is None only when converting in place
    return converted


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied alpha, which Pillow converts to LA alone
        image = image.convert("LA")
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def decode_image(data: bytes, *, min_side: int | None = None, pixel_limit: int = PIXEL_LIMIT) -> Image.Image:
    """Decode the first frame of an image file.

    Parameters
    ----------
    data : bytes
        The whole file: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, JPEG 2000, PPM, PGM, PBM or PFM.
    min_side : int, optional
        A JPEG whose shorter side is at least twice as long is decoded at 1/2, 1/4 or 1/8 of its size, never
        below this, which is several times faster. None decodes at full size.
    pixel_limit : int
        Images whose header says that they have more pixels are not decoded. Above the default Pillow has
        a limit of its own for WebP and TIFF, ``2 * PIL.Image.MAX_IMAGE_PIXELS``, which stays as it is.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, turned as EXIF wants it, transparent parts on white. Colour profiles are not applied. Values
        of more than eight bits are scaled by the white that the file names, else by the one that its values
        suggest (:func:`describe_range` tells); floats from least to greatest, or as shares of white.

    Raises
    ------
    UnusableImage
        With the reason; nothing else is raised, whatever the bytes.
    """
    return _decode_noted(data, min_side, pixel_limit)[0]


def describe_range(data: bytes) -> str:
    """Return how the range of an image's values was guessed, if it was; else an empty string.

    Only images of more than eight bits per value, by their header, are decoded.

    Raises
    ------
    UnusableImage
        It can't be decoded.
    """
    if not _may_be_deep(data):
        return ""
    return _decode_noted(data, None, PIXEL_LIMIT)[1]


def _may_be_deep(data: bytes) -> bool:
    kind = sniff(data)
    if kind == "PNG":
        return data[24:25] == b"\x10"
    return kind == "PPM" or (kind == "TIFF" and has_deep_values(data))


def _decode_noted(data: bytes, min_side: int | None, pixel_limit: int) -> tuple[Image.Image, str]:
    if not data:
        raise UnusableImage(SkipReason.EMPTY)
    kind = sniff(data)
    if kind is None:
        if is_cut_signature(data):
            raise UnusableImage(SkipReason.TRUNCATED, f"only {len(data)} bytes are there")
        raise _no_image(data)
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


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an image as it is stored, without regard to an orientation tag.

    Raises
    ------
    UnusableImage
        It is no image, or its header is damaged.
    """
    kind = _kind_of(data)
    if kind == "PPM" and (size := pnm_size(data)) is not None:
        return size
    try:
        width, height = open_header(kind, data).size
    except UnusableImage:
        if kind != "TIFF" or (size := tiff_size(data)) is None:
            raise
        return size
    return int(width), int(height)


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


def _kind_of(data: bytes) -> str:
    """Return the kind of an image; :class:`UnusableImage` for what is none."""
    kind = sniff(data)
    if kind is None:
        raise _no_image(data)
    return kind


def _no_image(data: bytes) -> UnusableImage:
    what = describe_other(data)
    detail = f"it is {what}" if what else f"its content is none of {', '.join(FORMATS)}"
    return UnusableImage(SkipReason.NOT_AN_IMAGE, detail)


def _decode(kind: str, data: bytes, min_side: int | None, pixel_limit: int) -> tuple[Image.Image, str]:
    # WebP takes memory for all pixels as soon as it is opened, so that its size must be checked before.
    if kind == "WEBP" and (size := webp_size(data)) is not None:
        _check_pixels(size, pixel_limit)
    if kind == "PPM" and (deep := read_deep_pnm(data, pixel_limit)) is not None:
        return deep.to_image(), deep.note
    try:
        image = _opener(kind)(BytesIO(data), "")
    except Exception:
        if kind != "TIFF" or missing_bytes(kind, data) is not None:
            raise
        # Sound files of a kind that Pillow has no mode for; None where the file is damaged.
        if (deep := read_deep_tiff(data, pixel_limit)) is None:
            raise
        return deep.to_image(), deep.note
    _check_pixels(image.size, pixel_limit)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, data, pixel_limit)
    if min_side is not None and kind == "JPEG":
        image.draft(None, (min_side, min_side))
    image.load()  # opening reads the header alone; errors of the data come here
    found = _scale_deep(kind, image, data, pixel_limit)
    upright = turn_upright(image) if found is None else _turn(found.to_image(), image)
    upright = to_rgb(upright)
    upright.info = {}  # the file's EXIF data and colour profile don't fit the pixels any more
    return upright, "" if found is None else found.note


def _scale_deep(kind: str, image: ImageFile.ImageFile, data: bytes, pixel_limit: int) -> Deep | None:
    """Return what has more than eight bits per value, scaled; None for images of eight bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return scale_image(image, data)
    if kind == "PNG":
        return read_deep_png(image, data)
    # Of deep colour Pillow keeps the high bytes, which are black where few bits are used.
    if kind == "TIFF" and image.mode == "RGB":
        is_dark = np.asarray(image).max(initial=0) < 1 << 6
        if is_dark or has_deep_planes(data):
            return read_deep_tiff(data, pixel_limit, color_only=True)
    return None


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
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        raise UnusableImage(SkipReason.UNREADABLE, "this Pillow was built without JPEG 2000; convert it")
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
        detail = "HEIC images need pillow-heif: pip install pillow-heif"
        raise UnusableImage(SkipReason.UNREADABLE, detail) from None
    opener: Callable[..., ImageFile.ImageFile] = HeifImageFile
    return opener


def _truncated(missing: int) -> UnusableImage:
    # 1 and 2 mean that only the end mark is known to be missing, not how much lies before it.
    what = "its end is missing" if missing <= 2 else f"at least {missing:,} bytes are missing"
    return UnusableImage(SkipReason.TRUNCATED, what)


def _explain(kind: str, data: bytes, error: Exception) -> UnusableImage:
    if isinstance(error, Image.DecompressionBombError):
        return UnusableImage(SkipReason.TOO_LARGE, str(error))
    missing = missing_bytes(kind, data)
    if missing is not None:
        return _truncated(missing)
    text = " ".join(str(error).split()) or type(error).__name__
    if "truncated" in text.lower() or "reached eof" in text.lower():
        return UnusableImage(SkipReason.TRUNCATED, "its data end early")
    return UnusableImage(SkipReason.CORRUPT, text[:200])


class _Quiet:  # warnings.catch_warnings isn't safe in threads, so that the first enters and the last leaves
    """How many decodings run in this process, and the warning filters from before the first."""

    lock = threading.Lock()
    depth = 0
    saved: Any = None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Suppress Pillow's warnings while an image is decoded; safe in threads."""
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


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image file without decoding it.

    Attributes
    ----------
    format : str
        ``"JPEG"``, ``"PNG"``, …, by its content.
    width, height : int
        In pixels, as it is shown (turned as EXIF wants it).
    metadata : mapping of str to str
        Camera, lens, date, exposure and so on by readable names; never a position.
    """

    format: str
    width: int
    height: int
    metadata: Mapping[str, str]


def describe_image(data: bytes) -> ImageFacts:
    """Read the header of an image file.

    Raises
    ------
    UnusableImage
        It is no image, or its header is damaged.
    """
    kind = _kind_of(data)
    try:
        image = open_header(kind, data)
    except UnusableImage:
        return ImageFacts(kind, *read_size(data), {})
    width, height = image.size
    tags = _read_exif(image)
    if tags.get(ExifTags.Base.Orientation) in _SIDEWAYS:
        width, height = height, width
    return ImageFacts(kind, width, height, _to_words(tags))


def _read_exif(image: Image.Image) -> dict[int, Any]:
    """Return the EXIF tags, those of the camera's own directory included; none where they can't be read."""
    try:
        exif = image.getexif()
        return {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    except Exception:  # parsers raise anything on hostile bytes, and an image is shown without them too
        return {}


def _to_words(tags: Mapping[int, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, tag, show in _SHOWN:
        if tag in tags:
            try:
                text = show(tags[tag])
            except (TypeError, ValueError, ZeroDivisionError, OverflowError):
                continue
            if text:
                found[name] = text[:_MOST_TEXT]
    return found


def _show_text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _show_number(value: Any) -> str:
    return f"{float(value):.4g}"


def _show_seconds(value: Any) -> str:
    seconds = float(value)
    return f"1/{round(1 / seconds)} s" if 0 < seconds < 0.5 else f"{seconds:.3g} s"


def _show_orientation(value: Any) -> str:
    return _ORIENTATIONS.get(int(value), "")


_SHOWN: tuple[tuple[str, int, Callable[[Any], str]], ...] = (
    ("camera maker", ExifTags.Base.Make, _show_text),
    ("camera", ExifTags.Base.Model, _show_text),
    ("lens", ExifTags.Base.LensModel, _show_text),
    ("taken", ExifTags.Base.DateTimeOriginal, _show_text),
    ("changed", ExifTags.Base.DateTime, _show_text),
    ("orientation", ExifTags.Base.Orientation, _show_orientation),
    ("exposure", ExifTags.Base.ExposureTime, _show_seconds),
    ("aperture", ExifTags.Base.FNumber, lambda value: f"f/{float(value):.3g}"),
    ("sensitivity", ExifTags.Base.ISOSpeedRatings, lambda value: f"ISO {int(value)}"),
    ("focal length", ExifTags.Base.FocalLength, lambda value: f"{_show_number(value)} mm"),
    ("software", ExifTags.Base.Software, _show_text),
    ("description", ExifTags.Base.ImageDescription, _show_text),
)
