"""The edits that a person can make to the groups of a run: one frozen class for each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name

MarkName: TypeAlias = Literal["wrong", "noise"]
MARKS: tuple[str, ...] = get_args(MarkName)
"""The marks an image can have; ``State.marks`` holds 0 for none, 1 for the first, 2 for the second."""

Rows: TypeAlias = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Rename:
    """Call a group ``name``; None gives it the run's own name back."""

    kind: ClassVar[str] = "rename"
    group: int
    name: str | None


@dataclass(frozen=True)
class Merge:
    """Put all images of ``groups`` into the group ``into``; the other groups end."""

    kind: ClassVar[str] = "merge"
    groups: Sequence[int]
    into: int


@dataclass(frozen=True)
class Split:
    """Cluster the images of a group again into ``n_clusters``; the largest part keeps the group's number."""

    kind: ClassVar[str] = "split"
    group: int
    n_clusters: int = 2


@dataclass(frozen=True)
class Move:
    """Put images (``rows`` of the source) into a group by hand; None makes a new one, called ``name``."""

    kind: ClassVar[str] = "move"
    rows: Rows
    group: int | None
    name: str | None = None


@dataclass(frozen=True)
class Mark:
    """Mark images: "wrong" (of some other group), "noise" (of no group), None (takes the mark off)."""

    kind: ClassVar[str] = "mark"
    rows: Rows
    mark: MarkName | None


@dataclass(frozen=True)
class Lock:
    """Lock groups, or unlock them: a locked group takes no image and loses none."""

    kind: ClassVar[str] = "lock"
    groups: Sequence[int]
    locked: bool = True


@dataclass(frozen=True)
class Confirm:
    """Confirm that images are in the right group, as if they had been put there by hand."""

    kind: ClassVar[str] = "confirm"
    rows: Rows


@dataclass(frozen=True)
class Accept:
    """Accept what :func:`~kinfold.corrections.refine` proposes: for each row, the group to put it into.

    Images that were placed by hand since then, and those of locked groups, are skipped.
    """

    kind: ClassVar[str] = "accept"
    # two arrays, not pairs: there may be a hundred thousand proposals
    rows: Rows
    groups: Rows


Edit: TypeAlias = Rename | Merge | Split | Move | Mark | Lock | Confirm | Accept
EDITS: Mapping[str, type[Edit]] = {
    one.kind: one for one in (Rename, Merge, Split, Move, Mark, Lock, Confirm, Accept)
}


def read_edit(content: Mapping[str, Any]) -> Edit:
    """Return the edit that a mapping describes: ``{"kind": "rename", "group": 3, "name": "cats"}``.

    Values are checked when the edit is applied.

    Raises
    ------
    InputError
        The kind is unknown, a field is missing, or a field is not one of the edit's.
    """
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in EDITS:
        hint = nearest_name(str(kind), list(EDITS))
        raise InputError(f"there is no edit {kind!r}{hint}; there are: {', '.join(EDITS)}")
    edit = EDITS[kind]
    given = {name: value for name, value in content.items() if name != "kind"}
    known = {field.name for field in fields(edit)}
    needed = {field.name for field in fields(edit) if field.default is MISSING}
    for names, what in ((given.keys() - known, "has no field"), (needed - given.keys(), "needs the field")):
        if names:
            raise InputError(f"the edit {kind!r} {what} {', '.join(sorted(map(repr, names)))}")
    return edit(**given)
