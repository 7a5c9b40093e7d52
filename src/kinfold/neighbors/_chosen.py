"""Rows that have a direction, as a matrix of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.features.matrix import ALL_ZERO, NOT_FINITE, LazyMatrix, RowMatrix, unusable_rows

_NAMED = 5


class ChosenRows(LazyMatrix):
    """Some rows of a matrix, read from where they are.

    Parameters
    ----------
    matrix : RowMatrix
        All rows.
    chosen : int64 array
        Numbers of the rows that are wanted.
    """

    def __init__(self, matrix: RowMatrix, chosen: NDArray[np.int64]) -> None:
        self._matrix, self._chosen = matrix, chosen
        self.shape = (len(chosen), int(matrix.shape[1]))
        self.dtype = matrix.dtype

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return self._take(np.arange(start, stop))

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self._matrix[self._chosen[rows]])


def rows_with_direction(matrix: RowMatrix) -> NDArray[np.int64]:
    """Return the numbers of the rows that aren't all zero.

    Raises
    ------
    InputError
        Rows are not finite; the first ones are named.
    """
    reasons = unusable_rows(matrix)
    bad = [row for row, reason in reasons.items() if reason == NOT_FINITE]
    if bad:
        named = ", ".join(map(str, bad[:_NAMED]))
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise InputError(f"similarity is undefined for rows that are not finite: {named}{more}")
    zero = [row for row, reason in reasons.items() if reason == ALL_ZERO]
    return np.delete(np.arange(int(matrix.shape[0]), dtype=np.int64), zero)
