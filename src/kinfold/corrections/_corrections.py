"""The corrections of a run: opened, edited, undone, by several people at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.corrections._changes import Change, RowIndex, SplitParts, carry_out, prepare_change
from kinfold.corrections._edits import Edit, Split
from kinfold.corrections._journal import REDO, UNDO, Entry, Journal, Record, describe, describe_turn
from kinfold.corrections._state import Draft, RunGroups, State, first_state, names_of
from kinfold.corrections._store import (
    CORRECTIONS_NAME,
    EditRow,
    Store,
    Writer,
    damaged,
    pack_labels,
    pack_rows,
)
from kinfold.errors import FormatError, InputError

if TYPE_CHECKING:
    from kinfold.run import Run

_MOST_CLIENT = 200  # characters


class Corrections:
    """What people corrected in a run. Open one with :meth:`open`; close it, or use it as a context.

    All threads may share one, and several processes may have the same run open: edits of all of them are
    rows of one table, and everybody ends in the same state. An edit is on the disk before :meth:`apply`
    returns. Nothing that was written is ever changed: undo and redo are rows too.

    Attributes
    ----------
    run : Run
        Whose corrections these are.
    path : Path
        ``RUN/corrections.sqlite``; not there before the first edit.
    """

    def __init__(self, run: Run, *, write: bool, source: str | Path | None) -> None:
        self.run = run
        self.path = run.path / CORRECTIONS_NAME
        self._base = RunGroups(run)
        self._store = Store(self.path, self._base.hash)
        self._write = write
        self._source = source
        self._index = RowIndex(run.assignments["row"].to_numpy())
        self._journal = Journal(first_state(run), self._index)
        self._guard = threading.RLock()
        self._writers = threading.Lock()  # held while waiting for other programs, when _guard isn't

    @classmethod
    def open(cls, run: Run, *, write: bool = True, source: str | Path | None = None) -> Corrections:
        """Open the corrections of a run; nothing is created before the first edit.

        Parameters
        ----------
        run : Run
            The run.
        write : bool, default True
            False refuses all edits. A folder that can't be written to does so too.
        source : path, optional
            Where the features are now, if they were moved; a split needs them.

        Raises
        ------
        FormatError
            The file is damaged, foreign, of a newer Kinfold, or holds corrections of other groups (the run
            was clustered anew). It is left as it is.
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
        """The newest state, edits of other processes included; a snapshot that never changes."""
        return self.sync()

    @property
    def refusal(self) -> str | None:
        """Why edits are refused; None where they aren't."""
        if not self._write:
            return "this run was opened for viewing alone: it can't be corrected here"
        if not os.access(self.run.path, os.W_OK):
            return f"{self.run.path} can't be written to: the run can be looked at, but not corrected"
        return None

    def check_writable(self) -> None:
        """Raise :class:`InputError` where edits are refused."""
        if (refusal := self.refusal) is not None:
            raise InputError(refusal)

    def sync(self) -> State:
        """Take in what other processes wrote, and return the state.

        Raises
        ------
        FormatError
            The file was damaged or replaced, or the run was clustered anew, since it was opened.
        """
        with self._guard:
            self._base.check()
            return self._take_in(self._store.read_after(self._journal.last_id))

    def apply(self, edit: Edit, *, client: str = "") -> State:
        """Make an edit; it is on the disk when this returns.

        Parameters
        ----------
        edit : Edit
            What to do.
        client : str, default ""
            Who does it: each client undoes its own edits.

        Returns
        -------
        State
            After the edit, whose id is the state's version.

        Raises
        ------
        InputError
            It isn't possible: a group is gone or locked, a row isn't the run's, or edits are refused
            (see :attr:`refusal`). Nothing is written.
        """
        self._check(client)
        ready = self._cluster_parts(edit) if isinstance(edit, Split) else edit

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
                self._prepare(ready)  # no file is made for what is refused
        return self._write_row(append)

    def undo(self, client: str | None = None) -> State:
        """Take back the last edit of a client that has an effect, or of all clients (None).

        Raises
        ------
        InputError
            There is none, or edits are refused.
        """
        return self._turn(UNDO, client)

    def redo(self, client: str | None = None) -> State:
        """Bring back the edit of a client that was undone last, or of all clients (None).

        A new edit of a client ends what can be redone of its own.

        Raises
        ------
        InputError
            There is none, or edits are refused.
        """
        return self._turn(REDO, client)

    def can_undo(self, client: str | None = None) -> bool:
        """Tell whether there is something to undo."""
        with self._guard:
            return self._journal.next_undo(client) is not None

    def can_redo(self, client: str | None = None) -> bool:
        """Tell whether there is something to redo."""
        with self._guard:
            return self._journal.next_redo(client) is not None

    def history(self, limit: int = 100, before: int | None = None) -> list[Entry]:
        """Return the edits, newest first: at most ``limit`` of them, with ids below ``before``."""
        state = self.sync()
        names = names_of(self.run, state)
        with self._guard:
            records = [record for record in self._journal.records if before is None or record.row.id < before]
            return [describe(record, names) for record in reversed(records[max(0, len(records) - limit) :])]

    def entry(self, version: int) -> Entry:
        """Return what made a version: an edit, an undo or a redo; :class:`InputError` if there is none."""
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
        """Add the row that ``append`` makes; while another program holds the file, reading goes on."""
        with self._writers:
            with self._guard:
                self._base.check()
                self._store.prepare()
            self._store.hold()
            with self._guard:
                with self._store.writing() as writer:
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

    def _take_in(self, rows: list[EditRow]) -> State:
        try:
            return self._journal.add(rows)
        except FormatError as error:
            raise FormatError(damaged(self.path, str(error))) from error

    def _prepare(self, edit: Edit | SplitParts) -> tuple[Change, int]:
        """Return what is to be stored of an edit, having tried it on the newest state known."""
        state = self._journal.state
        change = prepare_change(edit, state, self._journal.next_group)
        return change, carry_out(Draft(state), change, self._index)

    def _cluster_parts(self, edit: Split) -> SplitParts:
        from kinfold.corrections._changes import split_group

        return split_group(self.run, self.sync(), edit, source=self._source)

    def _check(self, client: str) -> None:
        if not isinstance(client, str) or len(client) > _MOST_CLIENT or not client.isprintable():
            raise InputError(f"a client is a printable text of at most {_MOST_CLIENT} characters")
        self.check_writable()
