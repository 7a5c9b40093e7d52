"""Images of more than eight bits per value: what is white in them; TIFF and PNM files Pillow can't read.

A sensor of 12 bits fills a sixteenth of the range of a 16-bit file: scaled by 65,535 its images are black. A
file that names its bits is believed; otherwise the values tell, and :class:`Deep` says that it was a guess.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from kinfold.images._source import BYTE_LIMIT, SkipReason, UnusableImage

Array = NDArray[Any]

_WHITE = 65535
_BITS = (8, 10, 12, 14)  # of sensors; values above 14 bits are taken as 16
_FLAT = 1 / 8  # images that span less of their range show next to nothing in eight bits

_WIDTH, _HEIGHT, _SAMPLE_BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_N_SAMPLES, _STRIP_ROWS, _MOST_VALUE, _PLANAR, _PREDICTOR = 277, 278, 281, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _SAMPLE_FORMAT = 322, 323, 338, 339
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of offsets and lengths
_DEFLATE = (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}  # of TIFF's SampleFormat
_PLANES = {"u": "integers", "i": "signed integers", "f": "floats", "c": "complex numbers"}
_NO_COLOUR = {
    32803: "the raw values of a sensor (a colour filter array, as in DNG)",
    34892: "the raw values of a sensor (as in DNG)",
}
_NOT_READ = {3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab"}
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
        bits = _first(tags, _SAMPLE_BITS, 16)
        return (1 << bits) - 1 if 8 < bits < 16 else _first(tags, _MOST_VALUE, 0) or None
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
    _check_size(width, height, pixel_limit)
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


@dataclass(frozen=True)
class _Layout:
    """What a TIFF's first directory says of its pixels."""

    tags: Any
    width: int
    height: int
    n_bands: int
    kind: str  # as NumPy has it: u, i, f or c
    bits: int
    compression: int
    photometric: int
    is_planar: bool
    order: str

    def describe(self) -> str:
        if self.photometric in _NO_COLOUR:
            return f"a TIFF of {_NO_COLOUR[self.photometric]}"
        bands = "one band" if self.n_bands == 1 else f"{self.n_bands} bands"
        name = COMPRESSION_INFO.get(self.compression, f"method {self.compression}")
        packed = f", compressed by {name}" if self.compression != 1 else ""
        return f"a TIFF of {bands} of {self.bits}-bit {_PLANES[self.kind]}{packed}"


def read_deep_tiff(data: bytes, pixel_limit: int, *, colour_only: bool = False) -> Deep | None:
    """Return a TIFF of values that Pillow can't hold: halves, doubles, deep colour.

    Parameters
    ----------
    data : bytes
        The file.
    pixel_limit : int
        Larger images aren't decoded.
    colour_only : bool
        Return None for what Pillow reads whole, and for what this can't read but Pillow can, with 8 bits.

    Raises
    ------
    UnusableImage
        It is a sound TIFF of a kind that isn't read; the reason says which.
    """
    layout = _read_layout(data)
    if layout is None or (colour_only and (layout.n_bands < 3 or layout.bits < 16 or layout.kind != "u")):
        return None
    _check_size(layout.width, layout.height, pixel_limit)
    bands = _choose_bands(layout)
    known = layout.bits in (8, 16, 32, 64) and layout.kind != "c" and (layout.kind != "f" or layout.bits > 8)
    if not bands or not known or layout.compression not in (1, *_DEFLATE) or not _is_small(layout):
        if colour_only:
            return None
        raise UnusableImage(SkipReason.UNREADABLE, f"{layout.describe()} isn't read; {_advise(layout)}")
    try:
        values = _read_pixels(layout, data, bands)
    except (struct.error, ValueError, IndexError, zlib.error, TypeError) as error:
        if colour_only:
            return None
        raise UnusableImage(SkipReason.CORRUPT, f"{layout.describe()}: {error}"[:200]) from error
    if layout.kind == "u" and layout.bits <= 16:
        found = scale_integers(values.astype(np.int64), _first(layout.tags, _MOST_VALUE, 0) or None)
    else:
        found = scale_floats(values)
    return Deep(1 - found.share, found.note) if layout.photometric == 0 else found


def has_deep_values(data: bytes) -> bool:
    """Tell whether a TIFF has more than eight bits per value."""
    layout = _read_layout(data)
    return layout is not None and layout.bits > 8


def has_deep_planes(data: bytes) -> bool:
    """Tell whether a TIFF holds 16-bit colours one after the other, which Pillow takes for something else."""
    layout = _read_layout(data)
    return layout is not None and layout.is_planar and layout.bits == 16 and layout.n_bands > 2


def tiff_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a TIFF, also of a kind that isn't read; None where it is damaged."""
    layout = _read_layout(data)
    return None if layout is None else (layout.width, layout.height)


def _advise(layout: _Layout) -> str:
    if layout.photometric in _NO_COLOUR:
        return "develop it to JPEG or TIFF"
    if layout.n_bands > 4 or layout.n_bands == 2:
        return "which bands are red, green and blue isn't known: save these three as an RGB TIFF"
    return "save it as an RGB or grey TIFF or PNG of 8 or 16 bits"


def _choose_bands(layout: _Layout) -> tuple[int, ...]:
    """Return the bands to show: one, or three; none where it isn't known which."""
    if layout.photometric in _NO_COLOUR or layout.photometric in _NOT_READ:
        return ()
    has_alpha = bool(layout.tags.get(_EXTRA))
    if layout.n_bands == 1 or (layout.n_bands == 2 and has_alpha):
        return (0,)
    is_colour = layout.n_bands == 3 or (layout.n_bands == 4 and layout.photometric == 2)
    return (0, 1, 2) if is_colour else ()


def _is_small(layout: _Layout) -> bool:
    return layout.width * layout.height * layout.n_bands * layout.bits // 8 <= BYTE_LIMIT


def _read_layout(data: bytes) -> _Layout | None:
    try:
        head = data[:16] if data[2:4] in (b"+\x00", b"\x00+") else data[:8]
        tags = ImageFileDirectory_v2(head)
        stream = BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        layout = _Layout(
            tags,
            _first(tags, _WIDTH, 0),
            _first(tags, _HEIGHT, 0),
            _first(tags, _N_SAMPLES, 1),
            _KINDS[_first(tags, _SAMPLE_FORMAT, 1)],
            _first(tags, _SAMPLE_BITS, 1),
            _first(tags, _COMPRESSION, 1),
            _first(tags, _PHOTOMETRIC, 1),
            _first(tags, _PLANAR, 1) == 2,
            "<" if data[:2] == b"II" else ">",
        )
    except Exception:  # Pillow's parser raises anything on hostile bytes; then the file is damaged
        return None
    is_sound = min(layout.width, layout.height, layout.n_bands, layout.bits) > 0
    has_pixels = any(offsets in tags and lengths in tags for offsets, lengths in (_STRIPS, _TILES))
    return layout if is_sound and has_pixels else None


def _first(tags: Any, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _read_pixels(layout: _Layout, data: bytes, bands: tuple[int, ...]) -> Array:
    """Return the values of some bands, (height, width) or (height, width, 3)."""
    tags = layout.tags
    is_tiled = _TILES[0] in tags
    offsets, lengths = (_as_tuple(tags[tag]) for tag in (_TILES if is_tiled else _STRIPS))
    wide = _first(tags, _TILE_WIDTH, 0) if is_tiled else layout.width
    high = (
        _first(tags, _TILE_HEIGHT, 0)
        if is_tiled
        else min(layout.height, _first(tags, _STRIP_ROWS, layout.height))
    )
    if min(wide, high) < 1:
        raise ValueError("its strips have no rows")
    across, down = -(-layout.width // wide), -(-layout.height // high)
    depth = 1 if layout.is_planar else layout.n_bands
    kind = np.dtype(f"{layout.order}{layout.kind}{layout.bits // 8}")
    if across * down * (layout.n_bands if layout.is_planar else 1) > min(len(offsets), len(lengths)):
        raise ValueError("it lists too few strips")
    _check_size(wide, high, max(4 * layout.width * layout.height, 1 << 22))
    out = np.zeros((layout.height, layout.width, len(bands)), kind.newbyteorder("="))
    for place, band in enumerate(bands if layout.is_planar else (0,)):
        for number in range(across * down):
            y, x = number // across * high, number % across * wide
            rows = high if is_tiled else min(high, layout.height - y)
            at = number + band * across * down if layout.is_planar else number
            piece = _read_piece(
                layout, data[offsets[at] : offsets[at] + lengths[at]], rows, wide, depth, kind
            )
            inside = piece[: layout.height - y, : layout.width - x]
            to = out[y : y + rows, x : x + wide]
            if layout.is_planar:
                to[..., place] = inside[..., 0]
            else:
                to[...] = inside[..., list(bands)]
    return out[..., 0] if len(bands) == 1 else out


def _read_piece(
    layout: _Layout, packed: bytes, rows: int, wide: int, depth: int, kind: np.dtype[Any]
) -> Array:
    size = rows * wide * depth * kind.itemsize
    # Bounded: a few kilobytes can unpack to gigabytes.
    raw = packed if layout.compression == 1 else zlib.decompressobj().decompress(packed, size)
    if len(raw) < size:
        raise ValueError(f"{size - len(raw):,} bytes of a strip are missing")
    predictor = _first(layout.tags, _PREDICTOR, 1)
    if layout.compression == 1 or predictor == 1:
        return np.frombuffer(raw, kind, rows * wide * depth).reshape(rows, wide, depth)
    if predictor == 2 and kind.kind != "f":
        values = np.frombuffer(raw, kind, rows * wide * depth).reshape(rows, wide, depth)
        return np.cumsum(values, axis=1, dtype=kind.newbyteorder("="))
    if predictor == 3 and kind.kind == "f":
        # Bytes of equal significance stand together in each row, as differences of neighbours.
        planes = np.frombuffer(raw, np.uint8, size).reshape(rows, wide * kind.itemsize, depth)
        summed = np.cumsum(planes, axis=1, dtype=np.uint8).reshape(rows, kind.itemsize, wide * depth)
        return (
            np.ascontiguousarray(summed.transpose(0, 2, 1))
            .view(kind.newbyteorder(">"))
            .reshape(rows, wide, depth)
        )
    raise ValueError(f"predictor {predictor} isn't read")


def _as_tuple(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, tuple) else (int(value),)


def _check_size(width: int, height: int, pixel_limit: int) -> None:
    if width < 1 or height < 1:
        raise UnusableImage(SkipReason.CORRUPT, f"it is {width} × {height} pixels large")
    if width * height > pixel_limit:
        raise UnusableImage(
            SkipReason.TOO_LARGE, f"{width:,} × {height:,} pixels are more than {pixel_limit:,}"
        )
