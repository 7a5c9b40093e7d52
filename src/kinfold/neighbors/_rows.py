"""Reading a matrix in blocks of unit-length rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.features.matrix import RowMatrix

_NAMED = 5
_MOST_BYTES = 1 << 28
_COPIES = 4
READING_SHARE = 8


class UnitRows:
    """The rows of a matrix scaled to unit length, as float32 tensors on a device.

    A row that is zero or holds NaN or infinity has no direction; :meth:`check` refuses it by number.

    Parameters
    ----------
    matrix : RowMatrix
        Real numbers of any type.
    device : torch.device
        Where the rows are wanted.
    budget : int
        Bytes of working memory, of which reading takes at most an eighth.
    """

    def __init__(self, matrix: RowMatrix, device: torch.device, budget: int) -> None:
        self._matrix = matrix
        self._device = device
        self.n_rows, self.dim = int(matrix.shape[0]), int(matrix.shape[1])
        bytes_read = min(_MOST_BYTES, budget // READING_SHARE)
        self._step = max(1, bytes_read // (8 * _COPIES * self.dim))

    def check(self) -> None:
        """Read everything once and raise :class:`InputError` naming the first rows without a direction."""
        wrong: list[tuple[int, str]] = []
        step = self._step
        for start in range(0, self.n_rows, step):
            largest = _largest(self._load(slice(start, min(self.n_rows, start + step))))
            for offset in torch.nonzero(~(torch.isfinite(largest) & (largest > 0))).flatten().tolist():
                kind = "all zero" if largest[offset] == 0 else "not finite"
                wrong.append((start + offset, kind))
        if wrong:
            named = ", ".join(f"{row} ({kind})" for row, kind in wrong[:_NAMED])
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            raise InputError(
                f"similarity is undefined for rows that are zero or not finite: {named}{more}; "
                "leave these rows out"
            )

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Return rows ``start`` to ``stop`` at unit length, float32, (stop − start, dim)."""
        out = torch.empty((stop - start, self.dim), dtype=torch.float32, device=self._device)
        step = self._step
        for first in range(start, stop, step):
            last = min(stop, first + step)
            out[first - start : last - start] = _unit(self._load(slice(first, last)))
        return out

    def take(self, rows: NDArray[Any]) -> torch.Tensor:
        """Return the given rows at unit length, float32."""
        return _unit(self._load(rows)).to(torch.float32)

    def _load(self, rows: slice | NDArray[Any]) -> torch.Tensor:
        block = np.asarray(self._matrix[rows])
        wide = block.dtype.itemsize > 4 or (block.dtype.kind in "iu" and block.dtype.itemsize > 2)
        return torch.from_numpy(np.array(block, dtype=np.float64 if wide else np.float32)).to(self._device)


def _largest(block: torch.Tensor) -> torch.Tensor:
    return block.abs().amax(dim=1)


def _unit(block: torch.Tensor) -> torch.Tensor:
    # Dividing by the largest entry first keeps the squares of huge and tiny values in range.
    scaled = block / _largest(block)[:, None]
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=1, keepdim=True))
