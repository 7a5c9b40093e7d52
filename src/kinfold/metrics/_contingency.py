"""The sparse table of how often each class meets each cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kinfold.errors import InputError

_SMALL_TABLE = 1 << 16  # cells


@dataclass(frozen=True)
class Contingency:
    """Counts of (class, cluster) pairs, with the labels they stand for.

    Attributes
    ----------
    counts : scipy.sparse.csr_matrix of int64, shape (n_classes, n_clusters)
        Only pairs that occur are stored.
    classes, clusters : list
        The labels of the rows and of the columns.
    class_codes, cluster_codes : ndarray of int64, shape (n_samples,)
        Row and column of every sample.
    """

    counts: Any
    classes: list[Any]
    clusters: list[Any]
    class_codes: NDArray[np.int64]
    cluster_codes: NDArray[np.int64]

    @property
    def n_samples(self) -> int:
        """Number of samples counted."""
        return len(self.class_codes)

    @property
    def n_pairs(self) -> int:
        """Number of different pairs that occur."""
        return int(self.counts.nnz)

    def class_sizes(self) -> NDArray[np.int64]:
        """Return the samples per class."""
        return np.bincount(self.class_codes, minlength=len(self.classes))

    def cluster_sizes(self) -> NDArray[np.int64]:
        """Return the samples per cluster."""
        return np.bincount(self.cluster_codes, minlength=len(self.clusters))


def count_pairs(y_true: ArrayLike, y_pred: ArrayLike) -> Contingency:
    """Count how often each class meets each cluster.

    Raises
    ------
    InputError
        The two differ in length, are empty, are not one-dimensional, or hold NaN or unhashable labels.
    """
    classes, class_codes = encode(y_true, "y_true")
    clusters, cluster_codes = encode(y_pred, "y_pred")
    if len(class_codes) != len(cluster_codes):
        raise InputError(
            f"y_true has {len(class_codes)} labels and y_pred {len(cluster_codes)}; "
            "give one of each per sample, in the same order"
        )
    if not len(class_codes):
        raise InputError("y_true and y_pred are empty; there is nothing to compare")
    return table_of_codes(classes, class_codes, clusters, cluster_codes)


def table_of_codes(
    classes: list[Any], class_codes: NDArray[np.int64], clusters: list[Any], cluster_codes: NDArray[np.int64]
) -> Contingency:
    """Count pairs of encoded labels, in memory of the order of samples and labels."""
    width, n = len(clusters), len(class_codes)
    keys = class_codes * width
    keys += cluster_codes
    if len(classes) * width <= max(4 * n, _SMALL_TABLE):
        table = np.bincount(keys, minlength=len(classes) * width)
        pairs = np.flatnonzero(table)
        counts = table[pairs]
    else:
        keys.sort()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        pairs, counts = keys[starts], np.diff(np.append(starts, n))
    where = np.divmod(pairs, width)
    table = sparse.csr_matrix((counts.astype(np.int64), where), shape=(len(classes), width))
    return Contingency(table, classes, clusters, class_codes, cluster_codes)


def encode(labels: ArrayLike, name: str) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct labels and every sample's number among them, sorted where their type allows it."""
    array = _as_array(labels)
    if array is None:
        return _encode_objects(list(labels), name)  # type: ignore[arg-type]
    if array.ndim != 1:
        raise InputError(f"{name} must be one-dimensional, but has the shape {array.shape}")
    if array.dtype == object:
        return _encode_objects(list(array), name)
    if array.dtype.kind in "fc" and np.isnan(array).any():
        raise InputError(
            f"{name} holds NaN at position {int(np.isnan(array).argmax())}; leave such samples out"
        )
    if array.dtype.kind in "biu" and len(array):
        return _encode_integers(array)
    distinct, codes = np.unique(array, return_inverse=True)
    return distinct.tolist(), codes.reshape(-1).astype(np.int64)


def _encode_integers(array: NDArray[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """Do what :func:`encode` does, without sorting where the numbers lie close together."""
    low, high = int(array.min()), int(array.max())
    if high - low > max(4 * len(array), _SMALL_TABLE) or high > np.iinfo(np.int64).max:
        distinct, codes = np.unique(array, return_inverse=True)
        return distinct.tolist(), codes.reshape(-1).astype(np.int64)
    places = array.astype(np.int64) - low
    present = np.bincount(places) > 0
    codes = (np.cumsum(present) - 1)[places]
    return (np.flatnonzero(present) + low).astype(array.dtype).tolist(), codes


def _as_array(labels: ArrayLike) -> NDArray[Any] | None:
    """Return ``labels`` as an array, or None where NumPy would melt different labels into one."""
    if hasattr(labels, "__array__"):
        return np.asarray(labels)
    values = list(labels)  # type: ignore[arg-type]
    kinds = {type(value) for value in values}
    plain = len(kinds) == 1 and issubclass(next(iter(kinds)), (bool, int, float, str, bytes, np.generic))
    return np.asarray(values) if plain else None


def _encode_objects(values: list[Any], name: str) -> tuple[list[Any], NDArray[np.int64]]:
    numbers: dict[Any, int] = {}
    codes = np.empty(len(values), dtype=np.int64)
    for position, value in enumerate(values):
        if isinstance(value, float) and value != value:
            raise InputError(f"{name} holds NaN at position {position}; leave such samples out")
        try:
            codes[position] = numbers.setdefault(value, len(numbers))
        except TypeError as error:
            raise InputError(
                f"{name} holds a label of type {type(value).__name__} at position {position}, "
                "which can't be compared; use numbers or strings"
            ) from error
    return list(numbers), codes
