"""A run's columns, as lists and searches need them: kept in memory once, never written to."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError
from kinfold.run import Run


@dataclass(frozen=True, eq=False)
class Columns:
    """The images of a run by place, which is the position in ``run.assignments``.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Row number in the source, ascending.
    keys : pyarrow.LargeStringArray, length n
        Their keys.
    confidence : ndarray of float32, shape (n,)
        Of the run's first choice, in [0, 1].
    top : ndarray of int32, shape (n, k)
        The run's best groups, best first.
    probabilities : ndarray of float32, shape (n, k)
        Their probabilities.
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
            raise FormatError(f"the assignments in {run.path} are damaged: their rows don't rise")
        keys = table["key"].cast(pa.large_string()).combine_chunks()
        labels = run.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < run.n_clusters:
            raise FormatError(
                f"the assignments in {run.path} are damaged: they name groups that there aren't"
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
        """Return where a row of the source is; None where the run doesn't list it."""
        if not 0 <= row < 1 << 62:
            return None
        place = int(np.searchsorted(self.rows, row))
        return place if place < len(self.rows) and int(self.rows[place]) == row else None

    def margin(self) -> NDArray[np.float32]:
        """Return by how much each image's first choice is ahead of its second."""
        if self.probabilities.shape[1] < 2:
            return self.confidence
        return self.probabilities[:, 0] - self.probabilities[:, 1]

    @cached_property
    def key_order(self) -> NDArray[np.int32]:
        """All places in the order of their keys."""
        with self._guard:
            order: NDArray[np.int32] = pc.sort_indices(self.keys).to_numpy().astype(np.int32)
            return order

    @cached_property
    def confidence_order(self) -> NDArray[np.int32]:
        """All places, the most confident first; equal ones in the order of rows."""
        return np.argsort(-self.confidence, kind="stable").astype(np.int32)

    @cached_property
    def _folded_keys(self) -> Any:
        with self._guard:
            return pc.utf8_lower(self.keys)

    def search(self, text: str) -> NDArray[np.bool_]:
        """Tell of every image whether its key contains ``text``, in whatever case.

        Raises
        ------
        InputError
            The text isn't Unicode.
        """
        try:
            found = pc.match_substring(self._folded_keys, text.lower())
        except UnicodeEncodeError as error:
            raise InputError("what is searched for is no text") from error
        mask: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
        return mask


def _as_matrix(run: Run, column: Any, dtype: Any) -> NDArray[Any]:
    """Return a column of lists, all of one length, as a matrix."""
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
