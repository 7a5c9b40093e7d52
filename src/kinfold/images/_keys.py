"""Keys: the name of an image inside its source as a string, reversible for names that aren't UTF-8."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.paths import normalize_name

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_LOOKS_ESCAPED = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_DIGITS = re.compile(r"[0-9]+")


def encode_key(raw: str | bytes) -> str:
    r"""Return the key of a file name or relative path.

    Text stays as it is. Bytes that aren't UTF-8 become ``%XX``, and a literal ``%`` becomes ``%25`` only
    where two hexadecimal digits follow it, so that :func:`decode_key` returns the same bytes.

    Parameters
    ----------
    raw : str or bytes
        The name as the file system has it; in a str, undecodable bytes are surrogates (``os.fsdecode``).

    Examples
    --------
    >>> encode_key(b"caf\xe9 100%.jpg"), encode_key("a%20b.jpg")
    ('caf%E9 100%.jpg', 'a%2520b.jpg')
    """
    text = (_to_bytes(raw) if isinstance(raw, str) else raw).decode("utf-8", "surrogateescape")
    if "%" in text:
        text = _LOOKS_ESCAPED.sub("%25", text)
    if text.isascii():
        return text
    return _UNDECODABLE.sub(lambda found: f"%{ord(found[0]) - 0xDC00:02X}", text)


def _to_bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which Windows allows
        return name.encode("utf-8", "surrogatepass")


def decode_key(key: str) -> bytes:
    """Return the bytes that :func:`encode_key` was given."""
    raw = key.encode("utf-8", "surrogatepass")
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), raw) if b"%" in raw else raw


def natural_key(key: str) -> str:
    """Return text whose plain order is the natural order of keys.

    Numbers count as numbers (``img2`` before ``img10``), capitals don't matter unless nothing else differs,
    and folders are compared one by one, so that what is in a folder stays together.

    Examples
    --------
    >>> sorted(["b/1", "a10", "a 1/x", "a9", "A9"], key=natural_key)
    ['a 1/x', 'A9', 'a9', 'a10', 'b/1']
    """
    # NUL sorts before every character of a name, so that a folder's content stays together.
    return "\x00".join([_natural_part(part) for part in key.split("/")])


def _natural_part(part: str) -> str:
    return f"{_DIGITS.sub(_rank_number, part.casefold())}\x01{part}"


def _rank_number(found: re.Match[str]) -> str:
    # The count of digits before the digits: longer numbers are larger, and plain order compares them so.
    digits = found[0].lstrip("0")
    return f"0{chr(len(digits))}{digits}"


class KeyList(Sequence[str]):
    """Many keys in little memory: one block of UTF-8 and one offset of eight bytes per key.

    Parameters
    ----------
    keys : iterable of str
        The keys in their final order.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        data, ends = bytearray(), array("q", [0])
        for key in keys:
            data += key.encode("utf-8", "surrogatepass")
            ends.append(len(data))
        self._data = bytes(data)
        self._ends: NDArray[np.int64] = np.frombuffer(ends, dtype=np.int64).copy()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(row) for row in range(*index.indices(len(self)))]
        row = int(index) + len(self) if index < 0 else int(index)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._text(row)

    def __iter__(self) -> Iterator[str]:
        return map(self._text, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KeyList):
            return self._data == other._data and np.array_equal(self._ends, other._ends)
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<KeyList of {len(self):,}>"

    def has_repeats(self) -> bool:
        """Tell whether two keys may be the same; False is certain."""
        # Eight bytes per key; a set of ten million keys would take more than a gigabyte.
        hashes = np.fromiter(map(hash, self), dtype=np.int64, count=len(self))
        hashes.sort()
        return bool((hashes[1:] == hashes[:-1]).any())

    def to_arrow(self) -> Any:
        """Return the keys as a ``pyarrow.LargeStringArray`` without copying the text."""
        import pyarrow as pa

        buffers = [None, pa.py_buffer(self._ends), pa.py_buffer(self._data)]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def _text(self, row: int) -> str:
        return self._data[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogatepass")


def encode_member(raw: str | bytes) -> str:
    """Return the key of a name inside an archive, tidied by :func:`~kinfold.paths.normalize_name`.

    A name of which nothing is left, such as ``..``, becomes ``unnamed``: its file is a row like others.
    """
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    return encode_key(normalize_name(text) or "unnamed")


def unique_keys(keys: Iterable[str]) -> KeyList:
    """Return ``keys``, the second of a name as ``name#2``, the third as ``name#3``."""
    packed = KeyList(keys)
    return KeyList(_number_repeats(packed)) if packed.has_repeats() else packed


def different_keys(keys: Iterable[str], origin: str) -> KeyList:
    """Return ``keys``; raise :class:`InputError` with both rows where one occurs again."""
    packed = KeyList(keys)
    if packed.has_repeats():
        seen: dict[str, int] = {}
        for row, key in enumerate(packed):
            first = seen.setdefault(key, row)
            if first != row:
                raise InputError(
                    f"rows {first} and {row} of {origin} have the same key {key!r}; keys must differ"
                )
    return packed


def _number_repeats(keys: Iterable[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for key in keys:
        name = key
        while name in seen:
            seen[key] += 1
            name = f"{key}#{seen[key]}"
        seen[name] = 1
        yield name
