"""The columns of a run's assignments in memory, and the second choices of its images."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.corrections import State
from kinfold.errors import FormatError, InputError
from kinfold.run import Run

N_BORDERS = 8  # neighbours of a group on its page: one row of cards
N_SHOWN = 8  # images of each
_SAMPLE = 200_000  # images: an order of groups needs no more, and a request shouldn't take seconds
_MOST_COLUMNS = 512  # of a profile, so that profiles of 10,000 groups take 20 MB, not 400
_SPREAD = 2_654_435_761  # of Knuth's multiplicative hash: 2**32 divided by the golden ratio


@dataclass(frozen=True, eq=False)
class Columns:
    """The images of a run by position in ``run.assignments``.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows in the source, ascending.
    keys : pyarrow.LargeStringArray, length n
        Keys of the images.
    confidence : ndarray of float32, shape (n,)
        Probability of the run's first choice, in [0, 1].
    top : ndarray of int32, shape (n, k)
        The most probable clusters of the run, in descending order.
    probabilities : ndarray of float32, shape (n, k)
        Probabilities of those clusters.
    """

    rows: NDArray[np.int64]
    keys: Any
    confidence: NDArray[np.float32]
    top: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def read(cls, run: Run) -> Columns:
        """Read the columns of a run.

        Raises
        ------
        FormatError
            The file of assignments is missing or damaged.
        """
        table = run.assignments
        rows = table["row"].to_numpy()
        if len(rows) and (table["row"].null_count or np.any(np.diff(rows) <= 0) or rows[0] < 0):
            raise FormatError(
                f"the assignments in {run.path} are damaged: their rows don't rise; cluster again"
            )
        keys = table["key"].cast(pa.large_string()).combine_chunks()
        labels = run.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < run.n_clusters:
            raise FormatError(
                f"the assignments in {run.path} are damaged: they name clusters that it "
                "doesn't have; cluster again"
            )
        confidence = np.nan_to_num(table["confidence"].to_numpy()).clip(0, 1).astype(np.float32, copy=False)
        top = _as_matrix(run, table["top_clusters"], np.int32)
        probabilities = np.nan_to_num(_as_matrix(run, table["top_probabilities"], np.float32))
        if top.shape != probabilities.shape:
            raise FormatError(f"the assignments in {run.path} are damaged: top columns differ in length")
        return cls(rows, keys, confidence, top, probabilities)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> int | None:
        """Return the position of a row of the source; None where the run doesn't have it."""
        if not 0 <= row < 1 << 62:
            return None
        place = int(np.searchsorted(self.rows, row))
        return place if place < len(self.rows) and int(self.rows[place]) == row else None

    def margin(self) -> NDArray[np.float32]:
        """Return the difference of the two highest probabilities of each image."""
        if self.probabilities.shape[1] < 2:
            return self.confidence
        return self.probabilities[:, 0] - self.probabilities[:, 1]

    @cached_property
    def key_order(self) -> NDArray[np.int32]:
        """All positions in the order of their keys."""
        # locked, because cached_property doesn't keep two threads from sorting a million keys at once
        with self._guard:
            order: NDArray[np.int32] = pc.sort_indices(self.keys).to_numpy().astype(np.int32)
            return order

    @cached_property
    def confidence_order(self) -> NDArray[np.int32]:
        """All positions by descending confidence, ties in the order of rows."""
        return np.argsort(-self.confidence, kind="stable").astype(np.int32)

    @cached_property
    def _folded_keys(self) -> Any:
        with self._guard:
            return pc.utf8_lower(self.keys)

    def search(self, text: str) -> NDArray[np.bool_]:
        """Return for every image whether its key contains ``text``, ignoring case.

        Raises
        ------
        InputError
            The text isn't valid Unicode.
        """
        try:
            found = pc.match_substring(self._folded_keys, text.lower())
        except UnicodeEncodeError as error:
            raise InputError(f"q must be valid Unicode to be searched for: {error}") from error
        mask: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
        return mask


def _as_matrix(run: Run, column: Any, dtype: Any) -> NDArray[Any]:
    """Return a column of lists of equal length as a matrix."""
    n = len(column)
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = values.flatten().to_numpy(zero_copy_only=False)
    width = len(flat) // n if n else 1
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if n and (lengths != [width] or not width):
        raise FormatError(
            f"the assignments in {run.path} are damaged: their lists of groups differ in length"
        )
    return np.ascontiguousarray(flat.reshape(n, width), dtype)


@dataclass(frozen=True)
class Border:
    """A neighbour of a group: the second choice of some of its images.

    Attributes
    ----------
    group : int
        Number of the neighbour.
    n : int
        Number of images of the group whose second choice it is.
    share : float
        Fraction of the group's images, in [0, 1].
    places : tuple of int
        Positions of those to which it is most probable, at most eight.
    """

    group: int
    n: int
    share: float
    places: tuple[int, ...]


class Choices:
    """The most probable groups of every image, as corrected.

    Parameters
    ----------
    columns : Columns
        The run's images.
    labels : ndarray of int32, shape (n,)
        Clusters of the run.
    """

    def __init__(self, columns: Columns, labels: NDArray[np.int32]) -> None:
        self._columns = columns
        self._labels = labels
        self._heirs: tuple[int, NDArray[np.int32]] | None = None

    def heirs(self, state: State) -> NDArray[np.int32]:
        """Return for each group the one that its images are in now; another one where it was merged.

        A merged group maps to the group of most of its images, and to −1 if it has none.
        """
        kept = self._heirs
        if kept is not None and kept[0] == state.version:
            return kept[1]
        n_groups = max(state.groups, default=-1) + 1
        heirs = np.arange(n_groups, dtype=np.int32)
        for group in state.groups.values():
            if not group.alive:
                members = state.labels[self._labels == group.id]
                heirs[group.id] = np.bincount(members).argmax() if len(members) else -1
        self._heirs = (state.version, heirs)
        return heirs

    def second(
        self, state: State, places: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the most probable other group of some images, and its probability; −1 and 0 for none."""
        groups = self.heirs(state)[self._columns.top[places]]
        other = (groups != state.labels[places][:, None]) & (groups >= 0)
        first = other.argmax(axis=1)[:, None]
        found = np.take_along_axis(groups, first, 1)[:, 0]
        probabilities = np.take_along_axis(self._columns.probabilities[places], first, 1)[:, 0]
        none = ~other.any(axis=1)
        found[none], probabilities[none] = -1, 0
        return found, probabilities

    def borders(self, state: State, group: int) -> list[Border]:
        """Return the groups that are the second choice of most images of a group."""
        places = np.flatnonzero((state.labels == group) & (state.marks == 0))
        second, probabilities = self.second(state, places)
        counts = np.bincount(second[second >= 0])
        found = []
        for other in np.argsort(-counts, kind="stable")[:N_BORDERS]:
            if not counts[other]:
                break
            chosen = second == other
            closest = np.argsort(-probabilities[chosen], kind="stable")[:N_SHOWN]
            shown = tuple(places[chosen][closest].tolist())
            found.append(Border(int(other), int(counts[other]), float(counts[other] / len(places)), shown))
        return found

    def profiles(self, state: State, groups: list[int]) -> NDArray[np.float32]:
        """Return for each group the distribution of its images' probabilities over all groups, as unit rows.

        At most 200,000 images at even distances are used. More than 512 groups are hashed into 512 columns,
        which keeps similar rows similar.
        """
        n, width = len(self._columns), min(len(groups), _MOST_COLUMNS)
        places = np.arange(0, n, max(1, n // _SAMPLE))
        number = np.full(max(state.groups, default=-1) + 2, -1, np.int64)
        number[groups] = np.arange(len(groups))
        owners = number[state.labels[places]]
        heirs = number[self.heirs(state)[self._columns.top[places]]]
        profile = np.zeros((len(groups), max(1, width)), np.float32)
        for k in range(heirs.shape[1]):
            known = heirs[:, k] >= 0
            at = (owners[known], heirs[known, k] * _SPREAD % width)
            np.add.at(profile, at, self._columns.probabilities[places, k][known])
        norms = np.linalg.norm(profile, axis=1, keepdims=True)
        return np.asarray(profile / np.where(norms > 0, norms, 1), np.float32)
