"""One scan of a feature matrix: which rows are all zero or not finite, and how large values are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.rows.matrix import RowMatrix

NOT_FINITE = "not finite"
ALL_ZERO = "all zero"
_BLOCK_BYTES = 1 << 26  # of rows at once: reading is at full speed long before, and it is little memory
_NAMED = 5  # rows that an error lists by number


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What one scan of a matrix found out about its rows.

    Attributes
    ----------
    largest : float64 array (n_rows,)
        Largest absolute value of every row; NaN or infinity where the row is not finite.
    """

    largest: NDArray[np.float64]

    @cached_property
    def not_finite(self) -> NDArray[np.int64]:
        """Numbers of the rows that hold NaN or infinity."""
        return np.flatnonzero(~np.isfinite(self.largest))

    @cached_property
    def all_zero(self) -> NDArray[np.int64]:
        """Numbers of the rows that are all zero: they have no cosine similarity."""
        return np.flatnonzero(self.largest == 0)

    @cached_property
    def usable(self) -> NDArray[np.int64]:
        """Numbers of the rows that are neither."""
        return np.flatnonzero(np.isfinite(self.largest) & (self.largest > 0))

    def reasons(self) -> dict[int, str]:
        """Return the rows that can't be used, ascending, each with its reason."""
        wrong = np.setdiff1d(np.arange(len(self.largest)), self.usable).tolist()
        return {row: ALL_ZERO if self.largest[row] == 0 else NOT_FINITE for row in wrong}

    def refuse_unusable(self) -> None:
        """Raise :class:`InputError` that lists the first rows that are all zero or not finite."""
        if len(self.usable) < len(self.largest):
            named = [f"{row} ({reason})" for row, reason in self.reasons().items()]
            raise InputError(
                f"cosine similarity is undefined for rows that are zero or not finite: {_list(named)}; "
                "leave these rows out"
            )

    def refuse_not_finite(self) -> None:
        """Raise :class:`InputError` that lists the first rows that are not finite."""
        if len(self.not_finite):
            named = [str(row) for row in self.not_finite]
            raise InputError(
                f"cosine similarity is undefined for rows that are not finite: {_list(named)}; leave "
                "these rows out"
            )


def scan_rows(matrix: RowMatrix, *, rows_at_once: int | None = None) -> RowFacts:
    """Read a matrix once, in blocks, and return what is known of its rows then.

    Parameters
    ----------
    matrix : RowMatrix
        Real numbers of any type.
    rows_at_once : int, optional
        By default what takes 64 MiB.
    """
    n_rows, width = int(matrix.shape[0]), int(matrix.shape[1])
    step = rows_at_once or max(1, _BLOCK_BYTES // max(1, width * matrix.dtype.itemsize))
    largest: NDArray[np.float64] = np.empty(n_rows)
    for start in range(0, n_rows, step):
        largest[start : start + step] = _largest(np.asarray(matrix[start : start + step]))
    return RowFacts(largest)


def unusable_rows(matrix: RowMatrix) -> dict[int, str]:
    """Return the rows that can't be used, each with its reason: not finite, or all zero."""
    return scan_rows(matrix).reasons()


def unusable_in_block(block: NDArray[Any]) -> dict[int, str]:
    """Return the rows of an array in memory that can't be used, each with its reason."""
    return RowFacts(_largest(block)).reasons()


def _largest(block: NDArray[Any]) -> NDArray[np.float64]:
    """Return the largest absolute value of every row; NaN or infinity where it is not finite."""
    if block.dtype == np.float16:
        # Compared by their bits, which ascend as the values do once the sign is off, NaN above infinity:
        # NumPy compares float16 itself many times more slowly.
        bits: NDArray[np.uint16] = (block.view(np.uint16) & 0x7FFF).max(axis=1)
        return bits.view(np.float16).astype(np.float64)
    # Extremes make no array of the block's size as abs does, and pass NaN on; in float64 −min can't overflow.
    high, low = (extreme(axis=1).astype(np.float64) for extreme in (block.max, block.min))
    found: NDArray[np.float64] = np.maximum(high, -low)
    return found


def _list(named: list[str]) -> str:
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more
