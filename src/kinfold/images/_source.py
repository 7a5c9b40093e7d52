"""Sources of images: what each offers, how bytes are read, and why an image can't be used."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, Any, Protocol

from kinfold.errors import KinfoldError
from kinfold.images._formats import SNIFF_BYTES, is_cut_signature, sniff
from kinfold.images._keys import encode_key

BYTE_LIMIT = 2 << 30
"""Larger files are never read: a file must fit in the memory of each worker."""
# Of larger files the first bytes are looked at before the rest is read: they may be videos or archives.
_LARGE = 32 << 20

Locator = Any
"""What a reader needs to know of one image: small and picklable."""


class SkipReason(str, Enum):
    """The words that begin every reason in ``skipped.parquet``."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not an image"
    CORRUPT = "corrupt"
    UNREADABLE = "unreadable"
    TOO_LARGE = "above the pixel limit"
    MISSING = "missing"
    BROKEN_LINK = "broken link"
    DIRECTORY_LOOP = "directory loop"
    NOT_A_FILE = "not a regular file"
    GONE = "gone"


class UnusableImage(KinfoldError):  # noqa: N818 - it is a finding about an image, not a failure
    """One image can't be used; the run goes on without it.

    Parameters
    ----------
    reason : SkipReason
        The kind of trouble.
    detail : str
        What exactly, for a person; may be empty.

    Examples
    --------
    >>> str(UnusableImage(SkipReason.TRUNCATED, "12 bytes are missing"))
    'truncated: 12 bytes are missing'
    """

    def __init__(self, reason: SkipReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[UnusableImage], tuple[SkipReason, str]]:
        return type(self), (self.reason, self.detail)


class Reader(Protocol):
    """Reads images by locator; small and picklable, so that each worker process has its own."""

    def read(self, locator: Locator) -> bytes:
        """Return the bytes of one image; raises :class:`UnusableImage`."""


class ImageSource(ABC):
    """Where images come from: an ordered list of keys, and the bytes behind each.

    A row number is an image's place in the list and never changes. Sources can be pickled; archives reopen
    by themselves in each process.

    Attributes
    ----------
    kind : str
        ``"folder"``, ``"glob"``, ``"zip"``, ``"webdataset"`` or ``"table"``.
    uri : str
        The absolute path or pattern, as opened.
    keys : Sequence[str]
        One key per row, all different.
    """

    kind: str
    uri: str
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<{self.kind} source {self.uri!r} of {len(self):,} rows>"

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Return the bytes of one image file; raises :class:`UnusableImage`."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the SHA-256 of keys, sizes and modification times (checksums in a zip)."""

    def path(self, row: int) -> Path | None:
        """Return the image's own file, or None where it lies inside an archive or a table."""
        return None

    def locate(self, row: int) -> Locator:
        """Return what :meth:`reader`'s ``read`` needs for this row; raises :class:`UnusableImage`."""
        return row

    def reader(self) -> Reader:
        """Return a reader for another process; it should carry no listing."""
        return self


class LocatedSource(ImageSource):
    """A source that reads through its own reader."""

    _own_reader: Reader | None = None

    @abstractmethod
    def reader(self) -> Reader:
        """Return a reader for another process."""

    def read(self, row: int) -> bytes:
        """Return the bytes of one image file; raises :class:`UnusableImage`."""
        if self._own_reader is None:
            self._own_reader = self.reader()
        return self._own_reader.read(self.locate(row))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_own_reader"}


class FileReader:
    """Reads files by path.

    Parameters
    ----------
    shows_path : bool
        Whether the reason for a missing file names the path that was looked for, as it should where people
        wrote the path.
    """

    def __init__(self, *, shows_path: bool = False) -> None:
        self._shows_path = shows_path

    def read(self, locator: bytes) -> bytes:
        """Return a file's content; pipes, sockets and devices are never waited for."""
        try:
            return _read_file(locator)
        except FileNotFoundError:
            detail = f"there is no file {encode_key(locator)}" if self._shows_path else "the file isn't there"
            raise UnusableImage(SkipReason.MISSING, detail) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path out of a table
            raise UnusableImage(SkipReason.UNREADABLE, describe_os_error(error)) from None


def _read_file(path: bytes) -> bytes:
    flags = (
        os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    )
    _check_regular(os.stat(path))  # before opening, which may already have an effect on a device
    with open(os.open(path, flags), "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())  # again: the path may have been exchanged meanwhile
        _check_regular(status)
        return read_bounded(stream, status.st_size)


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnusableImage(SkipReason.NOT_A_FILE, describe_kind(status.st_mode))


def read_bounded(stream: IO[bytes], size: int) -> bytes:
    """Read a stream of ``size`` bytes, but nothing huge that doesn't even begin like an image.

    Raises
    ------
    UnusableImage
        It is too large, or large and of no image format.
    """
    if size <= _LARGE:
        return stream.read(_LARGE) if size == 0 else read_exactly(stream, size)
    head = read_exactly(stream, SNIFF_BYTES)
    if sniff(head) is None and not is_cut_signature(head):
        raise UnusableImage(SkipReason.NOT_AN_IMAGE, "its content begins like no image format")
    if size > BYTE_LIMIT:
        raise UnusableImage(
            SkipReason.TOO_LARGE, f"the file has {size:,} bytes, which is more than {BYTE_LIMIT:,}"
        )
    return head + read_exactly(stream, size - len(head))


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Read ``size`` bytes, fewer only where the stream ends."""
    data = stream.read(size)
    if len(data) == size:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def describe_kind(mode: int) -> str:
    """Return what a file that isn't regular is, from its ``st_mode``."""
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")


def describe_os_error(error: Exception) -> str:
    """Return the system's words for an error, without the path."""
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


class HandleCache:
    """A few open files, the least recently used closed first."""

    def __init__(self, limit: int = 8) -> None:
        self._limit = limit
        self._open: dict[Hashable, IO[bytes]] = {}

    def get(self, path: str) -> IO[bytes]:
        """Return an unbuffered stream of ``path``, open since last time if possible."""
        stream = self._open.pop(path, None)
        if stream is None:
            stream = open(path, "rb", buffering=0)  # noqa: SIM115 - it stays open until it is pushed out
        self._open[path] = stream
        while len(self._open) > self._limit:
            self._open.pop(next(iter(self._open))).close()
        return stream

    def __reduce__(self) -> tuple[type[HandleCache], tuple[int]]:
        return type(self), (self._limit,)
