"""Images of more than eight bits per value: what is white in them; PNM files Pillow can't read.

A sensor of 12 bits fills a sixteenth of the range of a 16-bit file: scaled by 65,535 its images are black. A
file that names its bits is believed; otherwise the values tell, and :class:`Deep` says that it was a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from kinfold.images._source import SkipReason, UnusableImage

Array = NDArray[Any]

_WHITE = 65535
_BITS = (8, 10, 12, 14)  # of sensors; values above 14 bits are taken as 16
_FLAT = 1 / 8  # images that span less of their range show next to nothing in eight bits

_SAMPLE_BITS, _MOST_VALUE = 258, 281  # tags of TIFF
_PNM = re.compile(
    rb"(P[2356F])(?:\s+|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s+|#[^\r\n]*[\r\n])+(\d{1,9})"
    rb"(?:\s+|#[^\r\n]*[\r\n])+(-?[\d.eE+-]{1,20})\s"
)


@dataclass(frozen=True)
class Deep:
    """Values scaled to shares of white.

    Attributes
    ----------
    share : ndarray (height, width) or (height, width, 3), float32
        From 0 to 1.
    note : str
        How the range was guessed; empty where the file says it.
    """

    share: NDArray[np.float32]
    note: str = ""

    def to_image(self) -> Image.Image:
        """Return it as an RGB image."""
        return Image.fromarray((self.share * 255 + 0.5).astype(np.uint8)).convert("RGB")


def scale_integers(values: Array, white: int | None = None) -> Deep:
    """Scale 16-bit values: by the white that the file names, else by that of the sensor they seem to be from.

    Parameters
    ----------
    values : ndarray of int
        Values of at least 0.
    white : int, optional
        The largest value that there could be, as the file has it. 65,535, which programs write without
        looking, counts as none.
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if white is not None and high <= white < _WHITE:
        return Deep(_share(values, 0, white))
    bits = next((bits for bits in _BITS if high < 1 << bits), 16)
    top = (1 << bits) - 1
    if 0 < high - low < _FLAT * top:
        return Deep(
            _share(values, low, high), f"its values, {low} to {high}, are stretched to black and white"
        )
    note = f"its 16-bit values reach {high} and are read as {bits}-bit" if bits < 16 and high > 0 else ""
    return Deep(_share(values, 0, top), note)


def scale_floats(values: Array) -> Deep:
    """Scale floats and wide integers from least to greatest; floats within 0–1 are shares of white.

    Values that aren't finite are black (NaN, −∞) or white (∞). Floats within 0–1 that span little of it are
    stretched like others.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return Deep(np.zeros(values.shape, dtype=np.float32))
    low, high = float(values[finite].min()), float(values[finite].max())
    note = ""
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        if 0 < high - low < _FLAT:
            note = f"its values, {low:.4g} to {high:.4g}, are stretched to black and white"
        else:
            low, high = 0.0, 1.0
    return Deep(_share(values, low, high), note)


def _share(values: Array, low: float, high: float) -> NDArray[np.float32]:
    # In float64, whose range the difference of two doubles may leave all the same.
    with np.errstate(over="ignore", invalid="ignore"):
        share = (values.astype(np.float64) - low) / ((high - low) or 1.0)
    return np.clip(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0), 0, 1).astype(np.float32)


def scale_image(image: ImageFile.ImageFile, data: bytes) -> Deep:
    """Scale a loaded image of a mode with more than eight bits per value: I;16, I, F."""
    values = np.asarray(image)
    white = find_white(image, data)
    if image.mode == "I" and image.format == "PPM" and white is not None:
        return Deep(_share(values, 0, _WHITE))  # Pillow has scaled it by the white that the file names
    # PNM and, of older Pillows, PNG hand over 16-bit grey as mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return scale_integers(values.astype(np.int64), white)
    return scale_floats(values)


def find_white(image: ImageFile.ImageFile, data: bytes) -> int | None:
    """Return the largest value that there could be, where the file says so."""
    if image.format == "PNG":
        # sBIT stands before the pixels. Its bits should be the highest ones of each value, but many programs
        # leave values as the sensor gives them; the values themselves tell which it is.
        at = data.find(b"sBIT", 8, 8192)
        bits = data[at + 4] if 0 <= at < len(data) - 4 else 0
        return (1 << bits) - 1 if 8 <= bits < 16 else None
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits = first_of(tags, _SAMPLE_BITS, 16)
        return (1 << bits) - 1 if 8 < bits < 16 else first_of(tags, _MOST_VALUE, 0) or None
    if image.format == "PPM" and (found := _PNM.match(data)) is not None and found[4].isdigit():
        return int(found[4]) if int(found[4]) < _WHITE else None
    return None


def read_deep_png(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return a dark 16-bit colour PNG by its full values: Pillow keeps the high byte alone, which is black.

    Parameters
    ----------
    image : PIL image
        Loaded.
    data : bytes
        The file.
    """
    if image.mode not in ("RGB", "RGBA") or data[24:26] not in (b"\x10\x02", b"\x10\x06"):
        return None
    high = np.asarray(image)[..., :3]
    if high.max(initial=0) >= 1 << 6:  # above 14 bits: taken as it is
        return None
    again = PngImagePlugin.PngImageFile(BytesIO(data))
    # The low byte of big-endian values is where the high byte of little-endian ones would be.
    again.tile = [type(tile)(*tile[:3], f"{image.mode};16L") for tile in again.tile]
    low = np.asarray(again)[..., :3]
    found = scale_integers(high.astype(np.int64) * 256 + low, find_white(again, data))
    if image.mode == "RGBA":
        alpha = np.asarray(image)[..., 3:].astype(np.float32) / 255
        found = Deep((found.share * alpha + (1 - alpha)).astype(np.float32), found.note)
    return found


def read_deep_pnm(data: bytes, pixel_limit: int) -> Deep | None:
    """Return a colour PNM of 16 bits or of floats; None for others, which Pillow reads."""
    found = _PNM.match(data)
    if found is None or found[1] not in (b"P6", b"PF"):
        return None
    width, height = int(found[2]), int(found[3])
    check_size(width, height, pixel_limit)
    n_values, start = width * height * 3, found.end()
    if found[1] == b"PF":
        kind: np.dtype[Any] = np.dtype("<f4" if found[4].startswith(b"-") else ">f4")
    elif found[4].isdigit() and 255 < int(found[4]) <= _WHITE:
        kind = np.dtype(">u2")
    else:
        return None
    missing = n_values * kind.itemsize - (len(data) - start)
    if missing > 0:
        raise UnusableImage(SkipReason.TRUNCATED, f"at least {missing:,} bytes are missing")
    values = np.frombuffer(data, kind, n_values, start).reshape(height, width, 3)
    if kind.kind == "f":
        return scale_floats(values[::-1])  # rows stand from bottom to top
    return scale_integers(values.astype(np.int64), int(found[4]))


def pnm_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a grey or colour PNM, None for others."""
    found = _PNM.match(data)
    return None if found is None else (int(found[2]), int(found[3]))


def check_size(width: int, height: int, pixel_limit: int) -> None:
    """Raise :class:`UnusableImage` for images without pixels, or with more than the limit."""
    if width < 1 or height < 1:
        raise UnusableImage(SkipReason.CORRUPT, f"it is {width} × {height} pixels large")
    if width * height > pixel_limit:
        raise UnusableImage(
            SkipReason.TOO_LARGE, f"{width:,} × {height:,} pixels are more than {pixel_limit:,}"
        )


def first_of(tags: Any, tag: int, default: int) -> int:
    """Return the first value of a TIFF's tag."""
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
