"""The corrections of a run: open, edit, undo and redo, from several threads and processes at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections._additions import SplitAdditions, former_bases
from kinfold.corrections._changes import (
    Change,
    RowIndex,
    SplitParts,
    apply_change,
    prepare_change,
    split_group,
)
from kinfold.corrections._edits import Edit, Split
from kinfold.corrections._journal import REDO, UNDO, Entry, Journal, Record, describe, describe_turn
from kinfold.corrections._places import corrections_name
from kinfold.corrections._state import Draft, RunGroups, State, first_state, names_of
from kinfold.corrections._store import (
    EditRow,
    Store,
    Writer,
    damaged,
    pack_labels,
    pack_rows,
    refusal_of,
)
from kinfold.errors import FormatError, InputError
from kinfold.locks import can_lock

if TYPE_CHECKING:
    from kinfold.run import Run

_MOST_CLIENT = 200  # characters; the name is stored with every edit


class Corrections:
    """The corrections of a run. Open them with :meth:`open`; close them, or use a ``with`` block.

    All threads may share one object, and several processes may have the same run open: the edits of all are
    rows of one table, and all arrive at the same state. An edit is on disk before :meth:`apply` returns.
    Rows are never changed: undo and redo are appended as rows too.

    Attributes
    ----------
    run : Run
        The run that is corrected.
    path : Path
        ``RUN/corrections.sqlite``, or the file of the level that is shown; the first edit creates it.
    """

    def __init__(self, run: Run, *, write: bool, source: str | Path | None) -> None:
        self.run = run
        self.path = run.path / corrections_name(run.level)
        self._base = RunGroups(run)
        self._store = Store(self.path, self._base.hash, former_bases(run, self.path.name))
        self._write = write
        self._source = source
        self._index = RowIndex(run.assignments["row"].to_numpy())
        self._journal = Journal(first_state(run), self._index, SplitAdditions.of(run, self.path.name))
        self._guard = threading.RLock()
        self._writers = (
            threading.Lock()
        )  # one writer waits for other processes at a time; reading, under _guard, continues meanwhile

    @classmethod
    def open(cls, run: Run, *, write: bool = True, source: str | Path | None = None) -> Corrections:
        """Open the corrections of a run; nothing is created before the first edit.

        Parameters
        ----------
        run : Run
            The run.
        write : bool, default True
            False refuses all edits, as a folder without write permission does.
        source : path, optional
            Where the features are now, if they were moved; a split needs them.

        Raises
        ------
        FormatError
            The file is damaged, not one of Kinfold, of a newer Kinfold, or holds corrections of other
            clusters (the run was clustered again). It is left as it is.
        """
        corrections = cls(run, write=write, source=source)
        try:
            corrections.sync()
        except BaseException:
            corrections._store.close(tidy=False)
            raise
        return corrections

    @property
    def state(self) -> State:
        """The latest state, with the edits of other processes; a snapshot that never changes."""
        return self.sync()

    @property
    def refusal(self) -> str | None:
        """Why edits are refused; None where they aren't."""
        if not self._write:
            return "this run was opened read-only: it can't be corrected here"
        if not os.access(self.run.path, os.W_OK):
            return f"{self.run.path} can't be written to: the run can be viewed, but not corrected"
        if not can_lock(self.run.path):
            return refusal_of(self.path, "it has no locks")
        return None

    def check_writable(self) -> None:
        """Raise :class:`InputError` where edits are refused."""
        if (refusal := self.refusal) is not None:
            raise InputError(refusal)

    def sync(self) -> State:
        """Read the edits of other processes, and return the state.

        Raises
        ------
        FormatError
            The file was damaged or replaced, or the run was clustered again, since it was opened.
        """
        with self._guard:
            self._base.check()
            return self._take_in(self._store.read_after(self._journal.last_id))

    def apply(self, edit: Edit, *, client: str = "") -> State:
        """Make an edit; it is on disk when this returns.

        Parameters
        ----------
        edit : Edit
            The edit.
        client : str, default ""
            Who makes it: each client undoes its own edits.

        Returns
        -------
        State
            The state after the edit; its version is the id of the edit.

        Raises
        ------
        InputError
            The edit isn't possible: a value is invalid, a group was merged away or is locked, a row isn't one
            of the run, or edits are refused (see :attr:`refusal`). Nothing is written.
        """
        self._check(client)
        # A split is clustered before the lock is taken: this may take seconds, and others go on editing.
        ready: Edit | SplitParts = edit
        if isinstance(edit, Split):
            ready = split_group(self.run, self.sync(), edit, source=self._source)

        def append(writer: Writer) -> EditRow:
            change, n_rows = self._prepare(ready)
            return writer.append(
                self._journal.last_id,
                client,
                change.kind,
                {**change.payload, "n_rows": n_rows},
                None if change.rows is None else pack_rows(change.rows),
                None if change.labels is None else pack_labels(change.labels),
            )

        with self._guard:
            if not self.path.exists():
                self._prepare(ready)  # raises before a file is created for an edit that isn't possible
        return self._write_row(append)

    def undo(self, client: str | None = None) -> State:
        """Undo the last edit that has an effect, of one client or of all (None).

        Raises
        ------
        InputError
            There is none, or edits are refused.
        """
        return self._turn(UNDO, client)

    def redo(self, client: str | None = None) -> State:
        """Redo the edit that was undone last, of one client or of all (None).

        After a new edit of a client, its earlier undone edits can't be redone.

        Raises
        ------
        InputError
            There is none, or edits are refused.
        """
        return self._turn(REDO, client)

    def can_undo(self, client: str | None = None) -> bool:
        """Tell whether an edit can be undone, of one client or of all (None)."""
        with self._guard:
            return self._journal.next_undo(client) is not None

    def can_redo(self, client: str | None = None) -> bool:
        """Tell whether an edit can be redone, of one client or of all (None)."""
        with self._guard:
            return self._journal.next_redo(client) is not None

    def history(self, limit: int = 100, before: int | None = None) -> list[Entry]:
        """Return the edits, newest first: at most ``limit`` of them, with ids below ``before``."""
        state = self.sync()
        names = names_of(self.run, state)
        with self._guard:
            records = [record for record in self._journal.records if before is None or record.row.id < before]
            return [describe(record, names) for record in reversed(records[max(0, len(records) - limit) :])]

    def changes(self) -> list[tuple[Change, str, str]]:
        """Return all edits, undone ones too, each with the time and client of its last row.

        That is the row of the edit itself, or of the undo or redo that came last.
        """
        self.sync()
        with self._guard:
            latest = {record.row.id: record.row for record in self._journal.records}
            latest |= {turn.edit: turn.row for _, turn in sorted(self._journal.turns.items())}
            return [
                (self._read(record), latest[record.row.id].time, latest[record.row.id].client)
                for record in self._journal.records
            ]

    def holding(self) -> list[Change]:
        """Return the edits that the state includes."""
        self.sync()
        with self._guard:
            return [self._read(record) for record in self._journal.records if record.holds]

    def splits(self) -> list[tuple[EditRow, Change]]:
        """Return the splits that the state includes, each with its row of the file."""
        self.sync()
        with self._guard:
            return [
                (record.row, self._read(record))
                for record in self._journal.records
                if record.holds and record.row.kind == "split"
            ]

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return where ascending source rows are in the arrays of a state."""
        return self._index.places(rows)

    def entry(self, version: int) -> Entry:
        """Return the edit, undo or redo that made a version; :class:`InputError` if there is none."""
        names = names_of(self.run, self.sync())
        with self._guard:
            record = self._journal.find(version)
            if record is not None:
                return describe(record, names)
            turn = self._journal.turns.get(version)
            if turn is None:
                raise InputError(f"there is no version {version}")
            edit = self._journal.find(turn.edit)
            assert edit is not None
            return describe_turn(turn.row, describe(edit, names))

    def close(self) -> None:
        """Close the file."""
        with self._writers, self._guard:
            self._store.close()

    def __enter__(self) -> Corrections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn(self, kind: str, client: str | None) -> State:
        self._check(client or "")
        self._find_turn(kind, client)

        def append(writer: Writer) -> EditRow:
            payload: dict[str, Any] = {"edit": self._find_turn(kind, client).row.id}
            return writer.append(self._journal.last_id, client or "", kind, payload)

        return self._write_row(append)

    def _write_row(self, append: Callable[[Writer], EditRow]) -> State:
        """Append the row that ``append`` makes; reading goes on while another program holds the file."""
        with self._writers:
            with self._guard:
                self._base.check()
                self._store.prepare()
            self._store.hold()
            with self._guard:
                with self._store.writing() as writer:
                    # again, under the lock: both may have changed while this waited for another process
                    self._base.check()
                    self._take_in(writer.read_after(self._journal.last_id))
                    row = append(writer)
                return self._journal.add([row])

    def _find_turn(self, kind: str, client: str | None) -> Record:
        with self._guard:
            self.sync()
            find = self._journal.next_undo if kind == UNDO else self._journal.next_redo
            record = find(client)
        if record is None:
            raise InputError(f"there is nothing to {kind}")
        return record

    def _read(self, record: Record) -> Change:
        try:
            return self._index.keep(record.change())
        except ValueError as error:
            raise FormatError(damaged(self.path, f"edit {record.row.id} can't be read")) from error

    def _take_in(self, rows: list[EditRow]) -> State:
        try:
            return self._journal.add(rows)
        except FormatError as error:
            raise FormatError(damaged(self.path, str(error))) from error

    def _prepare(self, edit: Edit | SplitParts) -> tuple[Change, int]:
        """Return the change to store for an edit, after applying it to a draft of the latest known state."""
        state = self._journal.state
        change = prepare_change(edit, state, self._journal.next_group)
        return change, apply_change(Draft(state), change, self._index)

    def _check(self, client: str) -> None:
        if not isinstance(client, str) or len(client) > _MOST_CLIENT or not client.isprintable():
            raise InputError(f"client must be a printable string of at most {_MOST_CLIENT} characters")
        self.check_writable()
