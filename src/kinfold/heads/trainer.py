"""The one training loop: a student network, its slowly following teacher, an objective, a schedule."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.heads.checkpoint import Checkpoint
from kinfold.heads.network import MultiHeadNetwork, head_logits
from kinfold.heads.objectives import Objective
from kinfold.progress import SILENT, Progress

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Training:
    """What training leaves.

    Attributes
    ----------
    teacher : MultiHeadNetwork
        The network that predicts.
    history : ndarray (epochs, H)
        Mean training loss of every head in every epoch.
    """

    teacher: MultiHeadNetwork
    history: NDArray[np.float32]

    @property
    def head_losses(self) -> NDArray[np.float32]:
        """Mean loss of every head (H,) over the last epoch."""
        losses: NDArray[np.float32] = self.history[-1]
        return losses


class Trainer:
    """Trains the heads of a network against an objective.

    Parameters
    ----------
    network : MultiHeadNetwork
        The student; the teacher starts as its copy.
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
        self.student = network.to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher.norm = self.student.norm
        self.objective, self.schedule = objective, schedule
        self.device, self.dtype = device, dtype
        objective.to(device)
        self.optimizer = torch.optim.AdamW(
            network.parameter_groups(schedule.weight_decay), lr=schedule.learning_rate, fused=True
        )
        self._last_layer = network.last_layer()
        self._teacher_weights: list[Tensor] = list(self.teacher.parameters())
        self._student_weights: list[Tensor] = list(self.student.parameters())

    def fit(
        self, batches: Batches, *, progress: Progress = SILENT, checkpoint: Path | None = None
    ) -> Training:
        """Train to the end of the schedule, from a checkpoint where there is one.

        Parameters
        ----------
        batches : Batches
            Training batches.
        progress : Progress
            Shows epochs, loss and samples per second.
        checkpoint : Path, optional
            File to continue from, and to save to every half minute.

        Returns
        -------
        Training
        """
        saved = Checkpoint(checkpoint, self.state(), self.describe()) if checkpoint else None
        history = saved.restore() if saved else []
        with progress.task("Training heads", self.schedule.n_epochs, "epochs") as task:
            if history:
                task.advance(len(history), loss=float(np.min(history[-1])))
            for epoch in range(len(history), self.schedule.n_epochs):
                started = time.perf_counter()
                losses = self._epoch(batches, epoch)
                history.append(losses)
                rate = 1 / max(time.perf_counter() - started, 1e-9)
                task.advance(1, loss=float(losses.min()), rate=f"{rate:.2f} epochs/s")
                if saved and epoch + 1 < self.schedule.n_epochs:
                    saved.save_if_due(history)
        return Training(self.teacher, np.stack(history))

    def _epoch(self, batches: Batches, epoch: int) -> NDArray[np.float32]:
        total = torch.zeros(self.student.n_heads, device=self.device)
        first = epoch * batches.steps_per_epoch
        n_steps = self.schedule.n_epochs * batches.steps_per_epoch
        for step, batch in enumerate(batches.epoch(epoch), start=first):
            total += self.step(batch, batches.batch_size, step, step / n_steps)
        return (total / batches.steps_per_epoch).cpu().numpy()

    def step(self, batch: Tensor, n_pairs: int, step: int, progress: float) -> Tensor:
        """Make one update and return the loss of every head (H,)."""
        self._set_rates(step)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            with torch.no_grad():
                inputs = self.student.norm.normalize_batch(batch, 2 * n_pairs)
                teacher_logits = head_logits(inputs, self.teacher.weights())
            student_logits = head_logits(inputs[: 2 * n_pairs], self.student.weights())
        heads = slice(0, self.student.n_heads)
        with torch.no_grad():
            targets = self.objective.observe(teacher_logits, n_pairs, heads)
            weights = None
            if self.objective.weighted:
                weights = self.objective.agreement(targets) / self.student.n_heads
        losses = self.objective.loss(student_logits, targets, weights, heads, progress)
        torch.autograd.backward(losses.mean())
        if step < self.schedule.frozen_steps:
            for parameter in self._last_layer:
                parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self._teacher_weights, self._student_weights, 1 - self.schedule.momentum)
        return losses.detach()

    def _set_rates(self, step: int) -> None:
        warmup = self.schedule.warmup_steps
        factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * factor

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training changes, by name; they are updated in place."""
        live = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        live |= {f"teacher.{name}": value for name, value in self.teacher.named_parameters()}
        live |= {f"objective.{name}": value for name, value in self.objective.state().items()}
        for index, parameter in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            moments = self.optimizer.state[parameter]
            if not moments:
                moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                moments["exp_avg"] = torch.zeros_like(parameter)
                moments["exp_avg_sq"] = torch.zeros_like(parameter)
            live |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return live

    def describe(self) -> dict[str, object]:
        """Return what a checkpoint must agree with."""
        network = self.student
        return {
            "schedule": asdict(self.schedule),
            "n_features": network.n_features,
            "n_clusters": network.n_clusters,
            "n_heads": network.n_heads,
            "dtype": str(self.dtype),
            "identity": self.identity,
        }
