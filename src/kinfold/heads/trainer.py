"""The one training loop: a student network, its slowly following teacher, an objective, a schedule.

A step goes over the heads tile by tile, so that temporaries are small. Under ``torchrun`` the heads are
divided among the processes, each of which sees whole batches: whatever is taken over a batch needs no
exchange, and the one thing that depends on all heads, the weights of pairs, is summed over the processes.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers, current_workers
from kinfold.errors import InputError
from kinfold.heads._tiles import Scratch, TilePass, tile_heads
from kinfold.heads._updates import Updater
from kinfold.heads.checkpoint import Checkpoint
from kinfold.heads.network import MultiHeadNetwork
from kinfold.heads.objectives import Objective
from kinfold.heads.training import Training
from kinfold.progress import SILENT, Progress

logger = logging.getLogger(__name__)

StopRule = Callable[[NDArray[np.float32]], bool]
_KEPT_TARGETS_BYTES = 2 << 30


class Batches(Protocol):
    """Where training batches come from."""

    batch_size: int  # pairs in a batch

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, number: int) -> Iterator[Tensor]:
        """Yield the batches of one epoch; a function of the seed and the number alone."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Parameters
    ----------
    n_epochs : int
        Passes over the data.
    learning_rate : float
        After the warm-up; constant from there on.
    warmup_steps : int
        Steps of linear warm-up from 0.
    frozen_steps : int
        First steps in which the last layer keeps its initial values.
    momentum : float, default 0.996
        Of the teacher: ``teacher ← momentum · teacher + (1 − momentum) · student`` after every step.
    weight_decay : float, default 1e-4
        Decoupled, on matrices and gains.
    """

    n_epochs: int
    learning_rate: float
    warmup_steps: int
    frozen_steps: int
    momentum: float = 0.996
    weight_decay: float = 1e-4


class Trainer:
    """Trains the heads of a network against an objective.

    Parameters
    ----------
    network : MultiHeadNetwork
        The student; the teacher starts as its copy. Under ``torchrun`` every process passes the same
        network and trains its share of the heads.
    objective : Objective
        Loss per head; the mean over heads is minimised.
    schedule : Schedule
        Length and rates.
    device : torch.device
        Where to train.
    dtype : torch.dtype
        Of matrix products: bfloat16 or float32. Weights, losses and averages stay in float32.
    identity : str, default ""
        Names data and parameters; a checkpoint with another one is not continued from.

    Attributes
    ----------
    heads : slice
        This process's share of the network's heads.

    Raises
    ------
    InputError
        There are more processes than heads.
    """

    def __init__(
        self,
        network: MultiHeadNetwork,
        objective: Objective,
        schedule: Schedule,
        *,
        device: torch.device,
        dtype: torch.dtype,
        identity: str = "",
    ) -> None:
        self.identity = identity
        self.workers = current_workers()
        self.n_heads = network.n_heads
        self.heads = _share_of_heads(self.n_heads, self.workers)
        if self.workers.size > 1:
            network = network.part(self.heads)
        self.student = network.to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher.norm = self.student.norm
        self.objective, self.schedule = objective, schedule
        self.device, self.dtype = device, dtype
        objective.to(device)
        self._updater = Updater(
            self.student, self.teacher, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self._scratch = Scratch(device)

    def fit(
        self,
        batches: Batches,
        *,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        stop: StopRule | None = None,
    ) -> Training:
        """Train to the end of the schedule, from a checkpoint where there is one.

        Parameters
        ----------
        batches : Batches
            Training batches.
        progress : Progress
            Shows epochs, loss and samples per second.
        checkpoint : Path, optional
            File to continue from, and to save to every half minute. Of several processes each has its own,
            whose name is this one and the rank.
        stop : callable, optional
            Asked before every epoch but the first, with the history so far (epochs, H), whether to end
            here. A function of the history alone, or a resumed training may end elsewhere.

        Returns
        -------
        Training
        """
        saved = Checkpoint(checkpoint, self.state(), self.describe(), self.workers) if checkpoint else None
        history = saved.restore() if saved else []
        stopped = False
        with progress.task("Training heads", self.schedule.n_epochs, "epochs") as task:
            if history:
                task.advance(len(history), loss=float(np.min(history[-1])))
            for epoch in range(len(history), self.schedule.n_epochs):
                if stopped := self._is_over(history, stop):
                    logger.info("stopped after epoch %d of %d", epoch, self.schedule.n_epochs)
                    break
                started = time.perf_counter()
                losses = self._epoch(batches, epoch)
                history.append(losses)
                rate = 1 / max(time.perf_counter() - started, 1e-9)
                task.advance(1, loss=float(losses.min()), rate=f"{rate:.2f} epochs/s")
                if saved and epoch + 1 < self.schedule.n_epochs:
                    saved.save_if_due(history)
        return Training(self.teacher, np.stack(history), stopped, self.workers)

    def _is_over(self, history: list[NDArray[np.float32]], stop: StopRule | None) -> bool:
        return bool(stop and history and self.workers.broadcast(bool(stop(np.stack(history)))))

    def _epoch(self, batches: Batches, epoch: int) -> NDArray[np.float32]:
        """Return the mean loss of every head, of all processes, over one epoch."""
        total = torch.zeros(self.student.n_heads, device=self.device)
        first = epoch * batches.steps_per_epoch
        n_steps = self.schedule.n_epochs * batches.steps_per_epoch
        for step, batch in enumerate(batches.epoch(epoch), start=first):
            total += self.step(batch, batches.batch_size, step, step / n_steps)
        return self.workers.gather((total / batches.steps_per_epoch).cpu().numpy())

    @torch.no_grad()
    def step(self, batch: Tensor, n_pairs: int, step: int, progress: float) -> Tensor:
        """Make one update and return the loss of every head of this process (h,).

        Parameters
        ----------
        batch : Tensor (R, D)
            ``n_pairs`` samples, their neighbours, then any further neighbours.
        n_pairs : int
            B.
        step : int
            Steps made before.
        progress : float
            Share of the training that is done.
        """
        inputs = self._scratch.take("normalized", tuple(batch.shape), torch.float32)
        inputs = self.student.norm.normalize_batch(batch, 2 * n_pairs, out=inputs)
        inputs = self._scratch.cast("inputs", inputs, self.dtype)
        tiles = tile_heads(self.student.n_heads, len(inputs), self.student.n_clusters, self.device)
        kept, weights = self._weigh(inputs, n_pairs, tiles)
        losses = []
        for index, tile in enumerate(tiles):
            targets = kept[index] if kept else self._teach(inputs, n_pairs, tile, again=weights is not None)
            losses.append(self._learn(inputs[: 2 * n_pairs], targets, weights, tile, step, progress))
        return torch.cat(losses)

    def _weigh(self, inputs: Tensor, n_pairs: int, tiles: list[slice]) -> tuple[list[Tensor], Tensor | None]:
        """Return the targets of all tiles, none where they take too much room, and what pairs weigh.

        Pairs weigh what the teachers of all heads make of them, so the targets of every tile are needed
        before any student's loss: kept till then, or made a second time.
        """
        if not self.objective.weighted:
            return [], None
        n_bytes = 4 * self.student.n_heads * 2 * n_pairs * self.student.n_clusters
        keep, kept = n_bytes <= _KEPT_TARGETS_BYTES, []
        agreement = torch.zeros(n_pairs, device=self.device)
        for tile in tiles:
            targets = self._teach(inputs, n_pairs, tile)
            agreement += self.objective.agreement(targets)
            if keep:
                kept.append(targets)
        return kept, self.workers.sum_(agreement).div_(self.n_heads)

    def _teach(self, inputs: Tensor, n_pairs: int, tile: slice, *, again: bool = False) -> Tensor:
        logits = TilePass(inputs, self.teacher.weights(tile), self._scratch).teach()
        return self.objective.observe(logits, n_pairs, self._of_all(tile), again=again)

    def _learn(
        self, inputs: Tensor, targets: Tensor, weights: Tensor | None, tile: slice, step: int, progress: float
    ) -> Tensor:
        """Update the heads of a tile and return their losses."""
        student = TilePass(inputs, self.student.weights(tile), self._scratch)
        logits = student.forward().detach().requires_grad_()
        with torch.enable_grad():
            losses = self.objective.loss(logits, targets, weights, self._of_all(tile), progress)
            (gradient,) = torch.autograd.grad(losses.sum() / self.n_heads, logits)
        gradients = student.backward(gradient, frozen=step < self.schedule.frozen_steps)
        self._updater.update(
            tile,
            gradients,
            rate=self._rate(step),
            step=step,
            frozen_steps=self.schedule.frozen_steps,
        )
        return losses.detach()

    def _of_all(self, tile: slice) -> slice:
        """Return a tile of this process's heads as numbered among the heads of all processes."""
        return slice(self.heads.start + tile.start, self.heads.start + tile.stop)

    def _rate(self, step: int) -> float:
        warmup = self.schedule.warmup_steps
        return self.schedule.learning_rate * (min(1.0, (step + 1) / warmup) if warmup else 1.0)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training changes, by name; they are updated in place."""
        live = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        live |= {f"teacher.{name}": value for name, value in self.teacher.named_parameters()}
        live |= {f"objective.{name}": value for name, value in self.objective.state().items()}
        return live | {f"moments.{name}": value for name, value in self._updater.state().items()}

    def describe(self) -> dict[str, object]:
        """Return what a checkpoint must agree with."""
        network = self.student
        return {
            "schedule": asdict(self.schedule),
            "n_features": network.n_features,
            "n_clusters": network.n_clusters,
            "n_heads": self.n_heads,
            "dtype": str(self.dtype),
            "identity": self.identity,
        }


def _share_of_heads(n_heads: int, workers: Workers) -> slice:
    if workers.size > n_heads:
        raise InputError(
            f"{n_heads} heads can't be divided among {workers.size} processes; start at most {n_heads}, "
            "or train more heads"
        )
    return workers.share(n_heads)
