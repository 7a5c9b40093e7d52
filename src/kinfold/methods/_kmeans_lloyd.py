"""Lloyd's iteration on the unit sphere, over the rows of all processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.methods._kmeans_assignment import Assigned, Assigner
from kinfold.methods._rows import UnitBlocks

_SUM_ROWS = 512
_VANISHED = 1e-12
_AT_ITS_CENTROID = 1e-6
_WORST_PER_CLUSTER = 4


@dataclass(frozen=True)
class Start:
    """Where one start ended.

    Attributes
    ----------
    centers : Tensor (K, D)
        Unit-length centroids.
    labels : Tensor (n,) int64
        Closest centroids of this process's rows.
    objective : float
        Mean similarity of all processes' rows to them.
    n_iter : int
        Iterations.
    """

    centers: Tensor
    labels: Tensor
    objective: float
    n_iter: int


class Lloyd:
    """Improves centroids until nothing is gained.

    Parameters
    ----------
    rows : UnitBlocks
        This process's rows.
    assigner : Assigner
        Of the same rows.
    workers : Workers
        The processes that share all rows. Sums, counts and the objective are theirs together.
    max_iter : int
        Iterations at most.
    tol : float
        Stop when the mean similarity grows by less; with 0, when no row changes its cluster.
    """

    def __init__(
        self, rows: UnitBlocks, assigner: Assigner, workers: Workers, *, max_iter: int, tol: float
    ) -> None:
        self._rows, self._assigner, self._workers = rows, assigner, workers
        self._max_iter, self._tol = max_iter, tol

    def run(self, centers: Tensor) -> Start:
        """Start from the given centroids (K, D)."""
        self._assigner.restart()
        sums = _Sums(centers)
        objective, repaired = -np.inf, False
        for n_iter in range(1, self._max_iter + 1):
            found = self._assign(centers, sums)
            stands = found.n_changed == 0 or found.objective - objective < self._tol
            if stands and not repaired:
                return Start(centers, found.labels, found.objective, n_iter)
            objective = found.objective
            centers, repaired = self._update(centers, found)
        found = self._assign(centers, sums)
        return Start(centers, found.labels, found.objective, self._max_iter)

    def _assign(self, centers: Tensor, sums: _Sums) -> _Assignment:
        labels = [torch.empty(0, dtype=torch.int64, device=centers.device)]  # a process may have no rows
        similarities = [torch.empty(0, device=centers.device)]
        sums.begin()
        for assigned in self._assigner.assign(centers):
            sums.add(assigned)
            labels.append(assigned.labels)
            similarities.append(assigned.similarities)
        total = sums.total(self._workers)
        return _Assignment(torch.cat(labels), torch.cat(similarities), *total, self._rows.n_samples)

    def _update(self, centers: Tensor, found: _Assignment) -> tuple[Tensor, bool]:
        """Return new unit-length centroids, and whether empty clusters took rows that fit badly."""
        norms = found.sums.norm(dim=1, keepdim=True)
        fresh = (found.sums / norms.clamp_min(_VANISHED)).to(centers)
        stays = (found.counts[:, None] == 0) | (norms < _VANISHED)
        fresh = torch.where(stays.to(centers.device), centers, fresh)
        empty = torch.nonzero(found.counts == 0)[:, 0].cpu()
        if not len(empty):
            return fresh, False
        worst = self._worst_rows(found.similarities, len(empty))
        fresh[empty[: len(worst)].to(fresh.device)] = worst
        return fresh, len(worst) > 0

    def _worst_rows(self, similarities: Tensor, n_rows: int) -> Tensor:
        """Return up to ``n_rows`` different rows, of all processes', that fit their centroids worst."""
        own = similarities.cpu().numpy()
        order = np.argsort(own, kind="stable")[: _WORST_PER_CLUSTER * n_rows]
        order = order[own[order] < 1 - _AT_ITS_CENTROID]
        values = self._workers.gather(own[order])
        numbers = self._workers.gather(order + self._rows.part.start)
        worst = numbers[np.argsort(values, kind="stable")][: _WORST_PER_CLUSTER * n_rows]
        rows = self._rows.take(worst)
        return rows[_first_of_equal(rows.cpu().numpy())[:n_rows].tolist()]


@dataclass(frozen=True)
class _Assignment:
    """Labels and similarities of this process's rows; sums, counts and objective of all."""

    labels: Tensor
    similarities: Tensor
    sums: Tensor
    counts: Tensor
    n_changed: int
    total_similarity: float
    n_samples: int

    @property
    def objective(self) -> float:
        return self.total_similarity / self.n_samples


class _Sums:
    """Sums and counts of the members of every cluster in float64, from one iteration to the next.

    On CPUs only rows that changed their cluster are added and taken away. Elsewhere the sums are made
    anew by matrix products: atomic additions would make the last bits depend on the order of threads,
    and finding the rows that changed would wait for the device.
    """

    def __init__(self, centers: Tensor) -> None:
        self._changes_only = centers.device.type == "cpu"
        place = "cpu" if centers.device.type == "mps" else centers.device
        self._sums = torch.zeros(centers.shape, dtype=torch.float64, device=place)
        self.begin()

    def begin(self) -> None:
        """Begin a pass over all rows."""
        self._counts = torch.zeros_like(self._sums[:, 0])
        self._extra = self._sums.new_zeros(2)
        if not self._changes_only:
            self._sums.zero_()

    def add(self, assigned: Assigned) -> None:
        """Add a block."""
        labels, previous, sums = assigned.labels, assigned.previous, self._sums
        ones = torch.ones(len(labels), device=labels.device)
        changed = ones if previous is None else (labels != previous).float()
        extra = torch.stack([changed.sum(), assigned.similarities.sum(dtype=_widest(labels.device))])
        self._extra += extra.to(sums)
        if self._changes_only:
            self._counts += torch.bincount(labels, minlength=len(sums))
            self._move(assigned, torch.nonzero(changed)[:, 0])
        else:
            members = ones.new_zeros(len(labels), len(sums)).scatter_(1, labels[:, None], 1.0)
            self._counts += members.sum(dim=0).to(sums)
            sums += (members.T @ assigned.block).to(sums)

    def total(self, workers: Workers) -> tuple[Tensor, Tensor, int, float]:
        """Return sums, counts, rows that changed and the sum of similarities over all processes."""
        packed = torch.cat([self._sums.flatten(), self._counts, self._extra])
        workers.sum_(packed)
        n_clusters = len(self._counts)
        n_changed, similarity = packed[-2:].tolist()
        counts = packed[-2 - n_clusters : -2]
        return packed[: self._sums.numel()].view_as(self._sums), counts, int(n_changed), similarity

    def _move(self, assigned: Assigned, changed: Tensor) -> None:
        for rows in torch.split(changed, _SUM_ROWS):
            part = assigned.block[rows].double()
            self._sums.index_add_(0, assigned.labels[rows], part)
            if assigned.previous is not None:
                self._sums.index_add_(0, assigned.previous[rows], part, alpha=-1)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _first_of_equal(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the first place of every different row, in order."""
    seen: dict[bytes, int] = {}
    for place, row in enumerate(rows):
        seen.setdefault(row.tobytes(), place)
    return np.fromiter(seen.values(), dtype=np.int64, count=len(seen))
