"""What updates add to the corrections of a run: images for the parts of split groups, hashes of before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.corrections._changes import Change
from kinfold.corrections._state import State
from kinfold.corrections._store import EditRow
from kinfold.run import SPLITS_NAME, SPLITS_SCHEMA, locate_whole, read_table

if TYPE_CHECKING:
    from kinfold.run import Run

_MEND = "restore the file from a copy, or take the update back: `kinfold update RUN --undo`"


def former_bases(run: Run, name: str) -> tuple[str, ...]:
    """Return the hashes of groups before updates of a run, whose corrections in the file ``name`` hold.

    Updates keep the row and the group of every image, so that what was said of these holds for the groups
    after them too.
    """
    return tuple((run.manifest.updates or {}).get("bases", {}).get(name, ()))


@dataclass(frozen=True)
class SplitAdditions:
    """Images that came after a group was split, with the part of the split that each is in.

    Attributes
    ----------
    parts : mapping
        Id and time of a split to rows and parts.
    """

    parts: Mapping[tuple[int, str], tuple[NDArray[np.int64], NDArray[np.int32]]] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, name: str) -> SplitAdditions:
        """Read what a run has for the corrections in the file ``name``."""
        table = read_additions(run)
        table = table.filter(pc.equal(table["corrections"], name))
        found = {}
        for one in table.group_by(["edit", "time"]).aggregate([]).to_pylist():
            same = pc.and_(pc.equal(table["edit"], one["edit"]), pc.equal(table["time"], one["time"]))
            lines = table.filter(same)
            found[one["edit"], one["time"]] = (lines["row"].to_numpy(), lines["part"].to_numpy())
        return cls(found)

    def extend(self, row: EditRow, change: Change) -> Change:
        """Return a split with the images that came since."""
        added = self.parts.get((row.id, row.time))
        if added is None or change.kind != "split" or change.rows is None or change.labels is None:
            return change
        fits = added[1] <= len(change.new_groups)
        rows = np.concatenate([change.rows, added[0][fits]])
        order = np.argsort(rows, kind="stable")
        labels = np.concatenate([change.labels, added[1][fits]])
        return Change(change.kind, change.payload, rows[order], labels[order])


def read_additions(run: Run) -> pa.Table:
    """Read ``splits.parquet`` of a run; an empty table where there is none."""
    if run.manifest.hash_of(SPLITS_NAME) is None:
        return SPLITS_SCHEMA.empty_table()
    return read_table(locate_whole(run.path, run.manifest, SPLITS_NAME, _MEND), SPLITS_SCHEMA, _MEND)


def add_to_splits(
    name: str,
    state: State,
    splits: Iterable[tuple[EditRow, Change]],
    rows: NDArray[np.int64],
    groups: NDArray[np.int32],
) -> pa.Table:
    """Return the lines of ``splits.parquet`` that put new images into the parts of groups that were split.

    Parameters
    ----------
    name : str
        The file of the corrections.
    state : State
        The groups before.
    splits : iterable of EditRow and Change
        The splits that it includes, see :meth:`Corrections.splits`.
    rows : ndarray (n,) int64
        New images.
    groups : ndarray (n,) int32
        The group that each belongs into, one that the group of the model became.
    """
    tables = [SPLITS_SCHEMA.empty_table()]
    for row, change in splits:
        parts = np.zeros(len(rows), np.int32)
        for part, number in enumerate(change.new_groups, start=1):
            parts[np.isin(groups, state.heirs(number))] = part
        some = np.flatnonzero(parts)
        columns = [
            [name] * len(some),
            [row.id] * len(some),
            [row.time] * len(some),
            rows[some],
            parts[some],
        ]
        tables.append(pa.table(columns, schema=SPLITS_SCHEMA))
    return pa.concat_tables(tables)
