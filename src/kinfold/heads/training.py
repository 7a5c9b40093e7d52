"""What a training leaves, on every process that took part in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.heads._tiles import tile_heads
from kinfold.heads.network import MultiHeadNetwork, head_logits
from kinfold.heads.objectives import TEMPERATURE


@dataclass(frozen=True)
class Training:
    """What training leaves.

    Under ``torchrun`` the heads are divided among the processes. All methods and the history give the same
    on every process; each method must be called by all of them.

    Attributes
    ----------
    teacher : MultiHeadNetwork
        The network that predicts: this process's share of the heads, which is all of them in one process.
    history : ndarray (epochs, H)
        Mean training loss of every head in every epoch.
    stopped_early : bool
        Whether a stopping rule ended training before its schedule.
    """

    teacher: MultiHeadNetwork
    history: NDArray[np.float32]
    stopped_early: bool = False
    workers: Workers = field(default_factory=Workers)

    @property
    def n_heads(self) -> int:
        """H, the heads of all processes."""
        return int(self.history.shape[1])

    @property
    def head_losses(self) -> NDArray[np.float32]:
        """Mean loss of every head (H,) over the last epoch."""
        losses: NDArray[np.float32] = self.history[-1]
        return losses

    def head_tensors(self, head: int) -> dict[str, Tensor]:
        """Return the teacher's state of one head of 0 … H − 1 as the state of a one-head network."""
        if self.workers.size == 1:
            return self.teacher.head_tensors(head)
        shares = [self.workers.share(self.n_heads, rank) for rank in range(self.workers.size)]
        owner = next(rank for rank, share in enumerate(shares) if share.start <= head < share.stop)
        tensors = None
        if owner == self.workers.rank:
            own = self.teacher.head_tensors(head - shares[owner].start)
            tensors = {name: value.cpu().numpy() for name, value in own.items()}
        received = self.workers.broadcast(tensors, source=owner)
        device = self.teacher.weight1.device
        return {name: torch.from_numpy(value).to(device) for name, value in received.items()}

    def predict_labels(self, blocks: Iterable[Any]) -> NDArray[np.int32]:
        """Return the teacher's choice for every sample by every head.

        Parameters
        ----------
        blocks : iterable of array (n, D)
            All samples, block by block; every process passes the same.

        Returns
        -------
        ndarray (H, N) int32
        """
        parts = [
            torch.cat([logits.argmax(dim=2).int() for logits in _logits(self.teacher, rows)]).cpu().numpy()
            for rows in _on_device(blocks, self.teacher)
        ]
        return self.workers.gather(np.concatenate(parts, axis=1))

    def predict_probabilities(
        self, head: int, blocks: Iterable[Any], *, temperature: float = TEMPERATURE
    ) -> NDArray[np.float32]:
        """Return the teacher's probabilities (N, K) by one head, a plain softmax; arguments as above."""
        network = self.teacher.part(slice(0, 1))
        network.load_state_dict(self.head_tensors(head))
        parts = [
            torch.softmax(logits[0] / temperature, dim=1).cpu().numpy()
            for rows in _on_device(blocks, network)
            for logits in _logits(network, rows)
        ]
        return np.concatenate(parts)


def _on_device(blocks: Iterable[Any], network: MultiHeadNetwork) -> Iterator[Tensor]:
    for block in blocks:
        rows = block if isinstance(block, Tensor) else torch.from_numpy(np.array(block, dtype=np.float32))
        yield rows.to(network.weight1.device, torch.float32)


@torch.no_grad()
def _logits(network: MultiHeadNetwork, rows: Tensor) -> Iterator[Tensor]:
    """Yield the logits (h, n, K) of tiles of heads."""
    inputs = network.norm(rows)
    for tile in tile_heads(network.n_heads, len(rows), network.n_clusters, rows.device):
        yield head_logits(inputs, network.weights(tile))
