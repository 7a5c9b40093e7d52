"""Atomic writes of files and folders, content hashes, JSON, and guards of what may be written where."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, NewerFormatError

PARTIAL_PREFIX = ".partial-"
_MANY_FILES = 1_000  # from which on one sync of the whole system is quicker than one of each file


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and rename it into place.

    If the body raises, the temporary file is removed and ``path`` is left as it was. A process
    that is killed leaves only a ``.partial-*`` file, which :func:`remove_partials` clears.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    try:
        yield partial
        _sync(partial)  # before the rename: else a crash could leave the name with no content behind it
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; on success sync its files and rename it into place.

    An existing ``path`` is replaced: renamed, and removed once the new one is in its place. Without
    ``replace`` that is an ``OSError``, unless it is empty. If the body raises, ``path`` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    former = path.with_name(f"{PARTIAL_PREFIX}{path.name}.former")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        _sync_tree(partial)
        if replace and path.exists():
            shutil.rmtree(former, ignore_errors=True)
            os.replace(path, former)
        elif path.is_dir():
            path.rmdir()
        os.replace(partial, path)
        _sync(path.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Plain:
    """A stream that isn't a file to NumPy, which then calls ``write``, whose errors keep their cause."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write, self.flush = stream.write, stream.flush


def write_array(stream: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``; a full disk is an ``OSError`` that says so, unlike ``np.save``'s own."""
    np.save(_Plain(stream), array, allow_pickle=False)


def remove_partials(directory: Path) -> None:
    """Remove what a killed process left half-written directly in ``directory``."""
    for left in directory.glob(f"{PARTIAL_PREFIX}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically, keys in their given order."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=as_plain) + "\n"
    with atomic_file(path) as partial:
        # Paths may hold bytes that aren't UTF-8, as lone surrogates: written \\udce9, which JSON reads back.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one raises :class:`FormatError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error


def check_format_version(path: Path, version: object, newest: int) -> None:
    """Check the ``format_version`` that the file at ``path`` names.

    Raises
    ------
    NewerFormatError
        It is above ``newest``, the last one that this Kinfold reads.
    FormatError
        It is no version at all.
    """
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{path} is damaged: format_version is {version!r}. Restore the file from a copy")
    if version > newest:
        raise NewerFormatError(
            f"{path} was written by a newer Kinfold (format version {version}, this one reads up to "
            f"{newest}); update Kinfold: pip install --upgrade kinfold"
        )


def check_place(out: Path) -> None:
    """Refuse a place that can't be made, because something above it is no folder.

    Raises
    ------
    InputError
        It names what is in the way.
    """
    for parent in out.absolute().parents:
        if parent.exists() or parent.is_symlink():
            if not parent.is_dir():
                raise InputError(
                    f"{out} can't be written: {parent} is no folder; choose another place (out=, --out)"
                )
            return


def check_folder(out: Path, kind: str, is_ours: Callable[[str], bool]) -> None:
    """Refuse a folder to write to that is a file, or that holds what isn't ours.

    Parameters
    ----------
    out : Path
        The folder; there may be nothing yet.
    kind : str
        What it will be, with its article, for the message: "a run".
    is_ours : callable
        Tells by the name of an entry of the folder whether it may be there.

    Raises
    ------
    InputError
        It names what is there.
    """
    check_place(out)
    if not (out.exists() or out.is_symlink()):
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for {kind} (out=, --out)")
    foreign = sorted(entry.name for entry in out.iterdir() if not is_ours(entry.name))
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0]!r}, which is no part of {kind}; it was left as it is. "
            "Choose another folder (out=, --out) or an empty one"
        )


def as_plain(value: Any) -> Any:
    """Return a NumPy number or array as a JSON value; for ``json.dumps(..., default=as_plain)``."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def hash_json(content: Any) -> str:
    """Return the SHA-256 of ``content`` in canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=as_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def hash_array(array: NDArray[Any]) -> str:
    """Return the SHA-256 of an array's dtype, shape and values, read in bounded pieces."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes)) if array.ndim else 1
    for start in range(0, len(array) if array.ndim else 0, rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return digest.hexdigest()


def _sync_tree(top: Path) -> None:
    """Sync all files below a directory: one by one, or where they are many all that the system holds."""
    files = list(islice(top.rglob("*"), _MANY_FILES))
    if len(files) == _MANY_FILES and hasattr(os, "sync"):
        os.sync()
        return
    for file in files if len(files) < _MANY_FILES else top.rglob("*"):
        if not file.is_symlink():
            _sync(file)
    _sync(top)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
