"""Matrices that are read row by row: one interface over arrays, memory maps and shards on disk."""

from __future__ import annotations

import errno
import mmap
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import FormatError, InputError
from kinfold.reading import read_npy_header, reading, refuse_objects

_npy: Any = np.lib.format  # it has no types
_MAPS_KEPT = 128  # open shards: systems allow a process 256 files and more, and other files need some
_NO_MAPS = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of FUSE and some network drives


@runtime_checkable
class RowMatrix(Protocol):
    """A two-dimensional matrix whose rows can be read in parts: an array, a memory map, shards on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """Read the rows of a slice or of an array of row numbers."""


def as_row_matrix(X: ArrayLike | RowMatrix) -> RowMatrix:
    """Return ``X`` as a matrix of real numbers that is read row by row, without copying what is one already.

    Parameters
    ----------
    X : array-like or RowMatrix of shape (n_samples, n_features)
        A NumPy array or memory map, shards, a tensor, or nested sequences of numbers.

    Raises
    ------
    InputError
        ``X`` is sparse, not two-dimensional, empty, or not of real numbers.
    """
    if hasattr(X, "toarray"):
        raise InputError("features are a sparse matrix; pass a dense one (X.toarray())")
    X = to_array(X)
    matrix = X if _reads_rows(X) else _as_array(cast("ArrayLike", X))
    matrix = cast("RowMatrix", matrix)
    check_matrix(tuple(matrix.shape), matrix.dtype, "features")
    return matrix


def to_array(X: Any) -> Any:
    """Return a PyTorch tensor of any type as a NumPy array; anything else as it is."""
    if not hasattr(X, "detach"):
        return X
    tensor = X.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def check_matrix(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    """Refuse what can't be a feature matrix: not 2-D, empty, or not of real numbers."""
    if len(shape) != 2:
        raise InputError(f"{name} must be a matrix of rows and columns, but the shape is {tuple(shape)}")
    if shape[0] == 0 or shape[1] == 0:
        raise InputError(
            f"{name} holds nothing: the shape is {tuple(shape)}; give one row or more of one column or more"
        )
    if dtype.kind not in "fiub":
        raise InputError(f"{name} must hold real numbers, but the type is {dtype}")


class LazyMatrix(ABC):
    """A matrix whose rows stay where they are until they are asked for.

    Slices and arrays of row numbers (in any order, with repetitions, negative ones from the end) or masks
    give NumPy arrays of their own; a single row number gives one row.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ndim = 2

    @abstractmethod
    def _range(self, start: int, stop: int) -> NDArray[Any]:
        """Read consecutive rows."""

    @abstractmethod
    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read the given rows, all of them valid and not negative."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, (int, np.integer)):
            row = self._take(self._from_start(np.asarray([rows], dtype=np.int64)))[0]
            return cast("NDArray[Any]", row)
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                return self._range(start, max(start, stop))
            return self._take(np.arange(start, stop, step, dtype=np.int64))
        index = np.asarray(rows)
        if index.dtype == np.bool_:
            if index.shape != (self.shape[0],):
                raise IndexError(f"a mask of shape {index.shape} does not fit {self.shape[0]} rows")
            index = np.flatnonzero(index)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise IndexError("rows are chosen by a slice or by a one-dimensional array of integers")
        return self._take(self._from_start(index.astype(np.int64)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("rows on disk become an array only by a copy")
        array = self._range(0, self.shape[0])
        return array if dtype is None else array.astype(dtype, copy=False)

    def _from_start(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        n = self.shape[0]
        wrong = (index < -n) | (index >= n)
        if wrong.any():
            raise IndexError(f"row {int(index[wrong][0])} is out of range for {n} rows")
        return np.where(index < 0, index + n, index)


class ShardedMatrix(LazyMatrix):
    """The rows of several ``.npy`` files as one matrix; each file is memory-mapped when it is read.

    Parameters
    ----------
    paths : sequence of Path
        The shards, in order.
    lengths : sequence of int
        Rows of every shard; empty shards are allowed.
    dim : int
        Columns.
    dtype : dtype
        Type of the values in every shard.
    """

    def __init__(self, paths: Sequence[Path], lengths: Sequence[int], dim: int, dtype: Any) -> None:
        self._paths = tuple(paths)
        sizes = np.asarray(lengths, dtype=np.int64)
        self._ends: NDArray[np.int64] = np.cumsum(sizes)
        self._starts = self._ends - sizes
        self._maps: dict[int, NDArray[Any]] = {}
        self.shape = (int(sizes.sum()), int(dim))
        self.dtype = np.dtype(dtype)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, self.shape[1]), dtype=self.dtype)
        done = start
        while done < stop:
            number = bisect_right(self._ends, done)
            first = int(self._starts[number])
            end = min(stop, int(self._ends[number]))
            out[done - start : end - start] = self._shard(number)[done - first : end - first]
            done = end
        return out

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), self.shape[1]), dtype=self.dtype)
        shards = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(shards).tolist():
            wanted = np.flatnonzero(shards == number)
            out[wanted] = self._shard(number)[rows[wanted] - self._starts[number]]
        return out

    def _shard(self, number: int) -> NDArray[Any]:
        """Return a mapped shard; few stay open, since each open map holds a file descriptor."""
        mapped = self._maps.pop(number, None)
        if mapped is None:
            mapped = map_npy(self._paths[number])
            expected = (int(self._ends[number] - self._starts[number]), self.shape[1])
            if mapped.shape != expected or mapped.dtype != self.dtype:
                raise FormatError(
                    f"{self._paths[number]} is damaged: it holds {mapped.shape} values of {mapped.dtype}, "
                    f"not {expected} of {self.dtype}"
                )
        self._maps[number] = mapped
        while len(self._maps) > _MAPS_KEPT:
            self._maps.pop(next(iter(self._maps), number), None)
        return mapped

    def close(self) -> None:
        """Close the mapped shards; they are opened again when they are read."""
        self._maps.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


class SelectedRows(LazyMatrix):
    """Some rows of another matrix, read from it when they are asked for.

    Parameters
    ----------
    matrix : RowMatrix
        The matrix underneath.
    rows : int64 array
        The rows to show, in their order.

    Attributes
    ----------
    matrix : RowMatrix
        The same.
    """

    def __init__(self, matrix: RowMatrix, rows: NDArray[np.int64]) -> None:
        self.matrix = matrix
        self._rows = rows
        self.shape = (len(rows), int(matrix.shape[1]))
        self.dtype = matrix.dtype

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return np.asarray(self.matrix[self._rows[start:stop]])

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.matrix[self._rows[rows]])


class NativeRows(LazyMatrix):
    """The rows of a matrix whose type PyTorch doesn't know, in one that it does: float64, or native order.

    Parameters
    ----------
    matrix : RowMatrix
        Long doubles, or numbers in the byte order of other machines.
    """

    def __init__(self, matrix: RowMatrix) -> None:
        self.matrix = matrix
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        wide = matrix.dtype.itemsize > np.dtype(np.float64).itemsize
        self.dtype = np.dtype(np.float64) if wide else matrix.dtype.newbyteorder("=")

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return self._take(cast("NDArray[np.int64]", slice(start, stop)))

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64 is infinity, so a row to skip
            return np.ascontiguousarray(self.matrix[rows], self.dtype)


def as_native(matrix: RowMatrix) -> RowMatrix:
    """Return a matrix of real numbers as it is, or its :class:`NativeRows` where PyTorch needs them."""
    usual = matrix.dtype.isnative and matrix.dtype.itemsize <= np.dtype(np.float64).itemsize
    return matrix if usual else NativeRows(matrix)


def let_go(matrix: RowMatrix) -> None:
    """Give the pages of mapped files that were read back to the system, which keeps them in its cache.

    What a process has read of a mapped file counts as its memory until the system needs the room. Rows are
    the same afterwards, and need a moment to come back. Arrays in memory stay as they are.
    """
    if isinstance(matrix, SelectedRows | NativeRows):
        let_go(matrix.matrix)
    elif isinstance(matrix, ShardedMatrix):
        matrix.close()
    elif isinstance(matrix, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages = matrix.base
        while isinstance(pages, np.ndarray):
            pages = pages.base
        if isinstance(pages, mmap.mmap) and matrix.mode == "r":
            pages.madvise(mmap.MADV_DONTNEED)


def map_npy(path: Path) -> NDArray[Any]:
    """Open a ``.npy`` file as a read-only memory map; if damaged, :class:`FormatError`.

    Where the file system can't map files it is read into memory.
    """
    with reading(path):
        with path.open("rb") as stream:
            shape, dtype = read_npy_header(stream)
        refuse_objects(path, dtype)
        if 0 in shape:  # what holds no values can't be mapped
            return np.empty(shape, dtype)
        try:
            return cast("NDArray[Any]", _npy.open_memmap(path, mode="r"))
        except OSError as error:
            if error.errno not in _NO_MAPS:
                raise
        with path.open("rb") as stream:
            return cast("NDArray[Any]", _npy.read_array(stream, allow_pickle=False))


def _reads_rows(X: object) -> bool:
    return isinstance(X, RowMatrix) and isinstance(X.dtype, np.dtype) and not isinstance(X, np.matrix)


def _as_array(X: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(X)
    except ValueError as error:
        raise InputError(f"features must be a matrix of rows and columns: {error}") from error
