"""The run's features, opened when something needs them: distances, neighbours, similarity of groups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.corrections import State
from kinfold.errors import KinfoldError
from kinfold.features import Features, RowMatrix, let_go
from kinfold.gallery.explore._errors import UnavailableError
from kinfold.run import Run

_BLOCK_BYTES = 32 << 20
_KEPT = 4


class Vectors:
    """Features by place, opened once; where they can't be, everything that needs them says why.

    Parameters
    ----------
    run : Run
        The run.
    features : Features or path, optional
        They, or where they are now, if they were moved.
    """

    def __init__(self, run: Run, features: Features | str | Path | None = None) -> None:
        self._run = run
        self._given = features
        self._guard = threading.Lock()
        self._opened: Features | None = None
        self._trouble = ""
        self._is_other = False  # what is there can't be used; what is missing may come back
        self._distances: OrderedDict[tuple[int, int | None], NDArray[np.float32]] = OrderedDict()

    @property
    def are_there(self) -> bool:
        """Tell whether the features can be used, as far as a look at their place tells."""
        if self._opened is not None or isinstance(self._given, Features):
            return True
        if self._is_other:
            return False
        recorded = self._run.manifest.features.get("path")
        if self._given is None and not recorded:
            return False
        where = Path(self._given) if self._given is not None else self._run.path / str(recorded)
        return where.exists()

    def open(self) -> Features:
        """Return the features.

        Raises
        ------
        UnavailableError
            They aren't there, or are others than the run's.
        """
        with self._guard:
            if self._opened is None and not self._is_other:
                there = self.are_there
                try:
                    self._opened = self._find()
                except (KinfoldError, OSError, KeyError) as error:
                    self._trouble, self._is_other = str(error), there
            if self._opened is None:
                raise UnavailableError(self._trouble)
            return self._opened

    def matrix(self) -> RowMatrix:
        """Return the vectors, one per place; raises as :meth:`open` does."""
        return self.open().matrix(self._run.manifest.features["variant"])

    def distances(self, state: State, group: int | None) -> NDArray[np.float32]:
        """Return how far images are from the centre of their group: 1 − cosine.

        The centre is the mean direction of the unmarked images. Of ``group`` None all images are measured;
        otherwise those of the group, and all others are NaN.
        """
        name = (state.version, group)
        with self._guard:
            if name in self._distances:
                self._distances.move_to_end(name)
                return self._distances[name]
        found = self._measure(state, group)
        with self._guard:
            self._distances[name] = found
            while len(self._distances) > _KEPT:
                self._distances.popitem(last=False)
        return found

    def means(self, places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return the mean directions of some sets of images, one row each; zeros for an empty set."""
        matrix = self.matrix()
        found = np.zeros((len(places), int(matrix.shape[1])), np.float32)
        for number, some in enumerate(places):
            if len(some):
                found[number] = _unit(np.asarray(matrix[np.sort(some)])).sum(axis=0)
        let_go(matrix)
        return _unit(found)

    def _find(self) -> Features:
        opened = self._given if isinstance(self._given, Features) else self._run.features(self._given)
        if not np.array_equal(opened.rows, self._run.assignments["row"].to_numpy()):
            raise UnavailableError(f"the features at {opened.path} have other rows than the run")
        return opened

    def _measure(self, state: State, group: int | None) -> NDArray[np.float32]:
        matrix = self.matrix()
        n, dim = len(state.labels), int(matrix.shape[1])
        places = np.arange(n) if group is None else np.flatnonzero(state.labels == group)
        labels = state.labels if group is None else np.zeros(n, np.int32)
        n_groups = int(labels.max(initial=0)) + 1
        sums = np.zeros((n_groups, dim), np.float32)
        for some, rows in _blocks(matrix, places):
            plain = state.marks[some] == 0
            _add_by_label(sums, labels[some][plain], rows[plain])
        centres = _unit(sums)
        found = np.full(n, np.nan, np.float32)
        for some, rows in _blocks(matrix, places):
            found[some] = 1 - np.einsum("ij,ij->i", rows, centres[labels[some]])
        let_go(matrix)
        return found


def _blocks(
    matrix: RowMatrix, places: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.float32]]]:
    """Yield places with their vectors at unit length, a block at a time."""
    step = max(1, _BLOCK_BYTES // (4 * int(matrix.shape[1])))
    for start in range(0, len(places), step):
        some = places[start : start + step]
        whole = len(some) and int(some[-1]) - int(some[0]) + 1 == len(some)
        taken = matrix[int(some[0]) : int(some[-1]) + 1] if whole else matrix[some]
        yield some, _unit(np.asarray(taken))


def _add_by_label(sums: NDArray[np.float32], labels: NDArray[np.int32], rows: NDArray[np.float32]) -> None:
    order = np.argsort(labels, kind="stable")
    if not len(order):
        return
    groups, starts = np.unique(labels[order], return_index=True)
    sums[groups] += np.add.reduceat(rows[order], starts, axis=0)


def _unit(rows: NDArray[np.generic]) -> NDArray[np.float32]:
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float32] = rows / np.where(norms > 0, norms, 1)
    return units
