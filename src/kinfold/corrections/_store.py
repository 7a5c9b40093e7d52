"""corrections.sqlite: an append-only table with one row per edit, undo and redo."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import stat
import struct
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, OtherGroupsError, UnwritableError
from kinfold.locks import can_lock
from kinfold.reading import inflate
from kinfold.storage import PARTIAL_PREFIX, check_format_version, sync_folder

_HEAD = struct.Struct("<BQ")  # bytes per difference, first row; little-endian, so that files can be moved
_WIDTHS: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}
_MOST_ROWS = 1 << 26  # of one edit: more images than a run has, and half a gigabyte once inflated
_LEVEL = 1  # zlib's fastest: an edit must be on the disk while a person waits

_WAIT_SECONDS = 120.0  # for other writers; each takes milliseconds, so a longer wait means a stuck program

CORRECTIONS_NAME = "corrections.sqlite"
FORMAT = "kinfold-corrections"
FORMAT_VERSION = 1  # of the tables below; raise it when an older Kinfold could misread them
_COLUMNS = "id, time, client, kind, payload, rows, labels"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE edits (
    id INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    client TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    rows BLOB,
    labels BLOB,
    checksum INTEGER NOT NULL
);
CREATE TRIGGER edits_are_never_changed BEFORE UPDATE ON edits BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER edits_are_never_removed BEFORE DELETE ON edits BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True)
class EditRow:
    """A row of the table ``edits`` as it is in the file; docs/formats.md has the columns."""

    id: int
    time: str
    client: str
    kind: str
    payload: str
    rows: bytes | None
    labels: bytes | None


def pack_rows(rows: NDArray[np.int64]) -> bytes:
    """Return distinct, ascending, non-negative row numbers as bytes; b"" for an empty array.

    One byte holds the width of a difference (1, 2, 4 or 8 bytes), eight the first row; then come the
    differences of successive rows, little-endian, compressed by zlib. Differences are small where rows are
    not: 100,000 random rows of a million take about 80 kB.
    """
    if not len(rows):
        return b""
    steps = np.diff(rows)
    width = _width(int(steps.max(initial=0)))
    return _HEAD.pack(width, int(rows[0])) + zlib.compress(steps.astype(_WIDTHS[width]).tobytes(), _LEVEL)


def unpack_rows(data: bytes) -> NDArray[np.int64]:
    """Return the rows that :func:`pack_rows` packed; ``ValueError`` for other bytes."""
    if not data:
        return np.empty(0, np.int64)
    if len(data) < _HEAD.size:
        raise ValueError("the rows are truncated")
    width, first = _HEAD.unpack_from(data)
    steps = _unpack(width, data[_HEAD.size :])
    rows = np.empty(len(steps) + 1, np.int64)
    rows[0], rows[1:] = first, steps
    return np.cumsum(rows, out=rows)


def pack_labels(labels: NDArray[np.integer]) -> bytes:
    """Return non-negative labels as bytes: their width in one byte, then the values compressed by zlib."""
    width = _width(int(labels.max(initial=0)))
    return bytes([width]) + zlib.compress(labels.astype(_WIDTHS[width]).tobytes(), _LEVEL)


def unpack_labels(data: bytes) -> NDArray[np.int32]:
    """Return the labels that :func:`pack_labels` packed; ``ValueError`` for other bytes."""
    if not data:
        raise ValueError("the labels are truncated")
    return _unpack(data[0], data[1:]).astype(np.int32)


def _width(largest: int) -> int:
    return next(width for width, dtype in _WIDTHS.items() if largest <= np.iinfo(dtype).max)


def _unpack(width: int, data: bytes) -> NDArray[Any]:
    if width not in _WIDTHS:
        raise ValueError(f"{width} is no width of an integer in bytes")
    values: NDArray[Any] = np.frombuffer(inflate(data, width * _MOST_ROWS), _WIDTHS[width])
    return values


def explain(path: Path, error: sqlite3.OperationalError) -> Exception:
    """Return the error to raise for an error of SQLite at ``path``, with what to do."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return UnwritableError(f"{path} is held by another program; close that program and try again")
    if "readonly" in text or "unable to open" in text:
        return UnwritableError(
            f"{path} can't be written to; corrections need write permission for the run folder"
        )
    if "full" in text:
        return UnwritableError(f"the disk is full: {path} can't grow; free some space and try again")
    # What SQLite says where the file system refuses locks, shared memory or a sync, whatever is in the file.
    if "I/O" in text or "locking protocol" in text or not path.exists():
        return UnwritableError(refusal_of(path, text))
    return FormatError(damaged(path, text))


def refusal_of(path: Path, why: str) -> str:
    """Return the message that a place can't hold corrections."""
    return (
        f"{path.parent} is on a file system that can't hold corrections ({why}); copy the run to a local "
        "disk to correct it there"
    )


def connect(path: Path, mode: str, *, options: str = "") -> sqlite3.Connection:
    """Open the file at ``path`` with a mode of SQLite: "ro" (read), "rw" (write) or "rwc" (create)."""
    uri = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}{options}"
    return sqlite3.connect(
        uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )


def connect_copy(path: Path) -> sqlite3.Connection:
    """Open a copy in memory: SQLite can't read a file with a write-ahead log in a read-only folder."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if (found := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(found, Path(folder) / found.name)
        # Nobody else knows the copy, so neither locks nor shared memory are needed, which may be missing.
        options = "&vfs=unix-none" if os.name == "posix" else ""
        with closing(connect(Path(folder) / path.name, "rw", options=options)) as copy:
            copy.execute("PRAGMA locking_mode = EXCLUSIVE")
            copy.backup(memory)
    return memory


def leave_log(path: Path) -> bool:
    """Let a file do without its write-ahead log, which needs shared memory; tell whether that went well.

    A run that was corrected elsewhere may be copied to a file system that has none. One process alone, which
    locks the file for itself, can read the log without shared memory and merge it into the file.
    """
    try:
        with closing(connect(path, "rw")) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = DELETE").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        return False
    return True


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a finished file unless another process made one first, and flush the folder to disk."""
    try:
        os.link(partial, path)  # unlike a rename, this never replaces the file of another process
    except FileExistsError:
        return
    except OSError:  # a file system without links
        os.replace(partial, path)
    sync_folder(path.parent)


def damaged(path: Path, why: str) -> str:
    """Return the message that a file is damaged, with how to mend it."""
    log = log_of(path)
    with_log = f" together with {log.name}" if log else ""
    return (
        f"{path} is damaged ({why}); it was left as it is. Move it away{with_log}; then restore it from a "
        "copy, or continue without corrections"
    )


def _apart(path: Path, what: str, log: Path) -> str:
    """Return the message that a log is there without the file that it belongs to."""
    return (
        f"{path} is {what}, but {log.name} is there, which belongs to it; put the file back, or move the log "
        "away too to start without corrections"
    )


def log_of(path: Path) -> Path | None:
    """Return SQLite's write-ahead log beside a file; None if it is missing or empty."""
    log = path.with_name(f"{path.name}-wal")
    try:
        return log if log.stat().st_size else None
    except FileNotFoundError:
        return None


def check_regular_files(path: Path) -> None:
    """Refuse links and what is no regular file in place of the file, or of those that SQLite has beside it.

    SQLite would follow the one, and wait for the other without end.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        file = path.with_name(path.name + ending)
        try:
            regular = stat.S_ISREG(file.lstat().st_mode)
        except FileNotFoundError:
            continue
        if not regular:
            raise InputError(
                f"{file} is a link or no regular file, so the corrections can't be opened; it was left as it "
                "is. Put the file itself in its place, or remove it to start without corrections"
            )


class Store:
    """The file of edits; several processes may have it open.

    Calls must not overlap between threads, except that one thread may wait in :meth:`hold` while others read.

    Parameters
    ----------
    path : Path
        Where the file is, or will be created by :meth:`prepare`.
    base : str
        Hash of the clusters that are corrected; see :func:`~kinfold.corrections._state.hash_base`.
    former : collection of str
        Hashes of earlier clusters, before updates of the run, whose corrections still hold.
    """

    def __init__(self, path: Path, base: str, former: Collection[str] = ()) -> None:
        self.path = path
        self._base, self._former = base, frozenset(former)
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._is_copy = False  # whether the reader has a copy in memory
        self._seen: object = None  # device and inode of the opened file, to notice another in its place

    def read_after(self, last_id: int) -> list[EditRow]:
        """Return all rows after an id, in order; an empty list where there is no file.

        Raises
        ------
        FormatError
            The file is damaged, not one of Kinfold, of a newer format or of other clusters. It is left
            as it is.
        """
        if not self._is_there():
            return []
        with self._explained():
            if self._reader is None:
                self._reader = self._open_reader()
            return self._read(self._reader, last_id)

    def prepare(self) -> None:
        """Create the file if there is none, and open it for :meth:`hold`.

        Raises
        ------
        InputError
            The folder can't be written to, or its file system has no locks.
        """
        if not can_lock(self.path.parent):
            raise UnwritableError(refusal_of(self.path, "it has no locks"))
        self._make()
        with self._explained():
            if self._writer is None:
                self._writer = self._open_writer()

    def hold(self) -> None:
        """Take the write lock, waiting for other processes; :meth:`writing` must follow.

        Raises
        ------
        InputError
            Another program holds the lock for longer than two minutes.
        """
        assert self._writer is not None
        with self._explained():
            if self._writer.in_transaction:  # a thread was interrupted between hold and writing
                self._writer.execute("ROLLBACK")
            self._writer.execute("BEGIN IMMEDIATE")

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Write under the lock: all is on disk when the context ends, or nothing if the body raises."""
        assert self._writer is not None
        try:
            yield Writer(self, self._writer)
            with self._explained():
                self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def close(self, *, tidy: bool = True) -> None:
        """Close the file; the store may be used again.

        ``tidy`` lets SQLite merge its log into the file, which a reader can't do. It is off for damaged
        files, which must not be written to.
        """
        alone = self._reader is not None and self._writer is None and not self._is_copy
        if tidy and alone and os.access(self.path.parent, os.W_OK):
            with suppress(sqlite3.Error):  # the last connection that may write removes the log when it closes
                self._writer = connect(self.path, "rw")
                self._writer.execute("SELECT count(*) FROM meta").fetchone()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None
        self._is_copy = False

    def _is_there(self) -> bool:
        """Tell whether there is a file; raise if it isn't the one that was opened before."""
        check_regular_files(self.path)
        try:
            status = self.path.stat()
            identity = (status.st_dev, status.st_ino)
            # SQLite would take the log for one of another file, and remove it with all edits in it.
            if not status.st_size and (log := log_of(self.path)) is not None:
                raise FormatError(_apart(self.path, "empty", log))
        except FileNotFoundError:
            identity = None
            log = log_of(self.path)
            if log is not None and not self.path.exists():
                raise FormatError(_apart(self.path, "missing", log)) from None
        if self._seen is not None and identity != self._seen:
            raise FormatError(
                f"{self.path} was removed or replaced while it was in use; put it back, or open the run again"
            )
        self._seen = identity
        return identity is not None

    def _open_reader(self) -> sqlite3.Connection:
        writable = os.access(self.path.parent, os.W_OK)
        if writable and not can_lock(self.path.parent):  # SQLite would wait for the lock, and never get it
            reader, self._is_copy = connect_copy(self.path), True
        else:
            reader = connect(self.path, "ro")
            try:
                reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError as error:
                reader.close()
                if not writable:
                    reader, self._is_copy = connect_copy(self.path), True
                elif "I/O" in str(error) and leave_log(self.path):
                    reader = connect(self.path, "ro")
                else:
                    raise
        try:
            self._check_meta(reader)
        except BaseException:
            reader.close()
            raise
        return reader

    def _open_writer(self) -> sqlite3.Connection:
        """Open the file for writing, after checking that it is one of Kinfold."""
        if self._reader is None:
            self._reader = self._open_reader()
        writer = connect(self.path, "rw")
        writer.execute("PRAGMA synchronous = FULL")
        return writer

    def _check_meta(self, connection: sqlite3.Connection) -> None:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if not {"meta", "edits"} <= tables:
            raise FormatError(
                f"{self.path} isn't a file of Kinfold's corrections, or is damaged; it was left as it is. "
                "Move it away; then restore it from a copy, or continue without corrections"
            )
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("format") != FORMAT:
            raise FormatError(
                f"{self.path} isn't a file of Kinfold's corrections: it has the format "
                f"{meta.get('format')!r}; it was left as it is. Move it away"
            )
        version = meta.get("format_version", "")
        check_format_version(self.path, int(version) if version.isdecimal() else version, FORMAT_VERSION)
        if meta.get("base") not in {self._base, *self._former}:
            raise OtherGroupsError(
                f"{self.path} holds corrections of other groups: the run was clustered again after they "
                "were made. It was left as it is; move it away to start without corrections, or cluster "
                "again with the images, parameters and seed that it was made with"
            )

    def _read(self, connection: sqlite3.Connection, last_id: int) -> list[EditRow]:
        rows: list[EditRow] = []
        previous = self._checksum_of(connection, last_id)
        query = f"SELECT {_COLUMNS}, checksum FROM edits WHERE id > ? ORDER BY id"
        for *values, checksum in connection.execute(query, (last_id,)):
            row = EditRow(*values)
            try:
                previous = row_checksum(row, previous)
            except Exception as error:  # values of other types, which SQLite lets into any column
                raise FormatError(damaged(self.path, f"edit {row.id} isn't as it was written")) from error
            if checksum != previous or row.id != last_id + len(rows) + 1:
                raise FormatError(damaged(self.path, f"edit {row.id} isn't as it was written"))
            rows.append(row)
        return rows

    def _checksum_of(self, connection: sqlite3.Connection, id: int) -> int:
        if id == 0:
            return 0
        found = connection.execute("SELECT checksum FROM edits WHERE id = ?", (id,)).fetchone()
        if found is None:
            raise FormatError(damaged(self.path, f"edit {id} is gone"))
        return int(found[0])

    def _make(self) -> None:
        """Create the file, whole or not at all."""
        if self._is_there():
            return
        with self._explained():
            try:
                self._make_with("WAL")
            except sqlite3.OperationalError as error:
                if "I/O" not in str(error) and "protocol" not in str(error):
                    raise
                # A file system without shared memory: readers and writers then wait for each other.
                self._make_with("DELETE")
        self._is_there()

    def _make_with(self, journal_mode: str) -> None:
        partial = self.path.with_name(f"{PARTIAL_PREFIX}{self.path.name}.{secrets.token_hex(4)}")
        try:
            with closing(connect(partial, "rwc")) as connection:
                connection.execute(f"PRAGMA journal_mode = {journal_mode}")
                connection.executescript(_SCHEMA)
                meta = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "base": self._base}
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            put_in_place(partial, self.path)
        finally:
            for ending in ("", "-wal", "-shm", "-journal"):
                partial.with_name(partial.name + ending).unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite into those of Kinfold."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise explain(self.path, error) from error
        except sqlite3.DatabaseError as error:
            if not self.path.exists():
                raise UnwritableError(refusal_of(self.path, str(error))) from error
            raise FormatError(damaged(self.path, str(error))) from error


class Writer:
    """Reads and appends rows while :meth:`Store.writing` holds the lock."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        self._store, self._connection = store, connection

    def read_after(self, last_id: int) -> list[EditRow]:
        """Return the rows that other processes wrote after an id."""
        with self._store._explained():
            return self._store._read(self._connection, last_id)

    def append(
        self,
        last_id: int,
        client: str,
        kind: str,
        payload: dict[str, Any],
        rows: bytes | None = None,
        labels: bytes | None = None,
    ) -> EditRow:
        """Append a row after the last one, and return it."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        row = EditRow(last_id + 1, time, client, kind, text, rows, labels)
        with self._store._explained():
            checksum = row_checksum(row, self._store._checksum_of(self._connection, last_id))
            values = (row.id, time, client, kind, text, rows, labels, checksum)
            self._connection.execute(
                f"INSERT INTO edits ({_COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )
        return row


def row_checksum(row: EditRow, previous: int) -> int:
    """Return the CRC-32 of a row's values, continued from that of the row before.

    Each checksum covers all rows so far, so that a row that was removed or exchanged is noticed too.
    """
    head = json.dumps([row.id, row.time, row.client, row.kind, row.payload], ensure_ascii=True)
    checksum = zlib.crc32(head.encode(), previous)
    for blob in (row.rows, row.labels):
        checksum = zlib.crc32(b"" if blob is None else blob, checksum)
    return checksum
