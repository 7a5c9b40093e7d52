"""Zip archives: listed once, then read by offset, so that worker processes need no listing."""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kinfold.errors import InputError
from kinfold.images._folder import is_clutter
from kinfold.images._keys import encode_key, natural_key, unique_keys
from kinfold.images._reasons import SkipReason, UnusableImage
from kinfold.images._source import (
    HandleCache,
    LocatedSource,
    describe_os_error,
    read_bounded,
    read_exactly,
)

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_FACTS = np.dtype(
    [
        ("offset", "i8"),
        ("packed", "i8"),
        ("size", "i8"),
        ("checksum", "u4"),
        ("method", "u2"),
        ("encrypted", "?"),
        ("link", "?"),
    ]
)


class ZipMember(NamedTuple):
    """Where a member lies, and how it is packed."""

    offset: int
    packed: int
    size: int
    checksum: int
    method: int
    encrypted: bool
    link: bool


class ZipSource(LocatedSource):
    """All files in a zip archive, in natural order, but for hidden names and systems' clutter.

    A name that occurs twice becomes ``name#2``. Stored, deflated and bzip2 members can be read.

    Parameters
    ----------
    path : str or Path
        The archive.

    Raises
    ------
    InputError
        The file is no zip archive, or its directory is damaged.
    """

    kind = "zip"

    def __init__(self, path: str | Path) -> None:
        self.uri = os.path.abspath(path)
        try:
            with zipfile.ZipFile(self.uri) as archive:
                members = [(_key(info), info) for info in archive.infolist() if _is_wanted(info)]
        except (zipfile.BadZipFile, OSError, UnicodeDecodeError, NotImplementedError) as error:
            raise InputError(f"{self.uri} can't be read as a zip archive: {error}") from error
        members.sort(key=lambda member: natural_key(member[0]))
        self.keys = unique_keys(key for key, _ in members)
        self._facts = np.array([_locate(info) for _, info in members], dtype=_FACTS)

    def locate(self, row: int) -> ZipMember:
        """Return where the member lies."""
        return ZipMember(*self._facts[row].item())

    def reader(self) -> ZipReader:
        """Return a reader of members by offset."""
        return ZipReader(self.uri)

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, sizes and checksums, as the archive's directory has them."""
        digest = hashlib.sha256()
        for row, key in enumerate(self.keys):
            digest.update(key.encode("utf-8", "surrogatepass"))
            digest.update(f"\0{self._facts['size'][row]}\0{self._facts['checksum'][row]}\n".encode())
        return digest.hexdigest()


class ZipReader:
    """Reads members of one archive."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handles = HandleCache(1)

    def read(self, locator: ZipMember) -> bytes:
        """Return a member's content; raises :class:`UnusableImage`."""
        if locator.link:
            raise UnusableImage(SkipReason.NOT_A_FILE, "a link inside an archive")
        if locator.encrypted:
            raise UnusableImage(SkipReason.UNREADABLE, "it is encrypted")
        try:
            return self._read(locator)
        except (OSError, ValueError, EOFError, struct.error, zlib.error) as error:
            raise UnusableImage(
                SkipReason.UNREADABLE, f"in the archive: {describe_os_error(error)}"
            ) from error

    def _read(self, member: ZipMember) -> bytes:
        stream = self._handles.get(self._path)
        stream.seek(member.offset)
        mark, name, extra = _LOCAL_HEADER.unpack(read_exactly(stream, _LOCAL_HEADER.size))
        if mark != b"PK\x03\x04":
            raise ValueError("the member doesn't begin where the directory says")
        stream.seek(name + extra, os.SEEK_CUR)
        if member.method == zipfile.ZIP_STORED:
            data = read_bounded(stream, member.size)
        else:
            data = read_bounded(_Unpacked(read_exactly(stream, member.packed), member.method), member.size)
        if len(data) < member.size:
            missing = member.size - len(data)
            raise UnusableImage(SkipReason.TRUNCATED, f"{missing:,} bytes are missing in the archive")
        if zlib.crc32(data) != member.checksum:
            raise UnusableImage(SkipReason.CORRUPT, "its checksum in the archive is another")
        return data


class _Unpacked(BytesIO):
    """A packed member as a stream that never unpacks more than is asked for."""

    def __init__(self, packed: bytes, method: int) -> None:
        super().__init__()
        if method not in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise ValueError(f"compression method {method} isn't read; repack it with deflate")
        self._rest = packed
        self._unpack = zlib.decompressobj(-15) if method == zipfile.ZIP_DEFLATED else bz2.BZ2Decompressor()

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        out = b""
        while len(out) < size and not self._unpack.eof:
            piece = self._unpack.decompress(self._rest, size - len(out))
            self._rest = getattr(self._unpack, "unconsumed_tail", b"")
            if not piece and not self._rest:
                break
            out += piece
        return out


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    if info.is_dir():
        return False
    return not any(is_clutter(part.encode("utf-8", "replace")) for part in info.filename.split("/") if part)


def _key(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & 0x800:  # no word on the encoding: many tools write UTF-8 all the same
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return encode_key(name)


def _locate(info: zipfile.ZipInfo) -> ZipMember:
    return ZipMember(
        info.header_offset,
        info.compress_size,
        info.file_size,
        info.CRC,
        info.compress_type,
        bool(info.flag_bits & 1),
        stat.S_ISLNK(info.external_attr >> 16),
    )
