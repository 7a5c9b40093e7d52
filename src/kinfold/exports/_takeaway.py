"""What is taken away: every image with its group, as corrected, and what the groups are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.corrections import Corrections, corrected_table, names_of
from kinfold.exports._names import tell_apart

if TYPE_CHECKING:
    from kinfold.run import Run

UNSORTED = "unsorted"
NO_GROUP = -1
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Group:
    """One group that images can be in.

    Attributes
    ----------
    id : int
        Its number, as in ``cluster``.
    name : str
        What it is called; empty where it has no name.
    label : str
        The same, or ``group 7``: differs from the labels of all other groups, also where case doesn't count.
    size : int
        Its images.
    """

    id: int
    name: str
    label: str
    size: int


@dataclass(frozen=True)
class Takeaway:
    """A run as it is exported.

    Attributes
    ----------
    run : Run
        The run.
    table : pa.Table
        Of :func:`~kinfold.corrections.corrected_table`: row, key, cluster (−1: in no group), name,
        confidence, original_cluster, mark, by_hand.
    names : Mapping of int to str
        The groups that there are, merged ones left out, with their names.
    version : int
        Of the corrections; 0 where there are none.
    """

    run: Run
    table: pa.Table
    names: Mapping[int, str]
    version: int

    @classmethod
    def of(cls, run: Run) -> Takeaway:
        """Read the run and its corrections, as they are now."""
        corrections = Corrections.open(run, write=False)
        state = corrections.state
        names = names_of(run, state)
        alive = {group: names.get(group) or "" for group in sorted(state.groups) if state.groups[group].alive}
        return cls(run, corrected_table(run, state), alive, state.version)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups, by number, also those without images."""
        sizes = np.bincount(self.clusters[self.clusters >= 0], minlength=max(self.names, default=0) + 1)
        wanted = {id: name or f"group {id}" for id, name in self.names.items()}
        labels = tell_apart(wanted, reserved=(UNSORTED,))
        return tuple(Group(id, self.names[id], labels[id], int(sizes[id])) for id in self.names)

    @cached_property
    def labels(self) -> dict[int, str]:
        """The groups' labels by number; None's is ``unsorted``."""
        return {**{group.id: group.label for group in self.groups}, NO_GROUP: UNSORTED}

    @cached_property
    def clusters(self) -> NDArray[np.int32]:
        """Group of every line of the table, −1 for none."""
        clusters: NDArray[np.int32] = self.table["cluster"].to_numpy()
        return clusters

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the table, read in blocks."""
        for batch in self.table.to_batches(max_chunksize=_BLOCK):
            yield from batch.to_pylist()
