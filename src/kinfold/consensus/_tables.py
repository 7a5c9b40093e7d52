"""How often the clusters of two labelings meet: the sparse table behind every agreement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus._heads import Labeling, entropy_of


@dataclass(frozen=True)
class PairTable:
    """The pairs of clusters that meet, in the order of (row, column).

    Attributes
    ----------
    rows, columns : ndarray of int64, shape (n_pairs,)
        Cluster numbers in the first and in the second labeling.
    counts : ndarray of int64, shape (n_pairs,)
        Samples in both, 1 or more.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: NDArray[np.int64]


def count_pairs(first: Labeling, second: Labeling) -> PairTable:
    """Count how often each cluster of ``first`` meets each of ``second``.

    Memory is of the order of the number of samples, whatever the numbers of clusters.
    """
    width = second.n_clusters
    cells = first.n_clusters * width
    keys = first.codes.astype(np.int64)
    keys *= width
    keys += second.codes
    if cells <= max(4 * first.n_samples, 1 << 16):
        counts = np.bincount(keys, minlength=cells)
        met = np.flatnonzero(counts)
        return PairTable(*np.divmod(met, width), counts[met])
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    counts = np.diff(np.append(starts, len(keys)))
    return PairTable(*np.divmod(keys[starts], width), counts)


def geometric_nmi(first: Labeling, second: Labeling, table: PairTable) -> float:
    """Return I(a; b) / sqrt(H(a) H(b)) (Strehl and Ghosh 2002, equation 2), between 0 and 1.

    One cluster against one cluster gives 1, one against several gives 0, as in ``kinfold.metrics``.
    """
    if first.n_clusters == 1 or second.n_clusters == 1:
        return float(first.n_clusters == second.n_clusters)
    joint = entropy_of(table.counts, first.n_samples)
    information = first.entropy + second.entropy - joint
    return float(np.clip(information / np.sqrt(first.entropy * second.entropy), 0.0, 1.0))
