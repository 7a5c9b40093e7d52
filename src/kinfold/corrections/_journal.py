"""The history of edits: which are undone, the state that the others give, and each as a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kinfold.corrections._additions import SplitAdditions
from kinfold.corrections._changes import Change, RowIndex, apply_change
from kinfold.corrections._edits import EDITS
from kinfold.corrections._state import Draft, State
from kinfold.corrections._store import EditRow, unpack_labels, unpack_rows
from kinfold.errors import FormatError, InputError, count_of
from kinfold.reading import is_count, parse_json, reason_of

UNDO, REDO = "undo", "redo"


@dataclass(eq=False)
class Record:
    """An edit, and whether it still holds.

    Attributes
    ----------
    row : EditRow
        The edit as stored.
    payload : dict
        Its payload, parsed.
    undone_by : int or None
        Id of the row that undid it last; None where it isn't undone.
    problem : str or None
        Why it can no longer be applied after another edit was undone; None where it can.
    """

    row: EditRow
    payload: dict[str, Any]
    undone_by: int | None = None
    problem: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the state includes the edit."""
        return self.undone_by is None and self.problem is None

    def change(self) -> Change:
        """Return the change that the edit makes; ``ValueError`` if the stored bytes are damaged."""
        rows = None if self.row.rows is None else unpack_rows(self.row.rows)
        labels = None if self.row.labels is None else unpack_labels(self.row.labels)
        if labels is not None and (rows is None or len(rows) != len(labels)):
            raise ValueError("rows and labels differ in number")
        return Change(self.row.kind, self.payload, rows, labels)


@dataclass(frozen=True)
class Turn:
    """An undo or a redo of the edit with the id ``edit``."""

    row: EditRow
    edit: int


class Journal:
    """The edits of one run, replayed.

    The state is the result of all edits that aren't undone, applied in the order of their ids, so that every
    process that reads the same rows has the same state. Some states along the way are kept, more of recent
    edits than of old ones, so that an undo replays few edits.

    Parameters
    ----------
    first : State
        The state before any edit.
    index : RowIndex
        Positions of the rows. Edits hold for those of their rows that are still there.
    additions : SplitAdditions, optional
        Images that came after a group was split, and the parts that they are in.
    """

    def __init__(self, first: State, index: RowIndex, additions: SplitAdditions | None = None) -> None:
        self._additions = additions or SplitAdditions()
        self.records: list[Record] = []
        self.turns: dict[int, Turn] = {}
        self.last_id = 0
        self.next_group = len(first.groups)
        self.state = first
        self._index = index
        self._states = {0: first}  # by the number of records that led to it
        self._redoable: list[Record] = []  # undone, with no new edit of the same client since
        self._numbers: dict[int, int] = {}  # index in records, by id of the edit

    def add(self, rows: Iterable[EditRow]) -> State:
        """Add further rows of the table, in order, and return the state after them.

        Raises
        ------
        FormatError
            A row is damaged.
        """
        oldest = len(self.records)
        for row in rows:
            if row.kind in (UNDO, REDO):
                oldest = min(oldest, self._turn(row))
            else:
                self._append(row)
            self.last_id = row.id
        if self.last_id != self.state.version:
            self._replay(oldest)
        return self.state

    def find(self, id: int) -> Record | None:
        """Return the edit with an id."""
        number = self._numbers.get(id)
        return None if number is None else self.records[number]

    def next_undo(self, client: str | None) -> Record | None:
        """Return the edit that an undo reverts: the last one that holds, of the client or of all."""
        for record in reversed(self.records):
            if record.holds and client in (None, record.row.client):
                return record
        return None

    def next_redo(self, client: str | None) -> Record | None:
        """Return the edit that a redo restores: the one undone last, of the client or of all."""
        undone = [record for record in self._redoable if client in (None, record.row.client)]
        return max(undone, key=lambda record: record.undone_by or 0, default=None)

    def _append(self, row: EditRow) -> None:
        if row.kind not in EDITS:
            raise FormatError(f"edit {row.id} is of the unknown kind {row.kind!r}")
        self._redoable = [record for record in self._redoable if record.row.client != row.client]
        self._numbers[row.id] = len(self.records)
        self.records.append(Record(row, _read_payload(row)))
        made = self.records[-1].payload.get("new_groups", ())
        if not isinstance(made, list | tuple) or not all(map(is_count, made)):
            raise FormatError(f"edit {row.id} can't be read: its new groups are no list of numbers")
        self.next_group = max([self.next_group, *(number + 1 for number in made)])

    def _turn(self, row: EditRow) -> int:
        """Undo or redo an edit; return its number."""
        edit = _read_payload(row).get("edit", 0)
        number = self._numbers.get(edit) if is_count(edit) else None
        if number is None:
            raise FormatError(f"edit {row.id} undoes or redoes an edit that isn't there")
        record = self.records[number]
        self.turns[row.id] = Turn(row, record.row.id)
        record.undone_by = row.id if row.kind == UNDO else None
        if row.kind == UNDO:
            self._redoable.append(record)
        elif record in self._redoable:
            self._redoable.remove(record)
        return number

    def _replay(self, oldest: int) -> None:
        """Apply the edits from index ``oldest`` on again, starting from the closest state that is kept."""
        # states after an edit that was undone or redone no longer hold
        self._states = {count: state for count, state in self._states.items() if count <= oldest}
        start = max(self._states)
        draft = Draft(self._states[start])
        total = len(self.records)
        for number in range(start, total):
            self._apply_change(draft, self.records[number])
            count = number + 1
            if count < total and _is_kept(count, total):
                self._states[count] = draft.freeze(self.records[number].row.id)
        self.state = self._states[total] = draft.freeze(self.last_id)
        self._states = {
            count: state for count, state in self._states.items() if count == total or _is_kept(count, total)
        }

    def _apply_change(self, draft: Draft, record: Record) -> None:
        record.problem = None
        if record.undone_by is not None:
            return
        try:
            change = self._index.keep(self._additions.extend(record.row, record.change()))
            apply_change(draft, change, self._index)
        except InputError as error:  # no longer possible without an edit that was undone
            record.problem = str(error)
        except Exception as error:  # whatever a payload holds that no edit has
            raise FormatError(f"edit {record.row.id} can't be read ({reason_of(error)})") from error


def _is_kept(count: int, total: int) -> bool:
    """Tell whether to keep the state after ``count`` of ``total`` edits: about one per power of two of age.

    So memory grows with the logarithm of the number of edits, and the replay after an undo is in proportion
    to the age of the edit that is undone.
    """
    age = total - count
    return count == 0 or count % (1 << max(0, age.bit_length() - 1)) == 0


def _read_payload(row: EditRow) -> dict[str, Any]:
    try:
        payload = parse_json(row.payload)
    except ValueError as error:
        raise FormatError(f"edit {row.id} can't be read ({error})") from error
    if not isinstance(payload, dict):
        raise FormatError(f"edit {row.id} can't be read")
    return payload


@dataclass(frozen=True)
class Entry:
    """An edit in the history, described in a sentence.

    Attributes
    ----------
    id : int
        The version of the state that it made.
    time : str
        UTC, ISO 8601.
    client : str
        Who made it.
    kind : str
        "rename", "merge", …; from :meth:`Corrections.entry` also "undo" and "redo".
    text : str
        Description, like ``moved 12 images to group 3 “cats”``.
    n_rows : int
        Number of images that it concerns; 0 for names and locks.
    undone : bool
        Whether it was undone.
    problem : str or None
        Why it has no effect although it wasn't undone: an edit that it depends on was.
    """

    id: int
    time: str
    client: str
    kind: str
    text: str
    n_rows: int
    undone: bool
    problem: str | None = None


def describe(record: Record, names: Mapping[int, str]) -> Entry:
    """Return the entry of an edit; ``names`` are the current ones of the groups."""
    row, n_rows = record.row, int(record.payload.get("n_rows", 0))
    text = _TEXTS[row.kind](record.payload, n_rows, names)
    problem = record.problem if record.undone_by is None else None
    return Entry(row.id, row.time, row.client, row.kind, text, n_rows, record.undone_by is not None, problem)


def describe_turn(row: EditRow, edit: Entry) -> Entry:
    """Return the entry of an undo or a redo of an edit."""
    verb = {UNDO: "undid", REDO: "did again"}[row.kind]
    return Entry(row.id, row.time, row.client, row.kind, f"{verb}: {edit.text}", edit.n_rows, False)


def _group(number: int, names: Mapping[int, str]) -> str:
    name = names.get(number)
    return f"group {number} “{name}”" if name else f"group {number}"


def _groups(numbers: Iterable[int], names: Mapping[int, str]) -> str:
    shown = [_group(number, names) for number in numbers]
    if len(shown) > 5:
        return f"{len(shown)} groups"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _rename(payload: Mapping[str, Any], n: int, names: Mapping[int, str]) -> str:
    if payload["name"] is None:
        return f"took the name of group {payload['group']} back"
    return f"called group {payload['group']} “{payload['name']}”"


def _move(payload: Mapping[str, Any], n: int, names: Mapping[int, str]) -> str:
    new = "the new " if payload["new_groups"] else ""
    return f"moved {count_of(n, 'image')} to {new}{_group(payload['group'], names)}"


def _mark(payload: Mapping[str, Any], n: int, names: Mapping[int, str]) -> str:
    if payload["mark"] is None:
        return f"took the mark off {count_of(n, 'image')}"
    return f"marked {count_of(n, 'image')} as {payload['mark']}"


def _split(payload: Mapping[str, Any], n: int, names: Mapping[int, str]) -> str:
    new = payload["new_groups"]
    return f"split {_group(payload['group'], names)} into {1 + len(new)}, new: {_groups(new, names)}"


def _lock(payload: Mapping[str, Any], n: int, names: Mapping[int, str]) -> str:
    return f"{'locked' if payload['locked'] else 'unlocked'} {_groups(payload['groups'], names)}"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any], int, Mapping[int, str]], str]] = {
    "rename": _rename,
    "merge": lambda payload, n, names: (
        f"merged {_groups(payload['groups'], names)} into {_group(payload['into'], names)}"
    ),
    "split": _split,
    "move": _move,
    "mark": _mark,
    "lock": _lock,
    "confirm": lambda payload, n, names: f"confirmed {count_of(n, 'image')}",
    "accept": lambda payload, n, names: f"accepted {count_of(n, 'proposal')}",
}
