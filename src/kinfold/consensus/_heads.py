"""Several labelings of the same samples, numbered so that every table of them is small."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError


@dataclass(frozen=True)
class Labeling:
    """One labeling, its clusters numbered without gaps.

    Attributes
    ----------
    codes : ndarray of int32, shape (n_samples,)
        Number of each sample's cluster among the live ones, in the order of their labels.
    ids : ndarray of int64, shape (n_clusters,)
        The label that each number stands for, ascending.
    """

    codes: NDArray[np.int32]
    ids: NDArray[np.int64]

    @property
    def n_samples(self) -> int:
        """Samples labeled."""
        return len(self.codes)

    @property
    def n_clusters(self) -> int:
        """Live clusters."""
        return len(self.ids)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Samples per cluster, none of them 0."""
        return np.bincount(self.codes, minlength=self.n_clusters)

    @cached_property
    def entropy(self) -> float:
        """Entropy in nats."""
        return entropy_of(self.sizes, self.n_samples)


def read_labeling(labels: NDArray[np.integer], name: str) -> Labeling:
    """Give the clusters of one labeling numbers without gaps.

    Raises
    ------
    InputError
        A label is negative, or 2^63 or more.
    """
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0:
        where = int(np.argmax(labels < 0))
        raise InputError(
            f"{name} holds the label {int(labels[where])} at position {where}; "
            "every sample needs a cluster (0 or more) in every head, so leave such samples out"
        )
    if highest > np.iinfo(np.int64).max:
        raise InputError(f"{name} holds the label {highest}; labels must fit 64-bit signed integers")
    if highest - lowest > max(4 * len(labels), 1 << 16):  # too many possible labels for a lookup table
        ids, codes = np.unique(labels, return_inverse=True)
        return Labeling(codes.reshape(-1).astype(np.int32), ids.astype(np.int64))
    shifted = labels.astype(np.int64) - lowest
    live = np.bincount(shifted) > 0
    lookup = np.cumsum(live, dtype=np.int32) - 1
    return Labeling(lookup[shifted], np.flatnonzero(live) + lowest)


def read_heads(labels: ArrayLike) -> list[Labeling]:
    """Check labels (n_heads, n_samples) and number each head's clusters.

    Raises
    ------
    InputError
        Not two-dimensional (or heads of several lengths), empty, not of an integer type, or a label is
        negative.
    """
    array = as_array(labels, "labels")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"labels must have the shape (heads, samples), with at least one of each, but has {array.shape}"
        )
    if array.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, but are {array.dtype}")
    return [read_labeling(row, f"head {number}") for number, row in enumerate(array)]


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return values as an array; :class:`InputError` where rows are of several lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} must hold rows of one length, but: {error}") from error


def entropy_of(counts: NDArray[np.int64], total: int) -> float:
    """Return the entropy in nats of a partition with these (positive) counts."""
    return float(np.log(total) - (counts * np.log(counts)).sum() / total)
