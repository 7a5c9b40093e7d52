"""Pairs of neighbours, drawn without a loop over samples and without state between epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinfold.neighbors import NeighborGraph


class PairSampler:
    """Batches of (sample, random neighbour) pairs.

    Every epoch visits every sample once, in an order that depends on the seed and the epoch's number
    alone, so that training can resume at any epoch. The last partial batch is dropped.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Features: anything that gives rows for an integer array; kept where it is (a memory map stays one).
    graph : NeighborGraph
        Neighbours of the N samples. A sample without neighbours is paired with itself.
    batch_size : int
        Pairs per batch, at most N.
    seed : int
        Seed of all draws.
    device : torch.device
        Where batches are delivered.
    n_targets : int, default 1
        Neighbours whose teacher outputs make one target: the pair's other member and n_targets − 1 more.
    """

    def __init__(
        self,
        X: Any,
        graph: NeighborGraph,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        n_targets: int = 1,
    ) -> None:
        self._rows = X
        self._tensor = _resident(X, device)
        self._starts = torch.from_numpy(np.array(graph.indptr[:-1]))
        self._degrees = torch.from_numpy(np.diff(graph.indptr))
        self._neighbors = torch.from_numpy(np.array(graph.indices))
        self.batch_size, self._seed, self._device = batch_size, seed, device
        self._n_targets = n_targets

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return len(self._starts) // self.batch_size

    def epoch(self, number: int) -> Iterator[Tensor]:
        """Yield the batches of one epoch, float32 (2B · n_targets, D).

        Rows: B samples, a neighbour of each, then further neighbours of the samples and of their
        neighbours, by turns.
        """
        seed = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        order = torch.randperm(len(self._starts), generator=generator)
        for step in range(self.steps_per_epoch):
            anchors = order[step * self.batch_size : (step + 1) * self.batch_size]
            partners = self._draw_neighbors(anchors, generator)
            views = [anchors, partners]
            for _ in range(self._n_targets - 1):
                views += [self._draw_neighbors(side, generator) for side in (anchors, partners)]
            yield self._gather(torch.cat(views))

    def _draw_neighbors(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        degrees = self._degrees[anchors]
        draws = (torch.rand(len(anchors), generator=generator, dtype=torch.float64) * degrees).long()
        if not len(self._neighbors):
            return anchors
        position = (self._starts[anchors] + draws).clamp_(max=len(self._neighbors) - 1)
        return torch.where(degrees > 0, self._neighbors[position].long(), anchors)

    def _gather(self, rows: Tensor) -> Tensor:
        if self._tensor is not None:
            return self._tensor.index_select(0, rows.to(self._device)).float()
        values = torch.from_numpy(np.ascontiguousarray(self._rows[rows.numpy()]))
        return values.to(self._device).float()


def _resident(X: Any, device: torch.device) -> Tensor | None:
    """Return the features as a tensor where they are in memory, or fit a GPU; else None."""
    if not isinstance(X, np.ndarray) or (isinstance(X, np.memmap) and device.type == "cpu"):
        return None
    if device.type == "cuda" and X.nbytes > 0.5 * torch.cuda.get_device_properties(device).total_memory:
        return None
    return torch.from_numpy(np.ascontiguousarray(X)).to(device)
