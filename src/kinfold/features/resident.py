"""Rows that can stay in the memory of the device that works on them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.features.matrix import RowMatrix

_SHARE = 0.5  # of an accelerator's memory that rows may take
_BLOCK_BYTES = 1 << 26
_NARROW = tuple(map(np.dtype, (np.float32, np.float16, np.uint8)))  # what stays as it is on an accelerator


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
    step = max(1, _BLOCK_BYTES // (dim * dtype.itemsize))
    rows = torch.empty((n, dim), dtype=_share(np.empty(0, dtype)).dtype, device=device)
    for start in range(0, n, step):
        block = np.ascontiguousarray(X[start : start + step], dtype=dtype)
        rows[start : start + len(block)] = _share(block).to(device)
    return rows


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
