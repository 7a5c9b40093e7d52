"""The one door of all readers: what a library raises while it reads a file becomes an error with a remedy.

Files come from elsewhere, cut off, damaged or made to hurt. The libraries that parse them raise a few dozen
different errors then (``RecursionError`` for deep JSON, ``SyntaxError`` for a header of NumPy,
``MemoryError`` for absurd sizes), so that a list of them is always one too short. Here everything that is no
error of Kinfold's own is taken for damage of the file that was being read.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.compute import available_memory
from kinfold.errors import FormatError, InputError, KinfoldError

_npy: Any = np.lib.format  # it has no types
_LONGEST_REASON = 200  # characters of a library's message: some list everything that they hold
# What the system says where a size or place that a damaged file names can't be.
_IMPOSSIBLE = (None, errno.EINVAL, errno.ENOMEM, errno.EFBIG, errno.EOVERFLOW)


@contextmanager
def reading(path: str | Path, mend: str = "", *, given: bool = False) -> Iterator[None]:
    """Turn whatever is raised while the file at ``path`` is read into an error that names it.

    A file that is no regular one, such as a pipe that would never end, is refused before the body runs.

    Parameters
    ----------
    path : str or Path
        The file.
    mend : str, optional
        What to do about damage, as the rest of a sentence.
    given : bool, default False
        The file is one that people bring rather than one of Kinfold's own: errors are
        :class:`~kinfold.errors.InputError`.

    Raises
    ------
    FormatError
        The file is missing, no regular file, or damaged.
    InputError
        The same where it is ``given``; or it can't be read: no permission, a failing disk.
    """
    end = f"; {mend}" if mend else ""
    kind, what = (InputError, "can't be read:") if given else (FormatError, "is damaged:")
    check_regular(path, mend)
    try:
        yield
    except KinfoldError:
        raise
    except FileNotFoundError as error:
        raise kind(
            f"{path} can't be read: it is missing{end}" if given else f"{path} is missing{end}"
        ) from error
    except RecursionError as error:
        raise kind(f"{path} {what} it is nested too deeply{end}") from error
    except MemoryError as error:
        raise kind(f"{path} {what} it asks for more memory than there is{end}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _IMPOSSIBLE:
            raise InputError(f"{path} can't be read: {error.strerror}") from error
        raise kind(f"{path} {what} {reason_of(error)}{end}") from error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's message, or its name where it has none."""
    lines = str(error).strip().splitlines()
    reason = "".join(char if char.isprintable() else " " for char in lines[0]) if lines else ""
    return reason[:_LONGEST_REASON].rstrip(". ") or type(error).__name__


def check_regular(path: str | Path, mend: str = "") -> None:
    """Refuse what is there but is neither a regular file nor a folder: opening a pipe would wait for ever.

    Raises
    ------
    FormatError
        It is a pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # whoever opens it says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FormatError(
            f"{path} is no regular file, but a pipe, socket or device; it was not opened"
            + (f". {mend[:1].upper()}{mend[1:]}" if mend else "")
        )


def parse_json(data: bytes | str) -> Any:
    """Parse JSON in UTF-8; ``ValueError`` for whatever is none, also where Python raises another error."""
    try:
        return json.loads(data if isinstance(data, str) else data.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def inflate(data: bytes, limit: int) -> bytes:
    """Decompress what zlib compressed; ``ValueError`` if it is damaged or longer than ``limit`` bytes."""
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(found) > limit:
        raise ValueError(f"it inflates to more than {limit:,} bytes")
    if not unpack.eof:
        raise ValueError("it is cut off")
    return found


class Arrays:
    """The arrays of an open ``.npz`` file; each is read when it is asked for, within limits."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self.names = tuple(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Read an array; :class:`InputError` where it is none, or would not fit into memory."""
        member, path = self._members[name], self._archive.filename
        with self._archive.open(member) as stream:
            try:
                shape, dtype = read_npy_header(stream)
            except Exception as error:
                raise InputError(
                    f"{name!r} in {path} is no array of NumPy ({reason_of(error)}); "
                    "write the file by numpy.savez"
                ) from error
            refuse_objects(f"{name!r} in {path}", dtype)
            if member.file_size != _count(shape) * dtype.itemsize + stream.tell():
                raise ValueError(f"{name!r} is not as long as its header says")
        if member.file_size > available_memory():
            raise InputError(
                f"{name!r} in {path} takes {member.file_size / 2**30:.1f} GiB, more than the memory that is "
                "free; save it as a .npy file, which is read in pieces"
            )
        with self._archive.open(member) as stream:
            array: NDArray[Any] = _npy.read_array(stream, allow_pickle=False)
            stream.read(1)  # to the end, where the checksum is compared
        return array


@contextmanager
def open_arrays(path: str | Path, mend: str = "") -> Iterator[Arrays]:
    """Open a ``.npz`` file; what is wrong with it is an error as in :func:`reading`."""
    with reading(path, mend):
        with open(path, "rb") as stream:
            is_archive = zipfile.is_zipfile(stream)
        if not is_archive:
            raise FormatError(f"{path} is damaged: it is no .npz archive" + (f"; {mend}" if mend else ""))
        with zipfile.ZipFile(path) as archive:
            yield Arrays(archive)


def read_npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of the array that a ``.npy`` stream holds; ``ValueError`` for anything else."""
    version = _npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):  # the third is for structures alone, which are no numbers
        raise ValueError(f"its version {version} is none of plain numbers")
    read = _npy.read_array_header_1_0 if version == (1, 0) else _npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"the shape {shape} is impossible")
    return tuple(shape), dtype


def refuse_objects(name: str | Path, dtype: np.dtype[Any]) -> None:
    """Raise :class:`InputError` for Python objects, which would have to be unpickled."""
    if dtype.hasobject:
        raise InputError(f"{name} holds Python objects, not real numbers")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def is_count(value: Any) -> bool:
    """Tell whether a value from JSON is an integer of 0 or more that fits 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def list_of(kinds: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return what :func:`check_fields` takes for a list of objects that have these fields."""
    return ("list of", kinds)


def check_fields(path: Path, content: Any, kinds: Mapping[str, Any], mend: str = "", *, at: str = "") -> None:
    """Check that what was read from JSON has the types that its readers rely on.

    Parameters
    ----------
    path : Path
        The file, for the message.
    content : object
        What it holds.
    kinds : mapping
        Field name to what it must be: a type, a tuple of types (None among them for null), a mapping of the
        fields below it, or a function. A name that ends in "?" may be missing; "*" stands for every field.
    mend : str, optional
        What to do, as the rest of a sentence.
    at : str, optional
        Field that ``content`` was found under, such as ``"source.files"``; by default the whole file.

    Raises
    ------
    FormatError
        A field is missing or of another type; the message names it.
    """
    end = f"; {mend}" if mend else ""
    if not isinstance(content, dict):
        raise FormatError(f"{path} is damaged: {at or 'what it holds'} is no JSON object{end}")
    for name, kind in kinds.items():
        if name == "*":
            for field in content:
                _check_field(path, content[field], kind, mend, f"{at}.{field}" if at else field)
            continue
        field = name.removesuffix("?")
        where = f"{at}.{field}" if at else field
        if field not in content:
            if name == field:
                raise FormatError(f"{path} is damaged: {where!r} is missing{end}")
            continue
        _check_field(path, content[field], kind, mend, where)


def _check_field(path: Path, value: Any, kind: Any, mend: str, where: str) -> None:
    if isinstance(kind, Mapping):
        check_fields(path, value, kind, mend, at=where)
    elif isinstance(kind, tuple) and kind[0] == "list of" and isinstance(value, list):
        for place, one in enumerate(value):
            check_fields(path, one, kind[1], mend, at=f"{where}[{place}]")
    elif not _fits(value, kind):
        raise FormatError(
            f"{path} is damaged: {where!r} can't be {_show(value)}" + (f"; {mend}" if mend else "")
        )


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(_fits(value, one) for one in kind)
    if kind is None:
        return value is None
    if kind is int or kind is float:  # True is an int to Python, and 1 is a float to everyone else
        number = isinstance(value, int if kind is int else int | float)
        return number and not isinstance(value, bool) and abs(value) < 1 << 63
    if isinstance(kind, str | Mapping):  # of list_of: what comes here is no list
        return False
    return isinstance(value, kind) if isinstance(kind, type) else bool(kind(value))


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
