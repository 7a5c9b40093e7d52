"""The one training loop, with its batches, history, progress and checkpoints; a step is up to the learner."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import resident_rows
from kinfold.storage import as_plain, atomic_file

logger = logging.getLogger(__name__)

# Seconds between two saves: what a kill can cost at most, against the time of writing some hundred megabytes.
SECONDS_BETWEEN = 30.0
# Batches that are read from disk while one is trained on: one being read, one ready. More would only take
# memory, since a single thread reads them in order.
_BATCHES_AHEAD = 2


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


class PairSampler:
    """Batches of (sample, random neighbour) pairs.

    Every epoch visits every sample once, in an order that depends on the seed and the epoch's number
    alone, so that training can resume at any epoch. The last partial batch is dropped. All of an epoch is
    drawn at once; rows that are on the device are gathered there, others are read ahead in the background.

    Parameters
    ----------
    X : array, tensor or row matrix (N, D)
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
        Neighbours whose teacher outputs are averaged to one target: the pair's other member and n_targets − 1
        more.
    order_seed : int, optional
        Seed of the order of samples alone: samplers that share it go through the samples together, each
        with draws of its own. By default the order follows from ``seed`` too.
    """

    def __init__(
        self,
        X: RowMatrix | Tensor,
        graph: NeighborGraph,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        n_targets: int = 1,
        order_seed: int | None = None,
    ) -> None:
        self._order_seed = order_seed
        self._rows = X
        self._tensor = resident_rows(X, device)
        self._starts, self._degrees = np.asarray(graph.indptr[:-1]), np.diff(graph.indptr)
        self._neighbors = graph.indices
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
        # Of all batches at once: one transfer to a GPU instead of one per step.
        rows = torch.from_numpy(self._draw(number))
        if self._tensor is None:
            yield from self._read_ahead(rows)
            return
        if self._device.type == "cuda":
            rows = rows.pin_memory().to(self._device, non_blocking=True)
        for chosen in rows:
            yield self._tensor.index_select(0, chosen).float()

    def _draw(self, number: int) -> NDArray[np.int64]:
        """Return the rows of all batches of an epoch, (steps, 2B · n_targets)."""
        generator = _make_generator(self._seed, number)
        n_steps, n_pairs, n_draws = self.steps_per_epoch, self.batch_size, 2 * self._n_targets - 1
        ordering = generator if self._order_seed is None else _make_generator(self._order_seed, number)
        order = torch.randperm(len(self._starts), generator=ordering)
        # In float64: a draw times the degree, rounded to float32, could be the degree, which is no neighbour.
        draws = torch.rand((n_steps, n_draws, n_pairs), generator=generator, dtype=torch.float64).numpy()
        anchors = order[: n_steps * n_pairs].numpy().reshape(n_steps, n_pairs)
        partners = self._pick(anchors, draws[:, 0])
        views = [anchors, partners]
        for index in range(1, n_draws, 2):
            views += [self._pick(anchors, draws[:, index]), self._pick(partners, draws[:, index + 1])]
        return np.stack(views, axis=1).reshape(n_steps, -1)

    def _pick(self, samples: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return a neighbour of every sample, by draws in [0, 1); the sample itself where it has none."""
        degrees = self._degrees[samples]
        position = self._starts[samples] + (draws * degrees).astype(np.int64)
        # The position of a sample without neighbours may lie behind the last edge; it isn't used below.
        position = np.minimum(position, len(self._neighbors) - 1)
        if not len(self._neighbors):
            return samples
        return np.where(degrees > 0, self._neighbors[position], samples)

    def _read_ahead(self, rows: Tensor) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1, thread_name_prefix="kinfold-rows") as pool:
            pending: deque[Future[Tensor]] = deque()
            for chosen in rows:
                pending.append(pool.submit(self._read, chosen))
                if len(pending) > _BATCHES_AHEAD:
                    yield self._deliver(pending.popleft().result())
            while pending:
                yield self._deliver(pending.popleft().result())

    def _read(self, chosen: Tensor) -> Tensor:
        values = torch.from_numpy(np.ascontiguousarray(self._rows[chosen.numpy()]))
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                values = values.pin_memory()
        return values

    def _deliver(self, values: Tensor) -> Tensor:
        return values.to(self._device, non_blocking=True).float()


class DualBatches:
    """Batches of the same samples in two modalities, each with neighbours of its own.

    Parameters
    ----------
    images, texts : PairSampler
        Of as many samples, batch by batch the same ones: with one ``order_seed`` and one ``batch_size``.
    """

    def __init__(self, images: PairSampler, texts: PairSampler) -> None:
        self._images, self._texts = images, texts
        self.batch_size = images.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        return self._images.steps_per_epoch

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch: images (2B, D) and texts (2B, D), samples before neighbours."""
        return zip(self._images.epoch(number), self._texts.epoch(number), strict=True)


def _make_generator(seed: int, number: int) -> torch.Generator:
    # Hashed together: seed + number would give epoch 1 of seed 0 the draws of epoch 0 of seed 1.
    drawn = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> np.uint64(1)))


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
        with safe_open(mine[max(common)], framework="pt") as file:
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
            with safe_open(path, framework="pt") as file:
                description = (file.metadata() or {}).get("trainer")
                whole = set(file.keys()) == {*self._live, "history"}
                epochs = int(file.get_slice("history").get_shape()[0]) if whole else 0
        except (SafetensorError, OSError) as error:
            logger.warning("ignoring the damaged checkpoint %s: %s", path, error)
            return 0
        if description != self._description or not whole:
            logger.warning("ignoring the checkpoint %s: it was made with other parameters", path)
            return 0
        return epochs
