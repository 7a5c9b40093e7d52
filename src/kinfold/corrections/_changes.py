"""Edits as changes of a state: what is stored of them, how they are applied, how a group is split."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections._edits import MARKS, Accept, Confirm, Edit, Lock, Mark, Merge, Move, Rename, Split
from kinfold.corrections._state import Draft, Group, State
from kinfold.errors import InputError
from kinfold.validation import Choice, Constraint, Either, Flag, Integer, Nothing, Rule, check

if TYPE_CHECKING:
    from kinfold.features import RowMatrix
    from kinfold.run import Run

MOST_NAME = 200  # characters; longer ones can't be shown on a card of the page
MOST_PARTS = 1000  # more new groups than a person can look through after one edit
_SEED = 0  # fixed, so that the preview of a split and the split itself agree
_FIT_ROWS = 50_000  # of a larger group a sample of this size is clustered, so that a split takes seconds

_RULES: Mapping[str, Constraint] = {
    "name": Either(Nothing(), Rule(lambda value: isinstance(value, str), "a string")),
    "mark": Either(Nothing(), Choice(MARKS)),
    "locked": Flag(),
    "n_clusters": Integer(least=2, most=MOST_PARTS),
}


@dataclass(frozen=True)
class Change:
    """An edit as it is stored: applying it gives the same result whenever that is done.

    Attributes
    ----------
    kind : str
        Kind of the edit.
    payload : mapping
        Groups, names and the numbers of new groups, as JSON values.
    rows : ndarray (n,) int64, or None
        Source rows of its images, ascending.
    labels : ndarray (n,) int32, or None
        For each row its new group (accept) or its part (split).
    """

    kind: str
    payload: Mapping[str, Any]
    rows: NDArray[np.int64] | None = None
    labels: NDArray[np.int32] | None = None

    @property
    def new_groups(self) -> tuple[int, ...]:
        """Numbers of the groups that it creates."""
        return tuple(self.payload.get("new_groups", ()))


@dataclass(frozen=True)
class SplitParts:
    """A split whose clustering is done: part 0 stays in the group, parts 1, 2, … become new groups."""

    group: int
    rows: NDArray[np.int64]
    parts: NDArray[np.int32]


class RowIndex:
    """Positions of source rows in the arrays of a state.

    Parameters
    ----------
    rows : ndarray (N,) int64
        Ascending row numbers, as in ``run.assignments``.
    """

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._places = np.full(int(rows[-1]) + 1 if len(rows) else 0, -1, np.int32)
        self._places[rows] = np.arange(len(rows), dtype=np.int32)

    def keep(self, change: Change) -> Change:
        """Return a change without the rows whose images are gone, see `kinfold update`."""
        if change.rows is None:
            return change
        inside = (change.rows >= 0) & (change.rows < len(self._places))
        inside[inside] = self._places[change.rows[inside]] >= 0
        if inside.all():
            return change
        labels = None if change.labels is None else change.labels[inside]
        return replace(change, rows=change.rows[inside], labels=labels)

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the positions of ascending rows; :class:`InputError` names one that the run doesn't have."""
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self._places):
            raise InputError(f"row {rows[0] if rows[0] < 0 else rows[-1]} isn't among the images of this run")
        places: NDArray[np.int32] = self._places[rows]
        if len(rows) and places.min() < 0:
            raise InputError(f"row {rows[places.argmin()]} isn't among the images of this run")
        return places


def prepare_change(edit: Edit | SplitParts, state: State, next_group: int) -> Change:
    """Return an edit as it is to be stored; new groups are numbered from ``next_group`` on.

    Raises
    ------
    InputError
        A value is invalid. Whether the edit is possible shows only when it is applied.
    """
    match edit:
        case Rename():
            name = clean_name(edit.name)
            return Change(edit.kind, {"group": state.group(edit.group).id, "name": name})
        case Merge():
            into = state.group(edit.into).id
            others = [group for group in _group_numbers(state, edit.groups) if group != into]
            return Change(edit.kind, {"groups": others, "into": into})
        case Move():
            payload: dict[str, Any] = {"group": next_group, "new_groups": [next_group]}
            if edit.group is not None:
                payload = {"group": state.group(edit.group).id, "new_groups": []}
                if edit.name is not None:
                    raise InputError(
                        "name is for a new group only (group=None); to rename a group, use the edit 'rename'"
                    )
            return Change(edit.kind, {**payload, "name": clean_name(edit.name)}, clean_rows(edit.rows))
        case Mark():
            check(_RULES, mark=edit.mark)
            return Change(edit.kind, {"mark": edit.mark}, clean_rows(edit.rows))
        case Lock():
            check(_RULES, locked=edit.locked)
            return Change(
                edit.kind, {"groups": _group_numbers(state, edit.groups), "locked": bool(edit.locked)}
            )
        case Confirm():
            return Change(edit.kind, {}, clean_rows(edit.rows))
        case Accept():
            return Change(edit.kind, {}, *_clean_pairs(edit.rows, edit.groups))
        case SplitParts():
            made = list(range(next_group, next_group + int(edit.parts.max())))
            return Change("split", {"group": edit.group, "new_groups": made}, edit.rows, edit.parts)
    raise InputError(f"edit must be one of the classes in kinfold.corrections.EDITS; {edit!r} is no edit")


def apply_change(draft: Draft, change: Change, index: RowIndex) -> int:
    """Apply a change to a draft, whole or not at all; return the number of images that it concerns.

    Raises
    ------
    InputError
        It isn't possible with the current groups: one was merged away or is locked.
    """
    places = np.empty(0, np.int32) if change.rows is None else index.places(change.rows)
    return _APPLY[change.kind](draft, change, places)


def clean_rows(rows: Any) -> NDArray[np.int64]:
    """Return row numbers ascending, each once; :class:`InputError` unless they are a list of integers."""
    return np.unique(_integers(rows, "rows"))


def clean_name(name: str | None) -> str | None:
    """Return a group's name with each run of white space as one blank; None for an empty name."""
    check(_RULES, name=name)
    if name is None:
        return None
    name = " ".join(name.split())
    if len(name) > MOST_NAME:
        raise InputError(f"the name has {len(name)} characters, but may have at most {MOST_NAME}; shorten it")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise InputError(
            "the name has control characters or half a surrogate pair, which can't be shown; remove them"
        )
    return name or None


def _rename(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    group = draft.look().group(change.payload["group"])
    draft.groups[group.id] = replace(group, name=change.payload["name"])
    return 0


def _merge(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    into, others = change.payload["into"], change.payload["groups"]
    if not others:
        raise InputError("groups must hold a further group besides the one to merge into")
    merged = [_open_group(draft, number) for number in (into, *others)][1:]
    moved = np.flatnonzero(np.isin(draft.labels, others))
    draft.set_labels(moved, into)
    for group in merged:
        draft.groups[group.id] = replace(group, alive=False, into=into)
    return len(moved)


def _split(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    group = _open_group(draft, change.payload["group"])
    numbers = np.array([group.id, *change.new_groups], np.int32)
    assert change.labels is not None
    labels = numbers[change.labels]
    # The clustering was stored with the edit. At a replay, after an undo, images may be elsewhere or marked
    # by now: those stay where they are.
    leaving = (draft.labels[places] == group.id) & (labels != group.id) & (draft.marks[places] == 0)
    draft.set_labels(places[leaving], labels[leaving])
    draft.set_by_hand(places[leaving], False)
    for number in change.new_groups:
        draft.groups[number] = Group(number, origin=group.id)
    return int(leaving.sum())


def _move(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    target = change.payload["group"]
    coming = places
    if not change.new_groups:
        # images that are in the group already don't enter it, so a locked group doesn't refuse them
        locked = draft.look().group(target).locked
        coming = places[(draft.labels[places] != target) | (draft.marks[places] != 0)]
        if locked and len(coming):
            _open_group(draft, target)
    _check_unlocked(draft, coming)
    if change.new_groups:
        draft.groups[target] = Group(target, name=change.payload["name"])
    _place_by_hand(draft, places, target)
    return len(places)


def _mark(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    mark = change.payload["mark"]
    code = 0 if mark is None else 1 + MARKS.index(mark)
    touched = places[draft.marks[places] != code]
    _check_unlocked(draft, touched)
    draft.set_marks(touched, code)
    draft.set_by_hand(touched, False)
    return len(places)


def _lock(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    for group in [draft.look().group(number) for number in change.payload["groups"]]:
        draft.groups[group.id] = replace(group, locked=change.payload["locked"])
    return 0


def _confirm(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    _check_unlocked(draft, places[draft.marks[places] != 0])
    _place_by_hand(draft, places, None)
    return len(places)


def _accept(draft: Draft, change: Change, places: NDArray[np.int32]) -> int:
    """Accept proposals for images that no person has placed or marked since, and that may move."""
    assert change.labels is not None
    free = np.array([group.id for group in draft.groups.values() if group.alive and not group.locked])
    takes = np.isin(change.labels, free) & np.isin(draft.labels[places], free)
    takes &= ~draft.by_hand[places] & (draft.marks[places] != 1 + MARKS.index("noise"))
    if not takes.any():
        raise InputError(
            "none of these proposals can be accepted any more: their images were edited, or groups are locked"
        )
    draft.set_labels(places[takes], change.labels[takes])
    draft.set_marks(places[takes], 0)
    return int(takes.sum())


_APPLY: Mapping[str, Callable[[Draft, Change, NDArray[np.int32]], int]] = {
    "rename": _rename,
    "merge": _merge,
    "split": _split,
    "move": _move,
    "mark": _mark,
    "lock": _lock,
    "confirm": _confirm,
    "accept": _accept,
}


def _place_by_hand(draft: Draft, places: NDArray[np.int32], target: int | None) -> None:
    if target is not None:
        draft.set_labels(places, target)
    draft.set_marks(places, 0)
    draft.set_by_hand(places, True)


def _open_group(draft: Draft, number: int) -> Group:
    """Return a group that may gain and lose images."""
    group = draft.look().group(number)
    if group.locked:
        raise InputError(f"group {number} is locked; unlock it first")
    return group


def _check_unlocked(draft: Draft, places: NDArray[np.int32]) -> None:
    """Raise :class:`InputError` if any of these images is in a locked group."""
    locked = [number for number, group in draft.groups.items() if group.locked]
    if locked and len(places):  # np.isin over a million images is slow; most runs have no locked group
        held = np.isin(draft.labels[places], locked)
        if held.any():
            number = int(draft.labels[places[held][0]])
            raise InputError(f"{int(held.sum())} of these images are in group {number}, which is locked")


def _group_numbers(state: State, groups: Any) -> list[int]:
    # bytes is a sequence of integers to Python, and would pass for a list of groups
    if isinstance(groups, str | bytes) or not isinstance(groups, Sequence | np.ndarray):
        raise InputError(f"groups must be a list of integers; got {groups!r}")
    if not len(groups):
        raise InputError("groups is empty: no group was given")
    return list(dict.fromkeys(state.group(group).id for group in groups))


def _clean_pairs(rows: Any, groups: Any) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    rows, groups = _integers(rows, "rows"), _integers(groups, "groups")
    if len(rows) != len(groups):
        raise InputError(f"rows has {len(rows)} values, but groups {len(groups)}; each row needs one group")
    if groups.min() < 0 or groups.max() > np.iinfo(np.int32).max:
        raise InputError(f"groups must be integers from 0 to {np.iinfo(np.int32).max}")
    order = np.argsort(rows, kind="stable")
    rows, groups = rows[order], groups[order].astype(np.int32)
    if (rows[1:] == rows[:-1]).any():
        raise InputError("rows holds a row twice; give each once")
    return rows, groups


def _integers(values: Any, what: str) -> NDArray[np.int64]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what} must be a flat list of integers: {error}") from error
    if array.ndim == 1 and array.size == 0:
        raise InputError(f"{what} is empty: no image was given")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{what} must be a flat list of integers; got {array.ndim} dimensions of type {array.dtype}"
        )
    return array.astype(np.int64)


def split_group(run: Run, state: State, edit: Split, *, source: str | Path | None = None) -> SplitParts:
    """Cluster the unmarked images of a group by spherical k-means into ``edit.n_clusters`` parts.

    The same state gives the same parts: the seed is fixed. The largest part is part 0, which keeps the
    group's number; the others follow by falling size. Of a group above 50,000 images, centers are computed
    from 50,000 random ones, and each image goes to the closest center.

    Parameters
    ----------
    run : Run
        The run, whose features are read for the group's images alone.
    state : State
        Which images the group has.
    edit : Split
        Group and number of parts.
    source : path, optional
        Where the features are now, if they were moved.

    Raises
    ------
    InputError
        ``n_clusters`` is out of range, the group is locked or was merged away, has fewer images than parts,
        all its images are alike, or the features are missing.
    """
    check(_RULES, n_clusters=edit.n_clusters)
    n_parts = int(edit.n_clusters)
    group = state.group(edit.group)
    if group.locked:
        raise InputError(f"group {group.id} is locked; unlock it first")
    places = np.flatnonzero((state.labels == group.id) & (state.marks == 0))
    if len(places) < n_parts:
        raise InputError(
            f"group {group.id} has {len(places)} images, too few for n_clusters={n_parts}; ask for fewer "
            "parts"
        )
    matrix = run.features(source).matrix(run.manifest.features["variant"])
    parts = _cluster(matrix, places, n_parts)
    if parts.max() == 0:
        raise InputError(f"group {group.id} can't be split: all its images have the same features")
    rows = run.assignments["row"].to_numpy()
    return SplitParts(group.id, rows[places], parts)


def _cluster(matrix: RowMatrix, places: NDArray[np.int64], n_parts: int) -> NDArray[np.int32]:
    """Return the part of each position; parts are ordered by falling size, and none is empty."""
    from kinfold.methods import SphericalKMeans  # imports PyTorch, which most edits don't need

    drawn = places
    if len(places) > _FIT_ROWS:
        random = np.random.default_rng(_SEED)
        drawn = np.sort(random.choice(places, max(_FIT_ROWS, n_parts), replace=False))
    model = SphericalKMeans(n_clusters=n_parts, random_state=_SEED).fit(np.asarray(matrix[drawn]))
    labels = model.labels_
    if drawn is not places:
        pieces = np.array_split(places, -(-len(places) // _FIT_ROWS))
        labels = np.concatenate([model.predict(np.asarray(matrix[piece])) for piece in pieces])
    sizes = np.bincount(labels, minlength=n_parts)
    rank = np.empty(n_parts, np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(n_parts)
    parts: NDArray[np.int32] = rank[labels]
    return parts
