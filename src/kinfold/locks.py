"""A lock that allows one writer per directory and is released when its process ends, also when killed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from kinfold.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
_PAUSE_SECONDS = 0.1  # between attempts to take a lock: soon for a person, rare for the file system
_held: set[Path] = set()
_guard = threading.Lock()


@contextmanager
def lock_directory(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``directory`` (which must exist) for this process alone while the context lasts.

    Where the system has them, POSIX record locks are used: the kernel drops them when the process ends, also
    by SIGKILL, and worker processes don't inherit them. Elsewhere the lock file names its owner by process
    id and start time, and a lock whose owner is gone is taken over.

    Parameters
    ----------
    directory : Path
        The directory; the file ``.lock`` in it carries the lock.
    wait : bool, default False
        Wait until another owner is done, instead of raising.

    Raises
    ------
    InputError
        Another process, or another thread of this one, holds the lock and ``wait`` is False.
    """
    path = directory.resolve() / LOCK_NAME
    while not _claim(path):  # the file isn't opened here: closing it would drop this process's lock
        _refuse_or_pause(directory, "another thread of this process", wait)
    try:
        while (stream := _take(path)) is None:
            owner = _read_owner(path)
            _refuse_or_pause(directory, f"process {owner['pid']}" if owner else "another process", wait)
        try:
            yield
        finally:
            _release(stream, path)
    finally:
        with _guard:
            _held.discard(path)


def _claim(path: Path) -> bool:
    """Claim the lock among the threads of this process."""
    with _guard:
        if path in _held:
            return False
        _held.add(path)
        return True


def _refuse_or_pause(directory: Path, owner: str, wait: bool) -> None:
    if not wait:
        raise InputError(
            f"{directory} is being written by {owner}; wait until it is done, or choose another folder"
        )
    time.sleep(_PAUSE_SECONDS)


def _take(path: Path) -> IO[str] | None:
    """Take the lock among processes; None if another one has it."""
    while fcntl is not None:
        stream = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            stream.close()
            return None
        except OSError:  # a file system without locks
            stream.close()
            break
        if _is_file_at(stream, path):
            _write_owner(stream)
            return stream
        stream.close()  # its last owner removed this file between our opening and locking it
    return _take_by_owner(path)


def _is_file_at(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _take_by_owner(path: Path) -> IO[str] | None:
    """Take a lock that is the existence of a file which names a living process."""
    owner = _read_owner(path)
    if owner is not None and _is_alive(owner):
        return None
    path.unlink(missing_ok=True)
    try:
        stream = path.open("x", encoding="utf-8")
    except FileExistsError:
        return None
    _write_owner(stream)
    time.sleep(_PAUSE_SECONDS)  # another process may have removed the same dead lock at the same moment
    owner = _read_owner(path)
    if owner is None or owner["pid"] != os.getpid():
        stream.close()
        return None
    return stream


def _write_owner(stream: IO[str]) -> None:
    stream.seek(0)
    stream.truncate()
    me = psutil.Process()
    json.dump({"pid": me.pid, "started": me.create_time()}, stream)
    stream.flush()


def _read_owner(path: Path) -> dict[str, float] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) and {"pid", "started"} <= set(owner) else None


def _is_alive(owner: dict[str, float]) -> bool:
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - owner["started"]) < 1.0
    except psutil.NoSuchProcess:
        return False


def _release(stream: IO[str], path: Path) -> None:
    if os.name == "posix":
        path.unlink(missing_ok=True)
        stream.close()
    else:  # an open file can't be removed
        stream.close()
        path.unlink(missing_ok=True)
