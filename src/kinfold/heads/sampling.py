"""Batches of pairs of neighbours, each epoch drawn at once from its number and the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.neighbors import NeighborGraph
from kinfold.rows import RowMatrix
from kinfold.rows.readers import resident_rows

# Batches that are read from disk while one is trained on: one being read, one ready. More would only take
# memory, since a single thread reads them in order.
_BATCHES_AHEAD = 2


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
