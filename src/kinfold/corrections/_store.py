"""corrections.sqlite: a table that rows are only ever added to, one per edit, undo and redo."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kinfold.corrections._journal import Row
from kinfold.corrections._sqlite import connect, connect_copy, damaged, explain, log_of, put_in_place
from kinfold.errors import FormatError
from kinfold.storage import PARTIAL_PREFIX, check_format_version

CORRECTIONS_NAME = "corrections.sqlite"
FORMAT = "kinfold-corrections"
FORMAT_VERSION = 1
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


class Store:
    """The file; several processes may have it open.

    Not for several threads at once, but that one may wait in :meth:`hold` while others read.

    Parameters
    ----------
    path : Path
        Where it is, or will be once :meth:`prepare` is first called.
    base : str
        Hash of what the edits are edits of.
    """

    def __init__(self, path: Path, base: str) -> None:
        self.path = path
        self._base = base
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._seen: object = None  # the file that was opened, so that another in its place is noticed

    def read_after(self, last_id: int) -> list[Row]:
        """Return all rows after an id, in order; none where there is no file.

        Raises
        ------
        FormatError
            The file is damaged, foreign, of a newer format or of other groups. It is left as it is.
        """
        if not self._is_there():
            return []
        with self._explained():
            if self._reader is None:
                self._reader = self._open_reader()
            return self._read(self._reader, last_id)

    def prepare(self) -> None:
        """Make ready for :meth:`hold`: the file is made if there is none.

        Raises
        ------
        InputError
            The folder can't be written to.
        """
        self._make()
        with self._explained():
            if self._writer is None:
                self._writer = self._open_writer()

    def hold(self) -> None:
        """Hold the file for this process alone, waiting for others that do; :meth:`writing` follows.

        Raises
        ------
        InputError
            Another program holds the file, and goes on holding it.
        """
        assert self._writer is not None
        with self._explained():
            if self._writer.in_transaction:  # of a thread that was interrupted between the two
                self._writer.execute("ROLLBACK")
            self._writer.execute("BEGIN IMMEDIATE")

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Write to the held file: all is on the disk when the context ends, nothing if the body raises."""
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
        """Close the file; it may be used again. What is damaged isn't tidied: that would write to it."""
        alone = self._reader is not None and self._writer is None
        if tidy and alone and os.access(self.path.parent, os.W_OK):
            with suppress(sqlite3.Error):  # whoever may write and leaves last clears away the log
                self._writer = connect(self.path, "rw")
                self._writer.execute("SELECT count(*) FROM meta").fetchone()
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def _is_there(self) -> bool:
        """Tell whether there is a file; complain if it isn't the one that was there before."""
        try:
            status = self.path.stat()
            identity = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            identity = None
            log = log_of(self.path)
            if log is not None and not self.path.exists():
                raise FormatError(
                    f"{self.path} is missing, but {log.name} is there, which belongs to it; put the file "
                    "back, or move that one away too to begin without corrections"
                ) from None
        if self._seen is not None and identity != self._seen:
            raise FormatError(
                f"{self.path} was removed or replaced while it was in use; put it back, or open the run anew"
            )
        self._seen = identity
        return identity is not None

    def _open_reader(self) -> sqlite3.Connection:
        reader = connect(self.path, "ro")
        try:
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            reader.close()
            if os.access(self.path.parent, os.W_OK):
                raise
            reader = connect_copy(self.path)
        try:
            self._check_meta(reader)
        except BaseException:
            reader.close()
            raise
        return reader

    def _open_writer(self) -> sqlite3.Connection:
        """Open the file for writing, once it is known to be ours: another process may have put it there."""
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
                "Move it away; then restore it from a copy, or go on without corrections"
            )
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("format") != FORMAT:
            raise FormatError(
                f"{self.path} isn't a file of Kinfold's corrections: it has the format "
                f"{meta.get('format')!r}; it was left as it is. Move it away"
            )
        version = meta.get("format_version", "")
        check_format_version(self.path, int(version) if version.isdecimal() else version, FORMAT_VERSION)
        if meta.get("base") != self._base:
            raise FormatError(
                f"{self.path} holds corrections of other groups: the run was clustered anew after they were "
                "made. It was left as it is; move it away to begin anew, or cluster again with the images, "
                "parameters and seed that it was made with"
            )

    def _read(self, connection: sqlite3.Connection, last_id: int) -> list[Row]:
        rows: list[Row] = []
        previous = self._checksum_of(connection, last_id)
        query = f"SELECT {_COLUMNS}, checksum FROM edits WHERE id > ? ORDER BY id"
        for *values, checksum in connection.execute(query, (last_id,)):
            row = Row(*values)
            previous = row_checksum(row, previous)
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
        """Make the file, whole or not at all."""
        if self._is_there():
            return
        partial = self.path.with_name(f"{PARTIAL_PREFIX}{self.path.name}.{secrets.token_hex(4)}")
        try:
            with self._explained(), closing(connect(partial, "rwc")) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
                meta = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "base": self._base}
                connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            put_in_place(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
        self._is_there()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in plain words what SQLite says."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise explain(self.path, error) from error
        except sqlite3.DatabaseError as error:
            raise FormatError(damaged(self.path, str(error))) from error


class Writer:
    """What :meth:`Store.writing` gives: the file, held."""

    def __init__(self, store: Store, connection: sqlite3.Connection) -> None:
        self._store, self._connection = store, connection

    def read_after(self, last_id: int) -> list[Row]:
        """Return what others wrote after an id."""
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
    ) -> Row:
        """Add a row after the last one."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        text = json.dumps(payload, ensure_ascii=False, sort_keys=True)
        row = Row(last_id + 1, time, client, kind, text, rows, labels)
        with self._store._explained():
            checksum = row_checksum(row, self._store._checksum_of(self._connection, last_id))
            values = (row.id, time, client, kind, text, rows, labels, checksum)
            self._connection.execute(
                f"INSERT INTO edits ({_COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )
        return row


def row_checksum(row: Row, previous: int) -> int:
    """Return the CRC-32 of a row's values, going on from that of the row before."""
    head = json.dumps([row.id, row.time, row.client, row.kind, row.payload], ensure_ascii=True)
    checksum = zlib.crc32(head.encode(), previous)
    for blob in (row.rows, row.labels):
        checksum = zlib.crc32(b"" if blob is None else blob, checksum)
    return checksum
