"""Locks that allow one writer per folder or output; released when their process ends, also when killed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
_NEW_SECONDS = 5.0  # so old may a lock file be that is still empty: its owner writes into it in milliseconds
_LONGEST_NAME = 120  # characters of an output in the name of its lock, which must stay below 255 bytes
# The folder of a lock may vanish before it is taken, because its last owner found it empty and removed it.
# Each time somebody else was faster, so a few attempts are enough.
_ATTEMPTS = 50
# No link is followed, and a pipe in place of the file doesn't block.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
# By which process and thread: a fork inherits this table, but not the locks.
_held: dict[Path, tuple[int, int]] = {}
_guard = threading.Lock()
_can_lock: dict[int, bool] = {}  # by the number of the file system


@contextmanager
def lock_directory(
    directory: Path, *, wait: bool = False, create: bool = False, again: bool = False
) -> Iterator[None]:
    """Hold ``directory`` for this thread alone while the context lasts.

    Where the system has them, POSIX record locks are used: the kernel drops them when the process ends, also
    by SIGKILL, and worker processes don't inherit them. Elsewhere the lock file names its owner by process
    id and start time, and a lock whose owner is gone is taken over.

    Parameters
    ----------
    directory : Path
        The directory; the file ``.lock`` in it carries the lock.
    wait : bool, default False
        Wait until another owner is done, instead of raising.
    create : bool, default False
        Make the directory if it isn't there, and remove it again if nothing is in it at the end.
    again : bool, default False
        Let a thread that holds the directory lock it once more, which changes nothing.

    Raises
    ------
    InputError
        Another process, or another thread of this one, holds the lock and ``wait`` is False; or the lock
        file is a link or no regular file.
    """
    new = create and not directory.exists()
    with _hold(directory / LOCK_NAME, directory, wait, create, again):
        try:
            yield
        finally:
            lock = directory / LOCK_NAME
            if new and os.name == "posix" and _is_alone(lock):
                # Before the lock is released, so that nobody takes it in a folder that is about to go.
                with suppress(OSError):
                    lock.unlink()
                    directory.rmdir()


@contextmanager
def lock_output(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the place of an output, a file or a folder that is replaced as a whole, for this thread alone.

    A thread that holds it may lock it again, as writers of outputs use one another.

    Parameters
    ----------
    out : Path
        The output. The folder that it is in is made; the lock is a file ``.lock-NAME`` beside the output.
    wait : bool, default False
        Wait until another owner is done, instead of raising.

    Raises
    ------
    InputError
        As for :func:`lock_directory`.
    """
    name = out.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    with _hold(out.parent / f"{LOCK_NAME}-{name}", out, wait, create=True, again=True):
        yield


def can_lock(directory: Path) -> bool:
    """Tell whether the file system of a directory, which can be written to, has POSIX locks, as SQLite needs.

    A new file is locked to find out, once for each file system.
    """
    if fcntl is None:
        return True
    try:
        device = directory.stat().st_dev
        if device not in _can_lock:
            probe = directory / f".partial-{secrets.token_hex(6)}-lock"
            descriptor = os.open(probe, _FLAGS | os.O_EXCL, 0o600)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _can_lock[device] = True
            except OSError:
                _can_lock[device] = False
            finally:
                os.close(descriptor)
                probe.unlink(missing_ok=True)
        return _can_lock[device]
    except OSError:  # it can't be written to after all, which whoever writes will be told
        return True


@contextmanager
def _hold(lock: Path, what: Path, wait: bool, create: bool, again: bool) -> Iterator[None]:
    """Hold a lock file; ``what`` it stands for is named in messages."""
    if create:
        lock.parent.mkdir(parents=True, exist_ok=True)
    path = lock.parent.resolve() / lock.name
    me = (os.getpid(), threading.get_ident())
    if again and _held.get(path) == me:
        yield
        return
    while not _claim(path, me):  # the file isn't opened here: closing it would drop this process's lock
        _refuse_or_pause(what, "another thread of this process", wait)
    try:
        while (stream := _take_in_time(path, create)) is None:
            owner = _read_owner(path)
            _refuse_or_pause(what, f"process {owner['pid']}" if owner else "another process", wait)
        try:
            yield
        finally:
            _release(stream, path)
    finally:
        with _guard:
            _held.pop(path, None)


def _claim(path: Path, me: tuple[int, int]) -> bool:
    """Claim the lock among the threads of this process."""
    with _guard:
        if path in _held and _held[path][0] == me[0]:
            return False
        _held[path] = me
        return True


def _refuse_or_pause(what: Path, owner: str, wait: bool) -> None:
    if not wait:
        raise InputError(
            f"{what} is being written by {owner}; wait until it is done, or choose another folder or name"
        )
    time.sleep(_PAUSE_SECONDS)


def _is_alone(lock: Path) -> bool:
    """Tell whether nothing but the lock is in its folder."""
    try:
        return {entry.name for entry in lock.parent.iterdir()} <= {lock.name}
    except OSError:
        return False


def _take_in_time(path: Path, create: bool) -> IO[str] | None:
    """Take the lock among processes, making its folder anew where that was removed meanwhile."""
    for _ in range(_ATTEMPTS if create else 0):
        with suppress(FileNotFoundError):
            return _take(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    return _take(path)


def _take(path: Path) -> IO[str] | None:
    """Take the lock among processes; None if another one has it."""
    while fcntl is not None and can_lock(path.parent):
        stream = _open(path)
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


def _open(path: Path) -> IO[str]:
    """Open the lock file, new or as it is, unless it is a link or no regular file."""
    _refuse_strange(path)
    try:
        descriptor = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # changed since it was looked at
            raise _strange(path) from error
        raise
    return os.fdopen(descriptor, "r+", encoding="utf-8")


def _refuse_strange(path: Path) -> None:
    """Refuse what isn't a regular file with one name: writing to it would change something else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise _strange(path)


def _strange(path: Path) -> InputError:
    return InputError(
        f"{path} is a link or no regular file, so the folder can't be locked; it was left as it is. "
        "Remove it if nothing is writing there"
    )


def _is_file_at(stream: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _take_by_owner(path: Path) -> IO[str] | None:
    """Take a lock that is the existence of a file which names a living process."""
    _refuse_strange(path)
    owner = _read_owner(path)
    if (owner is not None and _is_alive(owner)) or (owner is None and _is_new(path)):
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


def _is_new(path: Path) -> bool:
    """Tell whether a lock file was made moments ago, so that its owner may not have written into it yet."""
    try:
        return abs(time.time() - path.lstat().st_mtime) < _NEW_SECONDS
    except FileNotFoundError:
        return False


def _write_owner(stream: IO[str]) -> None:
    stream.seek(0)
    stream.truncate()
    me = psutil.Process()
    json.dump({"pid": me.pid, "started": me.create_time()}, stream)
    stream.flush()


def _read_owner(path: Path) -> dict[str, float] | None:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(owner, dict):
        return None
    numbers = all(isinstance(owner.get(name), int | float) for name in ("pid", "started"))
    return owner if numbers else None


def _is_alive(owner: dict[str, float]) -> bool:
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - owner["started"]) < 1.0
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the number may be no process id at all
        return False


def _release(stream: IO[str], path: Path) -> None:
    if os.name == "posix":
        # Its folder may be gone, and the lock with it; or another process has made both anew.
        if _is_file_at(stream, path):
            path.unlink(missing_ok=True)
        stream.close()
    else:  # an open file can't be removed
        stream.close()
        path.unlink(missing_ok=True)
