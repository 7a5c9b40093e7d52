"""Atomic writes of files and folders, content hashes, JSON, and guards of what may be written where."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.locks import lock_output
from kinfold.reading import check_regular, parse_json, reading

PARTIAL_PREFIX = ".partial-"
_MOST_JSON = 1 << 28  # bytes: Kinfold's own are a few MB, and what is parsed takes about ten times as much
_LONGEST_NAME = 200  # bytes of a name that a temporary one repeats; file systems allow 255 for all of it
_TOKEN_BYTES = 6  # random bytes of a temporary name
# What a file system answers that can't sync folders (CIFS before Linux 4.17, vboxsf, several FUSE ones), or a
# folder that may be written to but not read: its entries are written when the system gets to it.
_NO_FOLDER_SYNC = frozenset(
    [errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP]
)
_MANY_FILES = 1_000  # from which on one sync of the whole system is quicker than one of each file


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a new, empty temporary file beside ``path``; on success sync it and rename it into place.

    Its name is random and it is made new, so that no link that lies there is ever written through, and no two
    writers share it. If the body raises, it is removed and ``path`` is left as it was. A process that is
    killed leaves only a ``.partial-*`` file, which :func:`remove_partials` clears.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_of(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with _naming(partial, path):
        os.close(os.open(partial, flags, 0o666))
    try:
        with _naming(partial, path):
            yield partial
            _sync(partial)  # before the rename: else a crash could leave the name with no content behind it
            os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a new temporary directory beside ``path``; on success sync its files and rename it into place.

    An existing ``path`` is replaced: renamed, and removed once the new one is in its place. Without
    ``replace`` that is an ``OSError``, unless it is empty. If the body raises, ``path`` is left as it was.
    The place is locked meanwhile, and what killed writers left of it is removed.
    """
    with hold_output(path):
        partial, former = _partial_of(path), _partial_of(path)
        partial.mkdir()
        try:
            yield partial
            _sync_tree(partial)
            if replace and (path.exists() or path.is_symlink()):
                os.replace(path, former)
            elif path.is_dir():
                path.rmdir()
            os.replace(partial, path)
            _sync(path.parent)
        finally:
            for left in (partial, former):
                _remove(left)


@contextmanager
def hold_output(path: Path) -> Iterator[None]:
    """Hold the place of an output by :func:`~kinfold.locks.lock_output`, without what killed writers left.

    Raises
    ------
    InputError
        Another process, or another thread of this one, writes there.
    """
    with lock_output(path):
        start = len(PARTIAL_PREFIX)
        for left in _partials_in(path.parent):
            # The second as versions named it that had one temporary name for all writers.
            if _ending_of(path) == left.name[start + 2 * _TOKEN_BYTES :] or path.name == left.name[start:]:
                _remove(left)
        yield


def _partial_of(path: Path) -> Path:
    """Return a name beside ``path`` that nothing has."""
    return path.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(_TOKEN_BYTES)}{_ending_of(path)}")


def _ending_of(path: Path) -> str:
    """Return what the temporary names of ``path`` end in: its name, or a hash of a long one."""
    name = os.fsencode(path.name)
    return f"-{path.name}" if len(name) <= _LONGEST_NAME else f"-{hashlib.sha256(name).hexdigest()[:16]}"


@contextmanager
def _naming(partial: Path, path: Path) -> Iterator[None]:
    """Let errors of the system about a temporary file name the file that it stands for."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) == partial:
            error.filename, error.filename2 = str(path), None
        raise


def _partials_in(folder: Path) -> list[Path]:
    """Return what killed processes left directly in a folder, whatever its name's characters are."""
    if not folder.is_dir():
        return []
    return [entry for entry in folder.iterdir() if entry.name.startswith(PARTIAL_PREFIX)]


def _remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, but never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class _Plain:
    """A stream that isn't a file to NumPy, which then calls ``write``, whose errors keep their cause."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write, self.flush = stream.write, stream.flush


def write_array(stream: BinaryIO, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``; a full disk is an ``OSError`` that says so, unlike ``np.save``'s own."""
    np.save(_Plain(stream), array, allow_pickle=False)


def remove_partials(directory: Path) -> None:
    """Remove what a killed process left half-written directly in ``directory``."""
    for left in _partials_in(directory):
        _remove(left)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented UTF-8 JSON, atomically, keys in their given order."""
    text = json.dumps(content, indent=2, ensure_ascii=False, default=as_plain) + "\n"
    with atomic_file(path) as partial:
        # Paths may hold bytes that aren't UTF-8, as lone surrogates: written \\udce9, which JSON reads back.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is a :class:`FormatError` that names it, a missing one ``OSError``."""
    check_regular(path)
    with path.open("rb") as stream:
        data = stream.read(_MOST_JSON + 1)
    with reading(path):
        if len(data) > _MOST_JSON:
            raise FormatError(f"{path} is damaged: it is far larger than any file of its kind")
        return parse_json(data)


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


def check_own(folder: Path, *, depth: int = 1, skip: Container[str] = ()) -> None:
    """Refuse links, pipes, sockets and devices in a folder of ours, which holds only files and folders.

    A folder may come from elsewhere: a link in it could lead what is written there, or what is removed, to
    any other place, and a pipe in place of a file would be waited for without end.

    Parameters
    ----------
    folder : Path
        The folder; it may itself be reached by a link. Nothing is checked where there is none.
    depth : int, default 1
        Levels of folders to look into.
    skip : container of str
        Names of folders directly in ``folder`` that are not looked into, since they are checked when used.

    Raises
    ------
    InputError
        It names the first one.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_symlink() or getattr(entry, "is_junction", bool)():
            raise InputError(
                f"{path} is a link, which leads out of {folder}; it was left as it is, and nothing was read "
                "or written. Put a copy of the file or folder itself in its place (cp -RL), or remove it"
            )
        if entry.is_dir(follow_symlinks=False):
            if depth > 1 and entry.name not in skip:
                check_own(path, depth=depth - 1)
        elif not entry.is_file(follow_symlinks=False):
            kind = _kind_of(entry.stat(follow_symlinks=False).st_mode)
            raise InputError(f"{path} is no regular file but {kind}; remove it, or put the file in its place")


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def is_plain_name(name: object) -> bool:
    """Tell whether a value is the name of one file or folder, without any way to another folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(character in name for character in "/\\:\0")
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
    check_regular(path)
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
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if is_folder and error.errno in _NO_FOLDER_SYNC:
            return
        # Where it happened, which the system's error of a descriptor doesn't say.
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to the disk, where its file system can."""
    _sync(path)
