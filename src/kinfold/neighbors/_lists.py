"""Checks of neighbours that a caller brings along."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError

_LARGEST = 2**31 - 1


def check_lists(
    indptr: ArrayLike, indices: ArrayLike, similarities: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return the three arrays of a graph, its rows sorted; :class:`InputError` where they aren't one."""
    starts, numbers = _whole(indptr, "indptr"), _whole(indices, "indices")
    if len(starts) < 2 or starts[0] != 0 or starts[-1] != len(numbers) or (np.diff(starts) < 0).any():
        raise InputError(f"indptr must rise from 0 to the number of pairs, {len(numbers)}")
    n = len(starts) - 1
    if n > _LARGEST:
        raise InputError(f"{n:,} rows are more than a graph with 32-bit indices can hold")
    rows = np.repeat(np.arange(n), np.diff(starts))
    _refuse(rows, (numbers < 0) | (numbers >= n), f"has a neighbour that is not among the {n} samples")
    _refuse(rows, numbers == rows, "is its own neighbour")
    pairs = np.sort(rows * n + numbers)
    twice = np.flatnonzero(pairs[1:] == pairs[:-1])
    if len(twice):
        raise InputError(f"row {pairs[twice[0]] // n} has the neighbour {pairs[twice[0]] % n} twice")
    values = _check_similarities(similarities, rows)
    order = np.lexsort((numbers, -values, rows))
    return starts, numbers[order].astype(np.int32), values[order]


def _check_similarities(similarities: ArrayLike | None, rows: NDArray[Any]) -> NDArray[np.float32]:
    if similarities is None:
        return np.ones(len(rows), dtype=np.float32)
    values = np.asarray(similarities)
    if values.shape != rows.shape or values.dtype.kind not in "fiu":
        raise InputError(f"similarities must be {len(rows)} numbers, one for each pair")
    values = values.astype(np.float32)
    _refuse(rows, ~(np.abs(values) <= 1), "has a similarity that is not in [-1, 1]")
    return values


def _whole(values: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a list of whole numbers")
    return array.astype(np.int64)


def _refuse(rows: NDArray[Any], wrong: NDArray[np.bool_], reason: str) -> None:
    if wrong.any():
        raise InputError(f"row {rows[np.argmax(wrong)]} {reason}")
