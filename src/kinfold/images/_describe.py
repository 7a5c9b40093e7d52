"""What an image file says of itself: format, size, and the harmless part of its EXIF data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from kinfold.images._decode import open_header
from kinfold.images._formats import FORMATS, sniff
from kinfold.images._reasons import SkipReason, UnusableImage

_MOST_TEXT = 200
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


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
    kind = sniff(data)
    if kind is None:
        raise UnusableImage(SkipReason.NOT_AN_IMAGE, f"its content is none of {', '.join(FORMATS)}")
    image = open_header(kind, data)
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


_ORIENTATIONS = {
    2: "mirrored",
    3: "turned by 180°",
    4: "upside down, mirrored",
    5: "turned left, mirrored",
    6: "turned left",
    7: "turned right, mirrored",
    8: "turned right",
}
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
