"""Sparse contingency table of two labelings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from kinfold.errors import InputError

# Cells up to which a table or a range of labels is counted densely whatever the number of samples: half a
# megabyte, which is less than sorting costs. Above, sparse counting keeps memory at the order of the samples.
_SMALL_TABLE = 1 << 16
_CELLS_PER_SAMPLE = 4  # a dense table may have so many more cells than samples before sorting is the cheaper


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
    shape = len(classes), len(clusters)
    cells = count_cells(class_codes, cluster_codes, *shape)
    table = sparse.csr_matrix((cells.counts, (cells.rows, cells.columns)), shape=shape)
    return Contingency(table, classes, clusters, class_codes, cluster_codes)


class Cells(NamedTuple):
    """The filled cells of a contingency table, in the order of (row, column): int64 arrays (n_cells,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: NDArray[np.int64]


def count_cells(
    row_codes: NDArray[np.integer], column_codes: NDArray[np.integer], n_rows: int, n_columns: int
) -> Cells:
    """Count how often each code of one labeling meets each of another.

    Memory is of the order of the number of samples, whatever the numbers of labels.

    Parameters
    ----------
    row_codes, column_codes : integer arrays (n_samples,)
        Codes of every sample, below ``n_rows`` and ``n_columns``.
    n_rows, n_columns : int
        Shape of the table.
    """
    # A cell is one number, so counting is a histogram or a sort of integers. astype copies.
    keys = row_codes.astype(np.int64)
    keys *= n_columns
    keys += column_codes
    if n_rows * n_columns <= max(_CELLS_PER_SAMPLE * len(keys), _SMALL_TABLE):
        table = np.bincount(keys, minlength=n_rows * n_columns)
        filled = np.flatnonzero(table)
        counts = table[filled]
    else:
        keys.sort()
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        filled, counts = keys[starts], np.diff(np.append(starts, len(keys)))
    return Cells(*np.divmod(filled, n_columns), counts.astype(np.int64, copy=False))


def best_pairs(counts: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the pairs of the best one-to-one map; pairs that never occur are left out.

    SciPy's sparse solver wants a full matching, so each row also gets a column of its own that stands for
    "no partner": with weight 1 there and ``count + 1`` on real pairs, the heaviest full matching is the best
    partial one.
    """
    n_rows, n_columns = counts.shape
    weights = counts.astype(np.float64)
    weights.data += 1
    padded = sparse.hstack([weights, sparse.identity(n_rows, format="csr")], format="csr")
    rows, columns = min_weight_full_bipartite_matching(padded, maximize=True)
    real = columns < n_columns
    return rows[real].astype(np.int64), columns[real].astype(np.int64)


def number_integers(array: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[np.integer]]:
    """Return the distinct values of an integer array that isn't empty, ascending, and each entry's number.

    Where the values lie close together a table of all of them replaces the sort.
    """
    low, high = int(array.min()), int(array.max())
    # uint64 above int64 would wrap when it is shifted.
    if high - low > max(_CELLS_PER_SAMPLE * len(array), _SMALL_TABLE) or high > np.iinfo(np.int64).max:
        distinct, codes = np.unique(array, return_inverse=True)
        return distinct, codes.reshape(-1)
    shifted = array.astype(np.int64) - low
    present = np.bincount(shifted) > 0
    return (np.flatnonzero(present) + low).astype(array.dtype), (np.cumsum(present) - 1)[shifted]


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
        distinct, codes = number_integers(array)
        return distinct.tolist(), codes.astype(np.int64, copy=False)
    distinct, codes = np.unique(array, return_inverse=True)
    return distinct.tolist(), codes.reshape(-1).astype(np.int64)


def _as_array(labels: ArrayLike) -> NDArray[Any] | None:
    """Return ``labels`` as an array, or None where NumPy would make different labels equal, as 1 and "1"."""
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
