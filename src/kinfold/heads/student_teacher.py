"""Many heads as one learner: a student network, its slowly following teacher, an objective, a schedule.

A step goes over the heads tile by tile, so that temporaries are small. Under ``torchrun`` the heads are
divided among the processes, each of which sees whole batches: whatever is taken over a batch needs no
exchange, and the one thing that depends on all heads, the weights of pairs, is summed over the processes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers, current_workers
from kinfold.errors import InputError
from kinfold.heads._tiles import Scratch, TilePass, tile_heads
from kinfold.heads._updates import Updater
from kinfold.heads.network import MultiHeadNetwork
from kinfold.heads.objectives import Objective
from kinfold.heads.training import Training

_KEPT_TARGETS_BYTES = 2 << 30


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


class StudentTeacher:
    """A learner for :class:`~kinfold.heads.Trainer`: heads that follow their own slow average.

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

    Attributes
    ----------
    heads : slice
        This process's share of the network's heads.

    Raises
    ------
    InputError
        There are more processes than heads.
    """

    title = "Training heads"

    def __init__(
        self,
        network: MultiHeadNetwork,
        objective: Objective,
        schedule: Schedule,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.workers = current_workers()
        self.n_heads, self.n_epochs = network.n_heads, schedule.n_epochs
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
        tiles = tile_heads(
            self.student.n_heads, len(inputs), self.student.n_clusters, self.device, self.dtype
        )
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
        # One row per head of all processes, summed over the heads in one order whoever computed them: the
        # last bit of a weight then depends on no division of the work, and no rounding to bfloat16 that
        # follows can make more of it.
        agreement = torch.zeros(self.n_heads, n_pairs, device=self.device)
        for tile in tiles:
            targets = self._teach(inputs, n_pairs, tile)
            agreement[self._of_all(tile)] = self.objective.agreement(targets)
            if keep:
                kept.append(targets)
        return kept, self.workers.sum_(agreement).mean(dim=0)

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
        }

    def finish(self, history: Sequence[NDArray[np.float32]], stopped_early: bool) -> Training:
        """Return what training leaves, from the losses of all heads of all processes in every epoch."""
        return Training(self.teacher, np.stack(history), stopped_early, self.workers)


def _share_of_heads(n_heads: int, workers: Workers) -> slice:
    if workers.size > n_heads:
        raise InputError(
            f"{n_heads} heads can't be divided among {workers.size} processes; start at most {n_heads}, "
            "or train more heads"
        )
    return workers.share(n_heads)
