"""The one training loop: epochs, history, progress, checkpoints. What a step does is the learner's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.heads.checkpoint import Checkpoint
from kinfold.progress import SILENT, Progress

logger = logging.getLogger(__name__)

StopRule = Callable[[NDArray[np.float32]], bool]

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)
BatchOut = TypeVar("BatchOut", covariant=True)
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


class Batches(Protocol[BatchOut]):
    """Where training batches come from."""

    batch_size: int  # samples in a batch, or pairs

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, at least 1."""

    def epoch(self, number: int) -> Iterator[BatchOut]:
        """Yield the batches of one epoch; a function of the seed and the number alone."""


class Learner(Protocol[BatchIn, ResultOut]):
    """What is trained: all that changes from batch to batch, and nothing of the loop."""

    title: str  # what progress calls the training
    n_epochs: int  # passes over the data
    workers: Workers  # the processes that train together, each with a part of the losses

    def step(self, batch: BatchIn, batch_size: int, step: int, progress: float) -> Tensor:
        """Make one update and return this process's losses (h,), which are not written to again.

        ``step`` counts the updates made before, ``progress`` in [0, 1) is the share of the training done.
        """

    def state(self) -> Mapping[str, Tensor]:
        """Return all tensors that steps change, by name; they are updated in place."""

    def describe(self) -> Mapping[str, Any]:
        """Return what a checkpoint must agree with, JSON-ready."""

    def finish(self, history: Sequence[NDArray[np.float32]], stopped_early: bool) -> ResultOut:
        """Return what training leaves, from the mean losses (H,) of all processes in every epoch."""


class Trainer(Generic[Batch, Result]):
    """Trains a learner.

    Parameters
    ----------
    learner : Learner
        What a step does and what it changes. Under ``torchrun`` its ``workers`` say who trains with it.
    identity : str, default ""
        Names data and parameters; a checkpoint with another one is not continued from.
    """

    def __init__(self, learner: Learner[Batch, Result], *, identity: str = "") -> None:
        self.learner, self.identity = learner, identity

    def fit(
        self,
        batches: Batches[Batch],
        *,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        stop: StopRule | None = None,
    ) -> Result:
        """Train to the end of the learner's epochs, from a checkpoint where there is one.

        Parameters
        ----------
        batches : Batches
            Training batches.
        progress : Progress
            Shows epochs, loss and epochs per second.
        checkpoint : Path, optional
            File to continue from, and to save to every half minute. Of several processes each has its own,
            whose name is this one and the rank.
        stop : callable, optional
            Asked before every epoch but the first, with the history so far (epochs, H), whether to end
            here. A function of the history alone, or a resumed training may end elsewhere.

        Returns
        -------
        Result
            What the learner makes of the history: of heads with a teacher a
            :class:`~kinfold.heads.Training`.
        """
        learner, saved = self.learner, self._open(checkpoint) if checkpoint else None
        history = saved.restore() if saved else []
        stopped = False
        with progress.task(learner.title, learner.n_epochs, "epochs") as task:
            if history:
                task.advance(len(history), loss=float(np.min(history[-1])))
            for epoch in range(len(history), learner.n_epochs):
                if stopped := self._is_over(history, stop):
                    logger.info("stopped after epoch %d of %d", epoch, learner.n_epochs)
                    break
                started = time.perf_counter()
                losses = self._epoch(batches, epoch)
                history.append(losses)
                rate = 1 / max(time.perf_counter() - started, 1e-9)
                task.advance(1, loss=float(losses.min()), rate=f"{rate:.2f} epochs/s")
                if saved and epoch + 1 < learner.n_epochs:
                    saved.save_if_due(history)
        return learner.finish(history, stopped)

    def _open(self, path: Path) -> Checkpoint:
        description = {**self.learner.describe(), "identity": self.identity}
        return Checkpoint(path, self.learner.state(), description, self.learner.workers)

    def _is_over(self, history: list[NDArray[np.float32]], stop: StopRule | None) -> bool:
        return bool(stop and history and self.learner.workers.broadcast(bool(stop(np.stack(history)))))

    def _epoch(self, batches: Batches[Batch], epoch: int) -> NDArray[np.float32]:
        """Return the mean losses, of all processes, over one epoch."""
        learner, per_epoch = self.learner, batches.steps_per_epoch
        n_steps = learner.n_epochs * per_epoch
        losses = [
            learner.step(batch, batches.batch_size, step, step / n_steps)
            for step, batch in enumerate(batches.epoch(epoch), start=epoch * per_epoch)
        ]
        total = losses[0]
        for further in losses[1:]:
            total = total + further
        return learner.workers.gather((total / per_epoch).cpu().numpy())
