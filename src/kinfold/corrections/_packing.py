"""Row numbers and labels as compact bytes: a hundred thousand random rows of a million take about 80 kB."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<BQ")  # bytes per difference, first row
_WIDTHS: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}
_LEVEL = 1


def pack_rows(rows: NDArray[np.int64]) -> bytes:
    """Return ascending row numbers, none twice and none negative, as bytes; b"" for none.

    One byte says how wide differences are (1, 2, 4 or 8 bytes), eight hold the first row; then come the
    differences between neighbours, little-endian, compressed by zlib.
    """
    if not len(rows):
        return b""
    steps = np.diff(rows)
    width = _width(int(steps.max(initial=0)))
    return _HEAD.pack(width, int(rows[0])) + zlib.compress(steps.astype(_WIDTHS[width]).tobytes(), _LEVEL)


def unpack_rows(data: bytes) -> NDArray[np.int64]:
    """Return what :func:`pack_rows` packed; ``ValueError`` for anything else."""
    if not data:
        return np.empty(0, np.int64)
    if len(data) < _HEAD.size:
        raise ValueError("rows are cut short")
    width, first = _HEAD.unpack_from(data)
    steps = _unpack(width, data[_HEAD.size :])
    rows = np.empty(len(steps) + 1, np.int64)
    rows[0], rows[1:] = first, steps
    return np.cumsum(rows, out=rows)


def pack_labels(labels: NDArray[np.integer]) -> bytes:
    """Return labels, none negative, as bytes: their width in one byte, then zlib's."""
    width = _width(int(labels.max(initial=0)))
    return bytes([width]) + zlib.compress(labels.astype(_WIDTHS[width]).tobytes(), _LEVEL)


def unpack_labels(data: bytes) -> NDArray[np.int32]:
    """Return what :func:`pack_labels` packed; ``ValueError`` for anything else."""
    if not data:
        raise ValueError("labels are cut short")
    return _unpack(data[0], data[1:]).astype(np.int32)


def _width(largest: int) -> int:
    return next(width for width, dtype in _WIDTHS.items() if largest <= np.iinfo(dtype).max)


def _unpack(width: int, data: bytes) -> NDArray[Any]:
    if width not in _WIDTHS:
        raise ValueError(f"a width of {width} bytes")
    try:
        values: NDArray[Any] = np.frombuffer(zlib.decompress(data), _WIDTHS[width])
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return values
