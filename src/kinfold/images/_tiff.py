"""TIFFs that Pillow has no mode for: halves, doubles, deep colour; of others, what they are."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from kinfold.images._deep import Array, Deep, check_size, first_of, scale_floats, scale_integers
from kinfold.images._source import BYTE_LIMIT, SkipReason, UnusableImage

_WIDTH, _HEIGHT, _SAMPLE_BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_N_SAMPLES, _STRIP_ROWS, _MOST_VALUE, _PLANAR, _PREDICTOR = 277, 278, 281, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _SAMPLE_FORMAT = 322, 323, 338, 339
_STRIPS, _TILES = (273, 279), (324, 325)  # tags of offsets and lengths
_DEFLATE = (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}  # of TIFF's SampleFormat
_PLANES = {"u": "integers", "i": "signed integers", "f": "floats", "c": "complex numbers"}
_NO_COLOR = {
    32803: "the raw values of a sensor (a colour filter array, as in DNG)",
    34892: "the raw values of a sensor (as in DNG)",
}
_NOT_READ = {3: "a palette", 5: "CMYK", 6: "YCbCr", 8: "CIE Lab", 9: "ICC Lab", 10: "ITU Lab"}


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
        if self.photometric in _NO_COLOR:
            return f"a TIFF of {_NO_COLOR[self.photometric]}"
        bands = "one band" if self.n_bands == 1 else f"{self.n_bands} bands"
        name = COMPRESSION_INFO.get(self.compression, f"method {self.compression}")
        packed = f", compressed by {name}" if self.compression != 1 else ""
        return f"a TIFF of {bands} of {self.bits}-bit {_PLANES[self.kind]}{packed}"


def read_deep_tiff(data: bytes, pixel_limit: int, *, color_only: bool = False) -> Deep | None:
    """Return a TIFF of values that Pillow can't hold: halves, doubles, deep colour.

    Parameters
    ----------
    data : bytes
        The file.
    pixel_limit : int
        Larger images aren't decoded.
    color_only : bool
        Return None for what Pillow reads whole, and for what this can't read but Pillow can, with 8 bits.

    Raises
    ------
    UnusableImage
        It is a sound TIFF of a kind that isn't read; the reason says which.
    """
    layout = _read_layout(data)
    if layout is None or (color_only and (layout.n_bands < 3 or layout.bits < 16 or layout.kind != "u")):
        return None
    check_size(layout.width, layout.height, pixel_limit)
    bands = _choose_bands(layout)
    known = layout.bits in (8, 16, 32, 64) and layout.kind != "c" and (layout.kind != "f" or layout.bits > 8)
    if not bands or not known or layout.compression not in (1, *_DEFLATE) or not _is_small(layout):
        if color_only:
            return None
        raise UnusableImage(SkipReason.UNREADABLE, f"{layout.describe()} isn't read; {_advise(layout)}")
    try:
        values = _read_pixels(layout, data, bands)
    except (struct.error, ValueError, IndexError, zlib.error, TypeError) as error:
        if color_only:
            return None
        raise UnusableImage(SkipReason.CORRUPT, f"{layout.describe()}: {error}"[:200]) from error
    if layout.kind == "u" and layout.bits <= 16:
        found = scale_integers(values.astype(np.int64), first_of(layout.tags, _MOST_VALUE, 0) or None)
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
    if layout.photometric in _NO_COLOR:
        return "develop it to JPEG or TIFF"
    if layout.n_bands > 4 or layout.n_bands == 2:
        return "which bands are red, green and blue isn't known: save these three as an RGB TIFF"
    return "save it as an RGB or grey TIFF or PNG of 8 or 16 bits"


def _choose_bands(layout: _Layout) -> tuple[int, ...]:
    """Return the bands to show: one, or three; none where it isn't known which."""
    if layout.photometric in _NO_COLOR or layout.photometric in _NOT_READ:
        return ()
    has_alpha = bool(layout.tags.get(_EXTRA))
    if layout.n_bands == 1 or (layout.n_bands == 2 and has_alpha):
        return (0,)
    is_color = layout.n_bands == 3 or (layout.n_bands == 4 and layout.photometric == 2)
    return (0, 1, 2) if is_color else ()


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
            first_of(tags, _WIDTH, 0),
            first_of(tags, _HEIGHT, 0),
            first_of(tags, _N_SAMPLES, 1),
            _KINDS[first_of(tags, _SAMPLE_FORMAT, 1)],
            first_of(tags, _SAMPLE_BITS, 1),
            first_of(tags, _COMPRESSION, 1),
            first_of(tags, _PHOTOMETRIC, 1),
            first_of(tags, _PLANAR, 1) == 2,
            "<" if data[:2] == b"II" else ">",
        )
    except Exception:  # Pillow's parser raises anything on hostile bytes; then the file is damaged
        return None
    is_sound = min(layout.width, layout.height, layout.n_bands, layout.bits) > 0
    has_pixels = any(offsets in tags and lengths in tags for offsets, lengths in (_STRIPS, _TILES))
    return layout if is_sound and has_pixels else None


def _read_pixels(layout: _Layout, data: bytes, bands: tuple[int, ...]) -> Array:
    """Return the values of some bands, (height, width) or (height, width, 3)."""
    tags = layout.tags
    is_tiled = _TILES[0] in tags
    offsets, lengths = (_as_tuple(tags[tag]) for tag in (_TILES if is_tiled else _STRIPS))
    wide = first_of(tags, _TILE_WIDTH, 0) if is_tiled else layout.width
    high = (
        first_of(tags, _TILE_HEIGHT, 0)
        if is_tiled
        else min(layout.height, first_of(tags, _STRIP_ROWS, layout.height))
    )
    if min(wide, high) < 1:
        raise ValueError("its strips have no rows")
    across, down = -(-layout.width // wide), -(-layout.height // high)
    depth = 1 if layout.is_planar else layout.n_bands
    kind = np.dtype(f"{layout.order}{layout.kind}{layout.bits // 8}")
    if across * down * (layout.n_bands if layout.is_planar else 1) > min(len(offsets), len(lengths)):
        raise ValueError("it lists too few strips")
    check_size(wide, high, max(4 * layout.width * layout.height, 1 << 22))
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
    predictor = first_of(layout.tags, _PREDICTOR, 1)
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
