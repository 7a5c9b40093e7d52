"""Rows as TAC sees them: images at unit length, images beside their text counterparts, neighbours of both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import Progress
from kinfold.rows import LazyMatrix
from kinfold.rows.readers import UnitRows

_CPU = torch.device("cpu")


class UnitMatrix(LazyMatrix):
    """The rows of a matrix at unit length, float32, scaled as they are read.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    """

    def __init__(self, X: Any) -> None:
        self._rows = UnitRows(X, _CPU)
        self.shape = (self._rows.n_rows, self._rows.dim)
        self.dtype = np.dtype(np.float32)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return self._rows.read(start, stop).numpy()

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows.take(rows).numpy()


class JointMatrix(LazyMatrix):
    """Rows [v ‖ t̃]: those of two matrices side by side.

    Parameters
    ----------
    images, texts : row matrix (N, D)
        Both float32, at unit length.
    """

    def __init__(self, images: Any, texts: Any) -> None:
        self._parts = images, texts
        self.shape = (int(images.shape[0]), int(images.shape[1] + texts.shape[1]))
        self.dtype = np.dtype(np.float32)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return np.concatenate([part[start:stop] for part in self._parts], axis=1)

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([part[rows] for part in self._parts], axis=1)


def unit_matrix(X: Any) -> Any:
    """Return the rows of X at unit length, float32: in memory where X is, else scaled as they are read."""
    rows = UnitMatrix(X)
    in_memory = isinstance(X, np.ndarray) and not isinstance(X, np.memmap)
    return rows[:] if in_memory else rows


class Neighbors:
    """The neighbours of images, found when they are first asked for, and those of texts."""

    def __init__(
        self, X: Any, graph: NeighborGraph | None, options: dict[str, Any], device: str, progress: Progress
    ) -> None:
        self._X, self._graph = X, graph
        self._options, self._device, self._progress = options, device, progress

    def __call__(self) -> NeighborGraph:
        """Return those of images."""
        if self._graph is None:
            self._graph = self.of(self._X)
        return self._graph

    def of(self, rows: Any) -> NeighborGraph:
        """Return those of other rows."""
        return knn_graph(
            rows, **self._options, zero_rows="isolate", device=self._device, progress=self._progress
        )
