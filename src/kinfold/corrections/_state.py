"""The groups of a run as corrected: immutable states, drafts of the next one, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.corrections._edits import MARKS
from kinfold.errors import FormatError, InputError, KinfoldError
from kinfold.run import add_typicality
from kinfold.storage import hash_array, hash_json
from kinfold.validation import check_integer

if TYPE_CHECKING:
    from kinfold.run import Run

Scalar = TypeVar("Scalar", bound=np.generic)

CORRECTED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("cluster", pa.int32()),
        ("name", pa.string()),
        ("confidence", pa.float32()),
        ("original_cluster", pa.int32()),
        ("mark", pa.string()),
        ("by_hand", pa.bool_()),
        ("typicality", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Group:
    """A group of images.

    Attributes
    ----------
    id : int
        Number of the group: 0 … K−1 for the clusters of the run, higher for groups that were made later. A
        number is never used twice.
    name : str or None
        The name that a person gave it; None where the run's own name holds.
    locked : bool
        Whether images can neither enter nor leave it.
    alive : bool
        False once it was merged into another group.
    origin : int or None
        The group that it was split from.
    into : int or None
        The group that it was merged into, which may itself have been merged since.
    """

    id: int
    name: str | None = None
    locked: bool = False
    alive: bool = True
    origin: int | None = None
    into: int | None = None


@dataclass(frozen=True, eq=False)
class State:
    """Groups and images after an edit. Arrays are read-only, in the order of ``run.assignments``.

    Attributes
    ----------
    version : int
        Id of the last edit, undo or redo; 0 before the first.
    labels : ndarray (N,) int32
        Group of every image, also of marked ones.
    marks : ndarray (N,) uint8
        0: none; 1: "wrong", the image doesn't belong to its group; 2: "noise", it belongs to no group.
    by_hand : ndarray (N,) bool
        True where a person put the image into its group, or confirmed it.
    groups : mapping of int to Group
        All groups there ever were, by number.
    """

    version: int
    labels: NDArray[np.int32]
    marks: NDArray[np.uint8]
    by_hand: NDArray[np.bool_]
    groups: Mapping[int, Group]

    @property
    def alive(self) -> tuple[int, ...]:
        """Numbers of the groups that weren't merged into another one, ascending."""
        return tuple(sorted(number for number, group in self.groups.items() if group.alive))

    def group(self, number: int) -> Group:
        """Return a group; :class:`InputError` if there is none of this number, or it was merged away."""
        check_integer(0, group=number)
        found = self.groups.get(int(number))
        if found is None:
            raise InputError(f"there is no group {number}")
        if not found.alive:
            raise InputError(f"group {number} is gone: it was merged into another group")
        return found

    def follow(self, number: int) -> int:
        """Return the group that a group's images are in after all merges: itself where it wasn't merged."""
        group = self.groups[number]
        while group.into is not None:
            group = self.groups[group.into]
        return group.id

    def heirs(self, number: int) -> tuple[int, ...]:
        """Return the groups that a group became by merges and splits, the one that continues it first."""
        seen, ahead = {number}, [number]
        while ahead:
            group = self.groups[ahead.pop()]
            next_ones = [one.id for one in self.groups.values() if one.origin == group.id]
            next_ones += [] if group.into is None else [group.into]
            ahead += [one for one in next_ones if one not in seen]
            seen.update(next_ones)
        first = self.follow(number)
        return first, *sorted(one for one in seen if self.groups[one].alive and one != first)

    def counts(self) -> NDArray[np.int64]:
        """Return how many unmarked images each group has, by its number."""
        n_groups = max(self.groups, default=-1) + 1
        return np.bincount(self.labels[self.marks == 0], minlength=n_groups)


def first_state(run: Run) -> State:
    """Return the groups of a run before any correction."""
    n = len(run.labels)
    groups = {number: Group(number) for number in range(run.n_clusters)}
    return State(
        0, run.labels, _frozen(np.zeros(n, np.uint8)), _frozen(np.zeros(n, bool)), MappingProxyType(groups)
    )


def changed_groups(before: State, after: State) -> tuple[int, ...]:
    """Return the numbers of all groups whose images, marks, name or lock differ between two states."""
    numbers = before.groups.keys() | after.groups.keys()
    changed = {number for number in numbers if before.groups.get(number) != after.groups.get(number)}
    pairs = (
        (before.labels, after.labels),
        (before.marks, after.marks),
        (before.by_hand, after.by_hand),
    )
    # an edit shares the arrays that it doesn't change, so most of these comparisons are skipped
    places = [np.flatnonzero(old != new) for old, new in pairs if old is not new]
    for state in (before, after):
        for found in places:
            changed.update(np.unique(state.labels[found]).tolist())
    return tuple(sorted(changed))


class Draft:
    """A state while edits are applied to it.

    Arrays are copied when they are first written to: most edits change one of the three, and a copy of each
    for a million images would make every edit slow.
    """

    def __init__(self, state: State) -> None:
        self.labels, self.marks, self.by_hand = state.labels, state.marks, state.by_hand
        self.groups = dict(state.groups)

    def set_labels(self, places: NDArray[np.integer], labels: NDArray[np.int32] | int) -> None:
        """Put images into groups."""
        if not self.labels.flags.writeable:
            self.labels = self.labels.copy()
        self.labels[places] = labels

    def set_marks(self, places: NDArray[np.integer], mark: int) -> None:
        """Mark images."""
        if not self.marks.flags.writeable:
            self.marks = self.marks.copy()
        self.marks[places] = mark

    def set_by_hand(self, places: NDArray[np.integer], by_hand: bool) -> None:
        """Record whether a person put images where they are."""
        if not self.by_hand.flags.writeable:
            self.by_hand = self.by_hand.copy()
        self.by_hand[places] = by_hand

    def look(self, version: int = 0) -> State:
        """Return a view of the draft as a state, which changes when the draft does."""
        return State(version, self.labels, self.marks, self.by_hand, self.groups)

    def freeze(self, version: int) -> State:
        """Return the draft as a state that no longer changes."""
        groups = MappingProxyType(dict(self.groups))
        return State(version, _frozen(self.labels), _frozen(self.marks), _frozen(self.by_hand), groups)


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.flags.writeable = False  # threads share a state, and so do the states after it
    return array


def names_of(run: Run, state: State) -> dict[int, str]:
    """Return the name of each group by its number: the corrected one, else the run's noun, else ""."""
    nouns, names = run.names, {}
    for number, group in sorted(state.groups.items()):
        found = nouns.get(number)  # groups that were made later have none
        names[number] = group.name or (found.noun if found is not None else None) or ""
    return names


def corrected_table(run: Run, state: State) -> pa.Table:
    """Return the groups as corrected, in row order.

    Columns: ``row``, ``key``; ``cluster`` (−1 where the image is marked), ``name`` (null where there is
    none), ``confidence`` (of the model in its own first choice, ``original_cluster``), ``mark`` ("wrong",
    "noise" or null), ``by_hand``, and ``typicality`` in the group (null where the image is in none, and
    in runs that don't know it).
    """
    assignments = run.assignments
    marked = state.marks != 0
    clusters = np.where(marked, -1, state.labels).astype(np.int32)
    typicality = run.typicality_in(clusters)
    # Names as a dictionary: one string for each group, not one for each of a million images.
    names = names_of(run, state)
    numbers = np.arange(max(names, default=-1) + 1)
    dictionary = pa.array([names.get(int(number)) or None for number in numbers], pa.string())
    shown = pa.array(np.where(marked, 0, state.labels), pa.int32(), mask=marked)
    marks = pa.array(state.marks.astype(np.int8) - 1, pa.int8(), mask=~marked)
    columns = {
        "row": assignments["row"],
        "key": assignments["key"],
        "cluster": pa.array(clusters),
        "name": dictionary.take(shown),
        "confidence": assignments["confidence"],
        "original_cluster": assignments["cluster"],
        "mark": pa.array(MARKS, pa.string()).take(marks),
        "by_hand": pa.array(state.by_hand),
    }
    return add_typicality(pa.table(columns), typicality).cast(CORRECTED_SCHEMA)


def hash_base(run: Run) -> str:
    """Return a hash of a run's rows, clusters and number of clusters; edits hold for one such base only."""
    rows, labels = run.assignments["row"].to_numpy(), run.labels
    return hash_json([hash_array(rows), hash_array(labels), run.n_clusters])


class RunGroups:
    """The clusters of a run when it was opened, and whether the run still has them.

    Parameters
    ----------
    run : Run
        The run.
    """

    def __init__(self, run: Run) -> None:
        self.hash = hash_base(run)
        self._run = run
        self._seen = self._look()

    def check(self) -> None:
        """Raise :class:`FormatError` if the run was clustered again since it was opened.

        This is called on every request, so it compares the inode, time and size of ``manifest.json`` and
        hashes the clusters only where these differ. Other changes, of names for example, don't matter, and
        neither does a run that was removed: what is in memory can still be shown.
        """
        found = self._look()
        if found in (None, self._seen):
            return
        try:
            changed = hash_base(type(self._run).open(self._run.path)) != self.hash
        except KinfoldError as error:  # _seen stays as it is, so the next call looks again
            raise FormatError(f"{self._run.path} is being changed, or was damaged: {error}") from error
        if changed:
            raise FormatError(
                f"{self._run.path} was clustered again while it was open, updated, or shows another level. "
                "Open the run again to correct the new ones"
            )
        self._seen = found

    def _look(self) -> tuple[int, int, int] | None:
        """Return inode, modification time and size of ``manifest.json``; None if it isn't there."""
        try:
            status = (self._run.path / "manifest.json").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
