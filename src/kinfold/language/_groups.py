"""What naming knows of groups: their centres, and a few of their images each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.errors import InputError
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

_BLOCK_BYTES = 64 << 20
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Groups:
    """Groups of rows.

    Attributes
    ----------
    sizes : ndarray (K,) int64
        Rows of each group.
    members : ndarray (K,) int64
        Those of them that have a direction.
    centres : Tensor (K, D) float32
        Mean of the unit rows at unit length; zero where there is none.
    samples : tuple of K ndarrays, int64
        Rows that stand for each group, ascending; they have a direction.
    """

    sizes: NDArray[np.int64]
    members: NDArray[np.int64]
    centres: Tensor
    samples: tuple[NDArray[np.int64], ...]

    @property
    def alive(self) -> NDArray[np.int64]:
        """The groups that have a centre, ascending."""
        return np.flatnonzero(torch.linalg.vector_norm(self.centres, dim=1).cpu().numpy() > 0.5)


def read_groups(
    X: RowMatrix,
    labels: NDArray[np.int64],
    n_clusters: int,
    *,
    n_samples: int,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> Groups:
    """Read all rows once and return their groups.

    Which rows stand for a group depends on the seed and on what is in the rows, not on where they are, so
    that the same rows in another order give the same groups.

    Parameters
    ----------
    X : RowMatrix (N, D)
        Rows of any length. One that is zero has no direction and counts in ``sizes`` alone.
    labels : ndarray (N,) int64
        Group of each row, −1 for none.
    n_clusters : int
        K.
    n_samples : int
        Rows that stand for a group at most.
    seed : int
        Of the choice of rows.

    Raises
    ------
    InputError
        A row isn't finite.
    """
    n, dim = int(X.shape[0]), int(X.shape[1])
    weights = np.random.default_rng(seed).integers(1, 2**63, dim, dtype=np.uint64) | np.uint64(1)
    sums = torch.zeros((n_clusters, dim), dtype=torch.float64)
    marks = np.zeros(n, np.uint64)
    usable = np.zeros(n, np.bool_)
    step = max(1, _BLOCK_BYTES // (8 * dim))
    with progress.task("Centres of groups", n, "images") as task:
        for start in range(0, n, step):
            rows = slice(start, min(n, start + step))
            block = np.asarray(X[rows])
            unit = UnitRows(block, device).read(0, len(block)).cpu()
            norms = torch.linalg.vector_norm(unit, dim=1)
            if not bool(torch.isfinite(norms).all()):
                row = start + int((~torch.isfinite(norms)).nonzero()[0])
                raise InputError(f"row {row} of the images holds values that are not finite")
            usable[rows] = (norms > 0.5).numpy() & (labels[rows] >= 0)
            kept = torch.from_numpy(np.flatnonzero(usable[rows]))
            sums.index_add_(0, torch.from_numpy(labels[rows])[kept], unit[kept].double())
            marks[rows] = _mark(block, weights)
            task.advance(len(block))
    chosen = np.where(usable, labels, -1)
    return Groups(
        sizes=np.bincount(labels[labels >= 0], minlength=n_clusters),
        members=np.bincount(chosen[chosen >= 0], minlength=n_clusters),
        centres=_directions(sums).to(device),
        samples=_choose(chosen, marks, n_clusters, n_samples),
    )


def _directions(sums: Tensor) -> Tensor:
    """Return sums at unit length; those that cancel out become zero."""
    norms = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
    return torch.where(norms > 1e-9, sums / norms.clamp_min(1e-9), 0.0).float()


def _mark(block: NDArray[Any], weights: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a random-looking number for each row that depends on its values alone."""
    with np.errstate(over="ignore", invalid="ignore"):
        words = np.ascontiguousarray(block, dtype=np.float32).view(np.uint32).astype(np.uint64)
        mark: NDArray[np.uint64] = words @ weights
        for factor in _MIX:
            mark = (mark ^ (mark >> np.uint64(31))) * factor
    return mark


def _choose(
    labels: NDArray[np.int64], marks: NDArray[np.uint64], n_clusters: int, n_samples: int
) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of each group with the smallest marks."""
    order = np.lexsort((marks, labels))
    order = order[np.searchsorted(labels[order], 0) :]
    ends = np.cumsum(np.bincount(labels[order], minlength=n_clusters))
    starts = np.r_[0, ends[:-1]]
    return tuple(
        np.sort(order[start : min(end, start + n_samples)]) for start, end in zip(starts, ends, strict=True)
    )
