"""The one training loop, with history, progress and checkpoints; what a step does is up to the learner."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.paths import utf8_path
from kinfold.progress import SILENT, Progress
from kinfold.storage import as_plain, atomic_file

logger = logging.getLogger(__name__)

# Seconds between two saves: what a kill can cost at most, against the time of writing some hundred megabytes.
SECONDS_BETWEEN = 30.0

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

    def step(self, batch: BatchIn, batch_size: int, step: int, share_done: float) -> Tensor:
        """Make one update and return this process's losses (h,), which are not written to again.

        ``step`` counts the updates made before, ``share_done`` in [0, 1) is the share of the training done.
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
        per_epoch = batches.steps_per_epoch
        n_steps = learner.n_epochs * per_epoch
        stopped = False
        with progress.task(learner.title, learner.n_epochs, "epochs") as task:
            if history:
                task.advance(len(history), loss=float(np.min(history[-1])))
            for epoch in range(len(history), learner.n_epochs):
                if stopped := self._is_over(history, stop):
                    logger.info("stopped after epoch %d of %d", epoch, learner.n_epochs)
                    break
                started = time.perf_counter()
                total: Tensor | None = None
                for step, batch in enumerate(batches.epoch(epoch), start=epoch * per_epoch):
                    losses = learner.step(batch, batches.batch_size, step, step / n_steps)
                    # Added up on the device, in the order of steps: to read each would wait for it.
                    total = losses if total is None else total + losses
                assert total is not None
                history.append(learner.workers.gather((total / per_epoch).cpu().numpy()))
                rate = 1 / max(time.perf_counter() - started, 1e-9)
                task.advance(1, loss=float(history[-1].min()), rate=f"{rate:.2f} epochs/s")
                # After the last epoch a save would spare a resumed fit no more than that one epoch.
                if saved and epoch + 1 < learner.n_epochs:
                    saved.save_if_due(history)
        return learner.finish(history, stopped)

    def _open(self, path: Path) -> Checkpoint:
        description = {**self.learner.describe(), "identity": self.identity}
        return Checkpoint(path, self.learner.state(), description, self.learner.workers)

    def _is_over(self, history: list[NDArray[np.float32]], stop: StopRule | None) -> bool:
        return bool(stop and history and self.learner.workers.broadcast(bool(stop(np.stack(history)))))


class Checkpoint:
    """One safetensors file with the state of a training and its history; of several processes, one for each.

    All processes save after the same epoch, and resume from the same: a save is written beside the last
    one and takes its place when all processes have written theirs, so that whenever they are killed, all have
    one epoch in common.

    Parameters
    ----------
    path : Path
        The file; replaced atomically at every save. Of several processes each adds its rank to the name.
    live : mapping of str to Tensor
        The state itself, which training updates in place and :meth:`restore` overwrites in place.
    description : mapping
        JSON-ready; a file with another description is not continued from.
    workers : Workers, optional
        The processes that train together; by default this one.
    """

    def __init__(
        self,
        path: Path,
        live: Mapping[str, Tensor],
        description: Mapping[str, Any],
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._path = path
        if self._workers.size > 1:
            self._path = path.with_name(f"{path.name}.{self._workers.rank}-of-{self._workers.size}")
        self._next = self._path.with_name(f"{self._path.name}.next")
        self._live, self._description = live, json.dumps(description, default=as_plain)
        self._last = time.monotonic()

    def restore(self) -> list[NDArray[np.float32]]:
        """Load the state and return the history so far; empty, with nothing loaded, where no file fits."""
        mine = {epoch: path for path in (self._next, self._path) if (epoch := self._epochs_of(path))}
        common = set(mine).intersection(
            *(self._workers.broadcast(set(mine), source=rank) for rank in range(self._workers.size))
        )
        if not common:
            return []
        with utf8_path(mine[max(common)]) as place, safe_open(place, framework="pt") as file:
            history = file.get_tensor("history").numpy()
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(file.get_tensor(name))
        logger.info("continuing after epoch %d", len(history))
        return list(history)

    def save_if_due(self, history: list[NDArray[np.float32]]) -> None:
        """Save when the last save is long enough ago; when it happens changes no result."""
        if self._workers.broadcast(time.monotonic() - self._last >= SECONDS_BETWEEN):
            self.save(history)

    def save(self, history: list[NDArray[np.float32]]) -> None:
        """Write the state after ``len(history)`` epochs."""
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self._live.items()}
        tensors["history"] = torch.from_numpy(np.stack(history))
        target = self._path if self._workers.size == 1 else self._next
        with atomic_file(target) as partial:
            save_file(tensors, partial, metadata={"trainer": self._description})
        self._workers.wait()
        if target != self._path:
            os.replace(target, self._path)
        self._last = time.monotonic()

    def _epochs_of(self, path: Path) -> int:
        """Return the number of epochs in a file that fits; 0, and a warning, where it doesn't."""
        if not path.is_file():
            return 0
        try:
            with utf8_path(path) as place, safe_open(place, framework="pt") as file:
                description = (file.metadata() or {}).get("trainer")
                whole = set(file.keys()) == {*self._live, "history"}
                epochs = int(file.get_slice("history").get_shape()[0]) if whole else 0
        except Exception as error:  # a damaged one is written anew
            logger.warning("ignoring the damaged checkpoint %s: %s", path, error)
            return 0
        if description != self._description or not whole:
            logger.warning("ignoring the checkpoint %s: it was made with other parameters", path)
            return 0
        return epochs
