"""Edits in plain words, for the history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kinfold.corrections._journal import REDO, UNDO, Record, Row
from kinfold.errors import count_of


@dataclass(frozen=True)
class Entry:
    """An edit in the history.

    Attributes
    ----------
    id : int
        Its version.
    time : str
        UTC, ISO 8601.
    client : str
        Who made it.
    kind : str
        "rename", "merge", …; of :meth:`Corrections.entry` also "undo" and "redo".
    text : str
        In plain words: ``moved 12 images to group 3 “cats”``.
    n_rows : int
        Images that it was about; 0 for names and locks.
    undone : bool
        It was taken back.
    problem : str or None
        Why it has no effect although it wasn't taken back: another edit was, which it needs.
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
    """Return the entry of an edit; ``names`` are those of the groups now."""
    row, n_rows = record.row, int(record.payload.get("n_rows", 0))
    text = _TEXTS[row.kind](record.payload, n_rows, names)
    problem = record.problem if record.undone_by is None else None
    return Entry(row.id, row.time, row.client, row.kind, text, n_rows, record.undone_by is not None, problem)


def describe_turn(row: Row, edit: Entry) -> Entry:
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
