"""What a card says of each group, counted once and again only for the groups that an edit changed."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import State, changed_groups
from kinfold.gallery.explore._columns import Columns

N_BINS = 20
N_REPRESENTATIVES = 8
_FEW = 64  # so many changed groups are counted one by one


@dataclass(frozen=True)
class Summary:
    """One group, counted.

    Attributes
    ----------
    size : int
        Its images that aren't marked.
    n_wrong, n_noise : int
        Those that are.
    mean_confidence : float
        Of the unmarked ones; 0 where there are none.
    histogram : tuple of int
        Unmarked ones per confidence bin of width 1/20.
    representatives : tuple of int
        Places of the most confident unmarked ones, at most eight.
    """

    size: int
    n_wrong: int
    n_noise: int
    mean_confidence: float
    histogram: tuple[int, ...]
    representatives: tuple[int, ...]


class Summaries:
    """The summaries of all groups for the state that was asked for last.

    Parameters
    ----------
    columns : Columns
        The run's images.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._bins = np.clip((columns.confidence * N_BINS).astype(np.int8), 0, N_BINS - 1)
        self._guard = threading.Lock()
        self._state: State | None = None
        self._found: dict[int, Summary] = {}

    def of(self, state: State) -> Mapping[int, Summary]:
        """Return the summary of every group that is there, by its number."""
        with self._guard:
            if self._state is None or self._state.version != state.version:
                self._found = self._update(state)
                self._state = state
            return self._found

    def _update(self, state: State) -> dict[int, Summary]:
        alive = state.alive
        if self._state is not None:
            changed = changed_groups(self._state, state)
            if len(changed) <= _FEW:
                kept = {group: one for group, one in self._found.items() if group not in changed}
                return {group: kept[group] if group in kept else self._count(state, group) for group in alive}
        return self._count_all(state, alive)

    def _count(self, state: State, group: int) -> Summary:
        places = np.flatnonzero(state.labels == group)
        marks = state.marks[places]
        members = places[marks == 0]
        confidence = self._columns.confidence[members]
        best = np.lexsort((members, -confidence))[:N_REPRESENTATIVES] if len(members) else members
        return Summary(
            len(members),
            int(np.count_nonzero(marks == 1)),
            int(np.count_nonzero(marks == 2)),
            float(confidence.mean(dtype=np.float64)) if len(members) else 0.0,
            tuple(np.bincount(self._bins[members], minlength=N_BINS).tolist()),
            tuple(members[best].tolist()),
        )

    def _count_all(self, state: State, alive: Iterable[int]) -> dict[int, Summary]:
        n_groups = max(state.groups, default=-1) + 1
        counts = [np.bincount(state.labels[state.marks == mark], minlength=n_groups) for mark in range(3)]
        plain = state.marks == 0
        labels = state.labels[plain].astype(np.int64)
        flat = np.bincount(labels * N_BINS + self._bins[plain], minlength=n_groups * N_BINS)
        histograms = flat.reshape(n_groups, N_BINS)
        sums = np.bincount(labels, weights=self._columns.confidence[plain], minlength=n_groups)
        best = self._best(state, counts[0])
        return {
            group: Summary(
                int(counts[0][group]),
                int(counts[1][group]),
                int(counts[2][group]),
                float(sums[group] / max(1, counts[0][group])),
                tuple(histograms[group].tolist()),
                best.get(group, ()),
            )
            for group in alive
        }

    def _best(self, state: State, sizes: NDArray[np.int64]) -> dict[int, tuple[int, ...]]:
        """Return the places of every group's most confident images."""
        order = self._columns.confidence_order
        order = order[state.marks[order] == 0]
        labels = state.labels[order]
        by_group = order[np.argsort(_narrow(labels), kind="stable")]
        ends = np.cumsum(sizes)
        return {
            int(group): tuple(
                by_group[ends[group] - sizes[group] :][: min(N_REPRESENTATIVES, sizes[group])].tolist()
            )
            for group in np.flatnonzero(sizes)
        }


def _narrow(labels: NDArray[np.int32]) -> NDArray[np.integer]:
    """Return labels in 16 bits where they fit: those are sorted in linear time."""
    return labels.astype(np.uint16) if not len(labels) or labels.max() < 1 << 16 else labels
