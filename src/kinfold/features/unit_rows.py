"""Reading a matrix as rows of unit length, in blocks of bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.features.matrix import ALL_ZERO, NOT_FINITE, RowMatrix

_NAMED = 5
_COPIES = 4  # of a block while it is scaled
DEFAULT_BYTES = 1 << 28


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
        """Read everything once and raise :class:`InputError` naming the first rows without a direction."""
        wrong: list[tuple[int, str]] = []
        for start in range(0, self.n_rows, self._step):
            largest = _largest(self._load(slice(start, start + self._step)))[:, 0]
            for offset in torch.nonzero(~(torch.isfinite(largest) & (largest > 0))).flatten().tolist():
                wrong.append((start + offset, ALL_ZERO if largest[offset] == 0 else NOT_FINITE))
        if wrong:
            named = ", ".join(f"{row} ({reason})" for row, reason in wrong[:_NAMED])
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise InputError(
                f"similarity is undefined for rows that are zero or not finite: {named}{more}; "
                "leave these rows out"
            )

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


def _scaling_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    wide = dtype.itemsize > 4 or (dtype.kind in "iu" and dtype.itemsize > 2)
    return np.dtype(np.float64 if wide else np.float32)


def _largest(block: torch.Tensor) -> torch.Tensor:
    return block.abs().amax(dim=1, keepdim=True)


def _scale(block: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(block.dtype).tiny
    block = block / _largest(block).clamp_min(tiny)
    return block.div_(torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp_min(tiny))
