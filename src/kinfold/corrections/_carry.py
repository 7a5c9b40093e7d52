"""Corrections that hold at another level too: carried over, the latest of both levels wins.

A name, a lock or the place of an image is carried where the group that it is about holds the same images at
both levels. What a person did last counts, at whichever level that was: each level has its own history, and a
carried edit is one more entry of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections._corrections import Corrections
from kinfold.corrections._edits import MARKS, Accept, Confirm, Edit, Lock, Mark, MarkName, Move, Rename
from kinfold.corrections._state import State
from kinfold.errors import FormatError

if TYPE_CHECKING:
    from kinfold.levels import GroupMatch

CLIENT = "kinfold level"
_ROW_KINDS = ("move", "mark", "confirm", "accept")
_NEVER = -np.inf
_NONE = -1
_MARKS: Mapping[int, MarkName | None] = {0: None, 1: "wrong", 2: "noise"}
_WRONG, _NOISE = (1 + MARKS.index(mark) for mark in ("wrong", "noise"))


@dataclass(frozen=True)
class Carried:
    """What became of the corrections of a level that is left.

    Attributes
    ----------
    carried : mapping of str to int
        What the new level got: names, locks, marks, moves (images placed or confirmed by hand), proposals
        (images whose proposal was accepted). What it had already isn't counted.
    left : mapping of str to int
        What stays with the level that is left, and is there again with it: the same, and merges, splits and
        groups (made by hand).
    same : mapping of int to int
        Groups that hold the same images at both levels, with the number at the new one.
    """

    carried: Mapping[str, int]
    left: Mapping[str, int]
    same: Mapping[int, int]


@dataclass
class _Times:
    """When a person last did something about a group's name or lock, or about an image, in seconds."""

    rows: NDArray[np.float64]
    names: dict[int, float] = field(default_factory=dict)
    locks: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, corrections: Corrections) -> _Times:
        found = cls(np.full(len(corrections.state.labels), _NEVER))
        for change, time, client in corrections.changes():
            seconds = _read_time(time)
            if change.kind == "rename":
                found._note(found.names, [change.payload["group"]], seconds)
            # That it unlocks groups for a moment says nothing of what a person wants.
            elif change.kind == "lock" and (client != CLIENT or change.payload["locked"]):
                found._note(found.locks, change.payload["groups"], seconds)
            elif change.kind in _ROW_KINDS and change.rows is not None:
                places = corrections.places(change.rows)
                found.rows[places] = np.maximum(found.rows[places], seconds)
        return found

    @staticmethod
    def _note(times: dict[int, float], groups: Iterable[int], seconds: float) -> None:
        for group in groups:
            times[group] = max(times.get(group, _NEVER), seconds)


def carry(old: Corrections, new: Corrections, match: GroupMatch) -> Carried:
    """Make those edits of one level at another that make sense there.

    Parameters
    ----------
    old : Corrections
        Of the level that is left.
    new : Corrections
        Of the new level, which may have some already.
    match : GroupMatch
        The groups of the old level beside those of the new one.
    """
    before, after = old.state, new.state
    changed, other = reshaped(before), reshaped(after)
    same = {a: b for a, b in match.same.items() if a not in changed and b not in other}
    within = {a: b for a, b in match.within.items() if a not in changed and b not in other} | same
    times, latest = _Times.of(old), _Times.of(new)
    carried, left = Counter[str](), Counter[str]()

    renames = _rename(before, after, same, times, latest, left)
    moves = _RowEdits.find(before, after, same, within, times.rows, latest.rows, old.run.labels)
    moves.respect_locks(before, after, same)
    rows = new.run.assignments["row"].to_numpy()
    placed = list(moves.edits(after, rows))
    wanted = _lock(before, after, same, times, latest, left)
    carried.update(names=len(renames), locks=sum(after.groups[b].locked != on for b, on in wanted.items()))
    for edit in renames:
        new.apply(edit, client=CLIENT)
    # Locked groups let nothing in: those that both levels have are opened until all is in its place.
    opened = [b for b in wanted if after.groups[b].locked and (placed or not wanted[b])]
    if opened:
        new.apply(Lock(opened, locked=False), client=CLIENT)
    for edit in placed:
        new.apply(edit, client=CLIENT)
    closed = [b for b, on in wanted.items() if on and not new.state.groups[b].locked]
    if closed:
        new.apply(Lock(closed), client=CLIENT)
    carried.update(moves.carried)
    left.update(moves.left)
    left.update(_count_shapes(old))
    return Carried(_counted(carried), _counted(left), same)


def _counted(counter: Counter[str]) -> dict[str, int]:
    return {what: n for what, n in sorted(counter.items()) if n}


def reshaped(state: State) -> set[int]:
    """Return the groups whose images are other ones since they were merged or split by hand."""
    found: set[int] = set()
    for group in state.groups.values():
        found |= set() if group.alive else {group.id}
        found |= {other for other in (group.into, group.origin) if other is not None}
    return found


def _count_shapes(corrections: Corrections) -> Counter[str]:
    """Return how many merges, splits and new groups of a level hold: they are of its own groups."""
    counts = Counter[str]()
    for change in corrections.holding():
        if change.kind in ("merge", "split"):
            counts[f"{change.kind}s"] += 1
        elif change.kind == "move" and change.new_groups:
            counts["groups"] += 1
    return counts


def _rename(
    before: State,
    after: State,
    same: Mapping[int, int],
    times: _Times,
    latest: _Times,
    left: Counter[str],
) -> list[Edit]:
    edits: list[Edit] = []
    for group, seconds in sorted(times.names.items()):
        if group not in before.groups:  # made by an edit that was undone
            continue
        name, target = before.groups[group].name, same.get(group)
        if target is None:
            left["names"] += name is not None
        elif name != after.groups[target].name and seconds >= latest.names.get(target, _NEVER):
            edits.append(Rename(target, name))
    return edits


def _lock(
    before: State,
    after: State,
    same: Mapping[int, int],
    times: _Times,
    latest: _Times,
    left: Counter[str],
) -> dict[int, bool]:
    """Return for each group of the new level that the old one has too whether it will be locked."""
    wanted = {b: after.groups[b].locked for b in same.values()}
    for group, seconds in times.locks.items():
        if group not in before.groups:
            continue
        target, locked = same.get(group), before.groups[group].locked
        if target is None:
            left["locks"] += locked
        elif seconds >= latest.locks.get(target, _NEVER):
            wanted[target] = locked
    return {b: on for b, on in wanted.items() if on or after.groups[b].locked}


@dataclass
class _RowEdits:
    """What images get at the new level: places in the arrays of the states, and groups there."""

    places: NDArray[np.int64]  # placed by hand
    targets: NDArray[np.int32]
    accepted: NDArray[np.int64]
    accepted_targets: NDArray[np.int32]
    marks: dict[int, NDArray[np.int64]]  # by code, 0 where a mark is taken off
    left: Counter[str]
    carried: Counter[str] = field(default_factory=Counter)

    @classmethod
    def find(
        cls,
        before: State,
        after: State,
        same: Mapping[int, int],
        within: Mapping[int, int],
        times: NDArray[np.float64],
        latest: NDArray[np.float64],
        clusters: NDArray[np.int32],
    ) -> _RowEdits:
        """Compare the images that were edited at the old level with what they are at the new one.

        An image that a person put into a group belongs into whatever holds all of that group. That it isn't
        of its group ("wrong") says nothing of a larger one, that it is of none ("noise") does.
        """
        size = max(before.groups) + 1
        held, holding = _as_array(same, size), _as_array(within, size)
        touched = np.flatnonzero(times > _NEVER)
        labels, marks, by_hand = before.labels[touched], before.marks[touched], before.by_hand[touched]
        newer = times[touched] >= latest[touched]
        target = holding[labels]
        now = (after.labels[touched], after.marks[touched], after.by_hand[touched])
        left = Counter[str]()

        done = (now[0] == target) & now[2] & (now[1] == 0)
        left["moves"] = int((by_hand & (target == _NONE)).sum())
        placed = by_hand & (target != _NONE) & newer & ~done
        accept = ~by_hand & (marks == 0) & (labels != clusters[touched])
        left["proposals"] = int((accept & (target == _NONE)).sum())
        accept &= (target != _NONE) & newer & (now[0] != target) & ~now[2] & (now[1] != _NOISE)

        is_same = held[labels] == now[0]
        wrong = marks == _WRONG
        left["marks"] = int((wrong & ~is_same).sum())
        found = {
            _WRONG: wrong & is_same & newer & (now[1] != _WRONG),
            _NOISE: (marks == _NOISE) & newer & (now[1] != _NOISE),
            0: ~by_hand & (marks == 0) & newer & ((now[1] == _NOISE) | ((now[1] == _WRONG) & is_same)),
        }
        return cls(
            touched[placed],
            target[placed],
            touched[accept],
            target[accept],
            {code: touched[which] for code, which in found.items()},
            left,
        )

    def respect_locks(self, before: State, after: State, same: Mapping[int, int]) -> None:
        """Leave out what would enter or leave groups that are locked and of the new level alone."""
        shared = set(same.values())
        sealed = [b for b, group in after.groups.items() if group.locked and b not in shared]
        if not sealed:
            return
        free = ~(np.isin(after.labels[self.places], sealed) | np.isin(self.targets, sealed))
        self.left["moves"] += int((~free).sum())
        self.places, self.targets = self.places[free], self.targets[free]
        free = ~(np.isin(after.labels[self.accepted], sealed) | np.isin(self.accepted_targets, sealed))
        self.left["proposals"] += int((~free).sum())
        self.accepted, self.accepted_targets = self.accepted[free], self.accepted_targets[free]
        for code, places in self.marks.items():
            free = ~np.isin(after.labels[places], sealed)
            self.left["marks"] += int((~free).sum())
            self.marks[code] = places[free]

    def edits(self, after: State, rows: NDArray[np.int64]) -> Iterable[Edit]:
        """Yield the edits that do it; ``rows`` has the source row of every place."""
        self.carried.update(
            moves=len(self.places),
            proposals=len(self.accepted),
            marks=sum(len(places) for places in self.marks.values()),
        )
        for code, places in self.marks.items():
            if len(places):
                yield Mark(rows[places], _MARKS[code])
        stays = after.labels[self.places] == self.targets
        if stays.any():
            yield Confirm(rows[self.places[stays]])
        for target in np.unique(self.targets[~stays]).tolist():
            yield Move(rows[self.places[~stays & (self.targets == target)]], target)
        if len(self.accepted):
            yield Accept(rows[self.accepted], self.accepted_targets)


def _as_array(numbers: Mapping[int, int], size: int) -> NDArray[np.int32]:
    """Return a mapping of groups as an array, −1 where there is none."""
    found = np.full(size, _NONE, np.int32)
    for group, target in numbers.items():
        found[group] = target
    return found


def _read_time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise FormatError(f"the corrections hold an edit of the time {text!r}, which is none") from error
