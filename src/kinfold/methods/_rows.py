"""Feature rows as the methods read them: checked once, in blocks, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data
from torch import Tensor

from kinfold.errors import InputError
from kinfold.features import ShardedMatrix

BLOCK_BYTES = 64 << 20


def check_rows(estimator: Any, X: Any, *, fitting: bool) -> Any:
    """Return X as something that gives float rows in blocks, or say what is wrong with it.

    Arrays go through scikit-learn's validation. Memory maps and sharded matrices stay on disk and are
    checked in blocks.

    Raises
    ------
    InputError
        Rows that are not finite or, while fitting, all zero; the error names the first of them.
    """
    if isinstance(X, ShardedMatrix | np.memmap):
        if fitting:
            estimator.n_features_in_ = int(X.shape[1])
        elif X.shape[1] != estimator.n_features_in_:
            raise InputError(
                f"X has {X.shape[1]} features, but {type(estimator).__name__} was fitted on "
                f"{estimator.n_features_in_}"
            )
    else:
        X = validate_data(
            estimator, X, reset=fitting, dtype=_DTYPES, ensure_all_finite=True, ensure_min_samples=1
        )
    refuse_unusable_rows(X)
    return X


_DTYPES = [np.float32, np.float64, np.float16, np.uint8]


def refuse_unusable_rows(X: Any) -> None:
    """Raise :class:`InputError` that names the first rows that are not finite or all zero."""
    not_finite: list[int] = []
    zero: list[int] = []
    for start, block in numpy_blocks(X):
        norms = np.abs(block).max(axis=1).astype(np.float64) if block.shape[1] else np.zeros(len(block))
        not_finite += (start + np.flatnonzero(~np.isfinite(norms))).tolist()
        zero += (start + np.flatnonzero(norms == 0)).tolist()
    for rows, what in ((not_finite, "not finite (NaN or infinite values)"), (zero, "all zero")):
        if rows:
            named = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
            raise InputError(
                f"{len(rows)} of {X.shape[0]} rows of X are {what}: rows {named}. Remove them, or embed the "
                "images again; a row without a direction has no cosine similarity."
            )


def numpy_blocks(X: Any, n_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, block) over a row matrix."""
    size = block_rows(X, n_bytes)
    for start in range(0, X.shape[0], size):
        yield start, np.asarray(X[start : start + size])


def block_rows(X: Any, n_bytes: int = BLOCK_BYTES) -> int:
    """Return how many float32 rows make a block of ``n_bytes``."""
    return max(1, n_bytes // (4 * max(1, int(X.shape[1]))))


class UnitRows:
    """Rows scaled to unit length, as float32 blocks on a device.

    They are kept in memory where they take at most half of what is free there; otherwise every pass
    reads and scales them again, with the same values.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    device : torch.device
        Where blocks are needed.
    """

    def __init__(self, X: Any, device: torch.device) -> None:
        self._X, self._device = X, device
        self.n_samples, self.n_features = int(X.shape[0]), int(X.shape[1])
        self._size = block_rows(X)
        self._kept: list[Tensor] | None = None
        if 4 * self.n_samples * self.n_features <= _free_bytes(device) // 2:
            self._kept = [block for _, block in self._read()]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (first row, unit rows)."""
        if self._kept is None:
            yield from self._read()
        else:
            for index, block in enumerate(self._kept):
                yield index * self._size, block

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the given unit rows."""
        return unit(self._to_device(np.asarray(self._X[rows])))

    def _read(self) -> Iterator[tuple[int, Tensor]]:
        for start, block in numpy_blocks(self._X):
            yield start, unit(self._to_device(block))

    def _to_device(self, block: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(block, dtype=np.float32)).to(self._device)


def unit(rows: Tensor) -> Tensor:
    """Scale rows to unit length; tiny and huge rows keep their direction."""
    tiny = torch.finfo(rows.dtype).tiny
    rows = rows / rows.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    scaled: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(tiny)
    return scaled


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    from kinfold.compute import available_memory

    return available_memory()
