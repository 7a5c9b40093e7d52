"""Readers of rows as tensors: at unit length block by block, or resident on a device."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.rows.facts import scan_rows
from kinfold.rows.matrix import RowMatrix

DEFAULT_BYTES = 1 << 28  # of a block of rows while they are scaled; larger ones are no faster
_COPIES = 4  # of a block while it is scaled
_SHARE = 0.5  # of an accelerator's memory that rows may take: a method's own tensors need the other half
_COPIED_BYTES = 1 << 26  # of rows on their way to an accelerator
_NARROW = tuple(map(np.dtype, (np.float32, np.float16, np.uint8)))  # what stays as it is on an accelerator


class UnitRows:
    """The rows of a matrix scaled to unit length, as float32 tensors on a device.

    Rows are scaled in float32, or in float64 where their type needs it, by their largest entry first, so
    that tiny and huge ones keep their direction. An all-zero row stays zero; one that isn't finite becomes
    NaN. :meth:`check` refuses both by number.

    Parameters
    ----------
    matrix : RowMatrix
        Real numbers of any type.
    device : torch.device
        Where the rows are wanted; also an attribute.
    n_bytes : int, default 256 MiB
        What reading may take besides the rows that are returned; never more than 256 MiB are used.
    """

    def __init__(
        self,
        matrix: RowMatrix,
        device: torch.device,
        *,
        n_bytes: int = DEFAULT_BYTES,
    ) -> None:
        self._matrix = matrix
        self.device = device
        self._dtype = _scaling_dtype(matrix.dtype)
        self.n_rows, self.dim = int(matrix.shape[0]), int(matrix.shape[1])
        self._step = max(1, min(n_bytes, DEFAULT_BYTES) // (8 * _COPIES * self.dim))

    def check(self) -> None:
        """Read everything once; raise :class:`InputError` that lists rows that are all zero or not finite."""
        scan_rows(self._matrix, rows_at_once=self._step).refuse_unusable()

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` at unit length, float32, (stop − start, dim)."""
        out = torch.empty((stop - start, self.dim), dtype=torch.float32, device=self.device)
        for first in range(start, stop, self._step):
            last = min(stop, first + self._step)
            out[first - start : last - start] = _scale(self._load(slice(first, last)))
        return out

    def take(self, rows: NDArray[Any]) -> torch.Tensor:
        """Return the given rows at unit length, float32, (len(rows), dim)."""
        return _scale(self._load(rows)).to(torch.float32)

    def _load(self, rows: slice | NDArray[Any]) -> torch.Tensor:
        """Return rows as they are stored, never to be written to: they may be the matrix's own memory."""
        return torch.from_numpy(np.require(self._matrix[rows], self._dtype, ["C", "W"])).to(self.device)


def resident_rows(X: RowMatrix | torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """Return all rows as one tensor on a device, or None where they had better be read as they are needed.

    On the CPU an array is shared rather than copied, also a read-only one, so the tensor must never be
    written to; what is on disk stays there. An accelerator gets a copy of rows that take at most half of its
    memory, wherever they are, made block by block; types wider than float32 become that.

    Parameters
    ----------
    X : array, tensor or row matrix (N, D)
        Real numbers; those of wider types must fit float32.
    device : torch.device
        Where rows are wanted.

    Returns
    -------
    Tensor (N, D) or None
    """
    if isinstance(X, torch.Tensor):
        return X.to(device)
    if device.type == "cpu":
        in_memory = isinstance(X, np.ndarray) and not isinstance(X, np.memmap)
        return _share(np.ascontiguousarray(X)) if in_memory else None
    n, dim = int(X.shape[0]), int(X.shape[1])
    dtype = X.dtype if X.dtype in _NARROW else np.dtype(np.float32)
    if n * dim * dtype.itemsize > _SHARE * _total_memory(device):
        return None
    step = max(1, _COPIED_BYTES // (dim * dtype.itemsize))
    rows = torch.empty((n, dim), dtype=_share(np.empty(0, dtype)).dtype, device=device)
    for start in range(0, n, step):
        block = np.ascontiguousarray(X[start : start + step], dtype=dtype)
        rows[start : start + len(block)] = _share(block).to(device)
    return rows


def _scaling_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    wide = dtype.itemsize > 4 or (dtype.kind in "iu" and dtype.itemsize > 2)
    return np.dtype(np.float64 if wide else np.float32)


def _largest(block: torch.Tensor) -> torch.Tensor:
    return block.abs().amax(dim=1, keepdim=True)


def _scale(block: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(block.dtype).tiny
    block = block / _largest(block).clamp_min(tiny)
    return block.div_(torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp_min(tiny))


def _share(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor on the array's memory, without PyTorch's warning that it is read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _total_memory(device: torch.device) -> int:
    """Return the bytes of an accelerator's memory: the same at any time, so that runs repeat."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(torch.mps.recommended_max_memory())
