"""SQLite files: opening them, also where one can't write, and what their errors mean in plain words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from kinfold.errors import FormatError, UnwritableError

_WAIT_SECONDS = 120.0  # for other writers, each of whom takes milliseconds


def explain(path: Path, error: sqlite3.OperationalError) -> Exception:
    """Return what an error of SQLite means for the file at ``path``."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return UnwritableError(f"{path} is held by another program; close it and try again")
    if "readonly" in text or "unable to open" in text:
        return UnwritableError(
            f"{path} can't be written to; corrections need a run folder that you may write to"
        )
    if "full" in text:
        return UnwritableError(f"the disk is full: {path} can't grow; make room and try again")
    return FormatError(damaged(path, text))


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file at ``path``: "ro" to read it, "rw" to write it too, "rwc" to make it."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )


def connect_copy(path: Path) -> sqlite3.Connection:
    """Open a copy in memory: SQLite reads no file with a log beside it where it can't write."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if (found := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(found, Path(folder) / found.name)
        with closing(connect(Path(folder) / path.name, "rw")) as copy:
            copy.backup(memory)
    return memory


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file its name unless another process was quicker, and make sure of it on the disk."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        os.replace(partial, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def damaged(path: Path, why: str) -> str:
    """Return the message that a file is damaged, and what to do."""
    log = log_of(path)
    with_log = f" together with {log.name}" if log else ""
    return (
        f"{path} is damaged ({why}); it was left as it is. Move it away{with_log}; then restore it from a "
        "copy, or go on without corrections"
    )


def log_of(path: Path) -> Path | None:
    """Return SQLite's log beside a file, if there is something in it."""
    log = path.with_name(f"{path.name}-wal")
    try:
        return log if log.stat().st_size else None
    except FileNotFoundError:
        return None
