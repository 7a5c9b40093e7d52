"""Feature rows as the methods read them: checked before a fit, read in blocks, scaled on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from kinfold.compute import available_memory
from kinfold.errors import InputError
from kinfold.rows import LazyMatrix, RowFacts, RowMatrix, scan_rows, to_array
from kinfold.rows.readers import UnitRows
from kinfold.storage import hash_array, hash_json

logger = logging.getLogger(__name__)

BLOCK_BYTES = 64 << 20  # of float32 rows per block: long enough for fast products, little beside the features
# Size of a block of rows in prediction, and of its logits: large for matrix products, small beside the
# features.
PREDICT_BYTES = 8 << 20
_READ_BYTES = 8 << 20  # of rows in statistics and scaling, which make float64 copies of them
# float32 ends at 3.4e38: up to here, differences and small multiples of values stay within it.
_HUGE = 1e37
_CONSTANT = 1e-6  # deviation beside the mean, below which a column varies by float32 rounding alone
_DTYPES = [np.float32, np.float64, np.float16, np.uint8]  # kept as they are; others become the first


def check_rows(
    estimator: BaseEstimator, X: ArrayLike | RowMatrix, *, fitting: bool, any_scale: bool = False
) -> RowMatrix:
    """Return X as something that gives float rows in blocks, or say what is wrong with it.

    Arrays and tensors go through scikit-learn's validation. Memory maps and sharded matrices stay on
    disk and are checked in blocks; maps that are no matrix of numbers are refused as such arrays are.

    All-zero rows, which have no direction, are allowed with a warning that names them. X is read once.

    Parameters
    ----------
    estimator : estimator
        Whose rows these are; a fit teaches it the number and the names of the columns.
    X : array-like or row matrix (N, D)
        Features.
    fitting : bool
        Whether these are the rows of a fit, rather than rows to predict.
    any_scale : bool, default False
        Whether the method scales rows to unit length, in float64, so that no value is too large or too small.

    Raises
    ------
    InputError
        Rows that are not finite, or values that float32 can't standardize; the error names the first rows.
    """
    if _stays_on_disk(X):  # scikit-learn's validation would read all of it into memory
        matrix = cast("RowMatrix", X)
        if not fitting and matrix.shape[1] != estimator.n_features_in_:
            raise InputError(
                f"X has {matrix.shape[1]} features, but {type(estimator).__name__} was fitted on "
                f"{estimator.n_features_in_}; give features of the same backbone and variant"
            )
        validate_data(estimator, X, reset=fitting, skip_check_array=True)  # number and names of the columns
    else:
        matrix = validate_data(estimator, to_array(X), reset=fitting, dtype=_DTYPES, ensure_all_finite=False)
    facts = scan_rows(matrix)
    _refuse_not_finite(facts)
    if not any_scale:
        _refuse_beyond_float32(facts, matrix.dtype)
    if fitting and len(facts.all_zero):
        logger.warning(
            "%s of X have no direction (all zero): they are grouped arbitrarily", _name(facts.all_zero)
        )
    return matrix


def _stays_on_disk(X: ArrayLike | RowMatrix) -> bool:
    """Tell whether X is on disk in a form that blocks are taken from as they are."""
    if not isinstance(X, np.memmap):
        return isinstance(X, LazyMatrix)
    numbers = X.dtype.kind in "fiub" and X.dtype.itemsize <= 8 and X.dtype.isnative
    return numbers and X.ndim == 2 and X.shape[1] > 0


def _refuse_not_finite(facts: RowFacts) -> None:
    if len(bad := facts.not_finite):
        raise InputError(
            f"{_name(bad)} of the {len(facts.largest)} in X hold NaN or infinity; remove them, or embed "
            "these images again"
        )


def _refuse_beyond_float32(facts: RowFacts, dtype: np.dtype[Any]) -> None:
    """Raise :class:`InputError` for values that float32 can't standardize, which a constant factor mends."""
    if dtype.itemsize < np.dtype(np.float32).itemsize:
        return  # narrower types can't hold such values
    huge = np.flatnonzero(facts.largest > _HUGE)
    if len(huge):
        raise InputError(
            f"{_name(huge)} of X hold values beyond ±{_HUGE:g}; divide the features by a constant"
        )
    if 0 < facts.largest.max() < 1 / _HUGE:
        raise InputError(f"all values of X are below {1 / _HUGE:g}; multiply the features by a constant")


def _name(rows: NDArray[np.int64]) -> str:
    shown = f"({', '.join(map(str, rows[:5]))}{', …' if len(rows) > 5 else ''})"
    return f"{len(rows)} row{'s' if len(rows) != 1 else ''} {shown}"


def numpy_blocks(X: RowMatrix, n_bytes: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, block) over a row matrix."""
    size = block_rows(X, n_bytes)
    for start in range(0, X.shape[0], size):
        yield start, np.asarray(X[start : start + size])


def block_rows(X: RowMatrix, n_bytes: int | None = None) -> int:
    """Return how many float32 rows make a block of ``n_bytes`` (by default 64 MiB)."""
    return max(1, (n_bytes or BLOCK_BYTES) // (4 * max(1, int(X.shape[1]))))


def column_moments(X: RowMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (D,) of the columns of X, in one pass over it.

    The deviation of a column that is constant up to float32 rounding is exactly 0.

    References
    ----------
    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance": joining blocks.
    """
    # Block by block around the block's own mean: a sum of squares less the squared sum would lose all digits
    # of columns that lie far from zero.
    count, mean, squares = 0, np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for _, block in numpy_blocks(X, _READ_BYTES):
        rows = block.astype(np.float64)
        own = rows.mean(axis=0)
        shift, total = own - mean, count + len(rows)
        squares += np.square(rows - own).sum(axis=0) + np.square(shift) * (count * len(rows) / total)
        mean += shift * (len(rows) / total)
        count = total
    deviation = np.sqrt(squares / count)
    deviation[deviation <= _CONSTANT * np.abs(mean)] = 0.0
    return mean, deviation


def draw_rows(n_rows: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return all rows, or ``most`` of them drawn by the seed, in ascending order."""
    if n_rows <= most:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, most, replace=False))


def fingerprint_columns(X: RowMatrix) -> str:
    """Return a SHA-256 that stands for the shape of X and the sums of its columns."""
    sums = np.zeros(X.shape[1])
    for _, block in numpy_blocks(X, _READ_BYTES):
        sums += block.sum(axis=0, dtype=np.float64)
    return hash_json([list(X.shape), hash_array(sums)])


def predict_blocks(X: RowMatrix, n_clusters: int) -> Iterator[NDArray[Any]]:
    """Yield blocks of rows of which neither values nor K logits of each take more than some MiB."""
    size = max(1, PREDICT_BYTES // (4 * max(n_clusters, int(X.shape[1]))))
    return (np.asarray(X[start : start + size]) for start in range(0, X.shape[0], size))


class UnitBlocks:
    """Rows scaled to unit length, as float32 blocks on a device, to be passed over many times.

    They are kept in memory where they take at most half of what is free there; otherwise every pass
    reads and scales them again, with the same values.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    device : torch.device
        Where blocks are needed.
    part : slice, optional
        The rows that blocks go over, by default all: one process's share of them.

    Attributes
    ----------
    n_samples : int
        All rows of X.
    part : slice
        The rows that blocks go over.
    device : torch.device
        Where they are.
    """

    def __init__(self, X: RowMatrix, device: torch.device, part: slice | None = None) -> None:
        self._rows = UnitRows(X, device, n_bytes=_READ_BYTES)
        self.device = device
        self.n_samples = self._rows.n_rows
        self.part = slice(0, self.n_samples) if part is None else part
        self._size = block_rows(X)
        self._kept: list[Tensor] | None = None
        # Half: products, bounds and the caller's own features need the rest.
        if 4 * (self.part.stop - self.part.start) * self._rows.dim <= _free_bytes(device) // 2:
            self._kept = [block for _, block in self._read()]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, unit rows)."""
        if self._kept is None:
            yield from self._read()
        else:
            for index, block in enumerate(self._kept):
                yield self.part.start + index * self._size, block

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the given unit rows, of all."""
        return self._rows.take(rows)

    def _read(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(self.part.start, self.part.stop, self._size):
            yield start, self._rows.read(start, min(self.part.stop, start + self._size))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()
