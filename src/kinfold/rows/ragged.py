"""Ragged lists: many lists of different lengths in one array, and where each begins (as in CSR matrices)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def starts_of(counts: ArrayLike) -> NDArray[np.int64]:
    """Return where lists of these lengths begin and end, int64 (n_lists + 1,).

    Examples
    --------
    >>> starts_of([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    lengths = np.asarray(counts)
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def entries_of(starts: NDArray[np.int64], lists: NDArray[np.integer]) -> tuple[NDArray[np.int64], ...]:
    """Return the entries of some lists, pair by pair.

    Parameters
    ----------
    starts : int64 array (n_lists + 1,)
        Where each list begins.
    lists : integer array
        Numbers of the lists that are wanted, in any order, with repetitions.

    Returns
    -------
    owners, places : int64 arrays (n_entries,)
        Position in ``lists`` of the list that an entry belongs to, and where the entry stands.

    Examples
    --------
    >>> owners, places = entries_of(starts_of([2, 0, 3]), np.array([2, 0]))
    >>> owners.tolist(), places.tolist()
    ([0, 0, 0, 1, 1], [2, 3, 4, 0, 1])
    """
    counts = np.diff(starts)[lists]
    owners = np.repeat(np.arange(len(lists)), counts)
    offsets = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owners, np.repeat(starts[lists], counts) + offsets


def blocks_of(starts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of consecutive lists of at most ``most`` entries together, or one list of more."""
    first, n_lists = 0, len(starts) - 1
    while first < n_lists:
        last = int(np.searchsorted(starts, starts[first] + most, side="right")) - 1
        yield first, max(first + 1, last)
        first = max(first + 1, last)
