"""The groups of a run as corrected up to some edit: a snapshot that never changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.run import Run

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Group:
    """A group.

    Attributes
    ----------
    id : int
        Its number: 0 … K−1 for the groups of the run, above for those that were made later. A number is
        never used twice.
    name : str or None
        What a person called it; None where the run's own name holds.
    locked : bool
        It takes no image and loses none.
    alive : bool
        False once it was merged into another.
    origin : int or None
        The group that it was split from.
    """

    id: int
    name: str | None = None
    locked: bool = False
    alive: bool = True
    origin: int | None = None


@dataclass(frozen=True, eq=False)
class State:
    """Groups and images after an edit. Arrays are read-only and in the order of ``run.assignments``.

    Attributes
    ----------
    version : int
        Id of the last edit, undo or redo; 0 before the first.
    labels : ndarray (N,) int32
        Group of every image, also of marked ones.
    marks : ndarray (N,) uint8
        0: none; 1: "wrong", the image isn't of its group; 2: "noise", it is of no group.
    by_hand : ndarray (N,) bool
        A person put the image into its group, or confirmed that it is there rightly.
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
        """Numbers of the groups that weren't merged away, ascending."""
        return tuple(sorted(number for number, group in self.groups.items() if group.alive))

    def group(self, number: int) -> Group:
        """Return a group that is there; :class:`InputError` if it never was, or was merged away."""
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise InputError(f"a group is given by its number, not {number!r}")
        found = self.groups.get(int(number))
        if found is None:
            raise InputError(f"there is no group {number}")
        if not found.alive:
            raise InputError(f"group {number} is gone: it was merged into another")
        return found

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
    places = [np.flatnonzero(old != new) for old, new in pairs if old is not new]
    for state in (before, after):
        for found in places:
            changed.update(np.unique(state.labels[found]).tolist())
    return tuple(sorted(changed))


class Draft:
    """A state while edits are applied to it; arrays are copied when they are first written to."""

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
        """Note who put images where they are."""
        if not self.by_hand.flags.writeable:
            self.by_hand = self.by_hand.copy()
        self.by_hand[places] = by_hand

    def look(self, version: int = 0) -> State:
        """Return the draft as a state that still changes with it."""
        return State(version, self.labels, self.marks, self.by_hand, self.groups)

    def freeze(self, version: int) -> State:
        """Return the draft as a state of its own."""
        groups = MappingProxyType(dict(self.groups))
        return State(version, _frozen(self.labels), _frozen(self.marks), _frozen(self.by_hand), groups)


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.flags.writeable = False
    return array
