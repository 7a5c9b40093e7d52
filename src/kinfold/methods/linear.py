"""Linear classifiers on frozen features, many trained at once: one gather of the batch serves them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.methods._rows import column_moments
from kinfold.progress import SILENT, Progress
from kinfold.rows.readers import resident_rows

MOMENTUM = 0.9  # of stochastic gradient descent, as in the linear evaluations that the rates come from
CLOSED = -1e4  # bias of a class without members: its probability is exactly 0, so it never moves
_READ_BYTES = 8 << 20  # of rows and logits at once, where agreement is counted


class FloatRows:
    """Rows of a matrix as float32 on a device, read when they are asked for.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features; what is on disk stays there.
    device : torch.device
        Where rows are wanted.
    """

    def __init__(self, X: Any, device: torch.device) -> None:
        self._X, self._device = X, device
        self.n_rows, self.dim = int(X.shape[0]), int(X.shape[1])
        self._resident = resident_rows(X, device)

    def take(self, rows: Tensor) -> Tensor:
        """Return the rows of the given numbers (B,), a tensor of int64 in main memory, as a new (B, D)."""
        if self._resident is None:
            return torch.from_numpy(np.array(self._X[rows.numpy()], dtype=np.float32)).to(self._device)
        return self._resident.index_select(0, rows.to(self._device)).float()


class StandardRows(FloatRows):
    """Rows of a matrix as float32 on a device, every column with mean 0 and deviation 1.

    Attributes
    ----------
    mean, scale : ndarray (D,) float32
        Of the columns; the scale of a constant column is 1.
    """

    def __init__(self, X: Any, device: torch.device) -> None:
        super().__init__(X, device)
        mean, deviation = column_moments(X)
        self.mean = mean.astype(np.float32)
        self.scale = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
        self._mean = torch.from_numpy(self.mean).to(device)
        self._inverse = torch.from_numpy(1 / self.scale).to(device)

    def take(self, rows: Tensor) -> Tensor:
        """Return the standardized rows of the given numbers (B,) as a new (B, D)."""
        return super().take(rows).sub_(self._mean).mul_(self._inverse)

    def standardize(self, rows: NDArray[Any]) -> Tensor:
        """Return other rows (B, D) standardized as these are, on the device."""
        there = torch.from_numpy(np.array(rows, dtype=np.float32)).to(self._mean.device)
        return there.sub_(self._mean).mul_(self._inverse)


class SoftmaxStack:
    """Linear classifiers of the same K classes: S on each of V parts of the columns.

    All start at zero and follow stochastic gradient descent with momentum 0.9. A learning rate is meant for
    rows of squared length 1: on standardized columns, weights follow ``rate / width`` and biases ``rate``, so
    that a rate means the same for every width.

    Parameters
    ----------
    parts : sequence of int or Tensor
        What each part sees, V of them: so many leading columns, or the columns of these numbers (int64).
    rates : sequence of float
        Learning rate of every classifier of a part, S of them.
    members : Tensor (S, K) of bool
        Which classes have members to learn from; the others never win.
    device : torch.device
        Where to train.
    decays : sequence of float, optional
        Weight decay of every classifier of a part, by default none: ``decay / 2 · ‖weight‖²`` is added to the
        mean cross-entropy, where weights are those for rows of squared length 1. Biases don't decay.
    per_column : bool, default False
        Rates are meant for columns of deviation 1 instead: weights follow ``rate`` as well.

    Attributes
    ----------
    weights : list of Tensor (S · K, width)
        One per part; on CPUs, products with few rows are several times faster than with few columns.
    biases : list of Tensor (S · K,)
        One per part.
    """

    def __init__(
        self,
        parts: Sequence[int | Tensor],
        rates: Sequence[float],
        members: Tensor,
        device: torch.device,
        *,
        decays: Sequence[float] | None = None,
        per_column: bool = False,
    ) -> None:
        self._columns = [part if isinstance(part, int) else part.to(device) for part in parts]
        self.widths = tuple(part if isinstance(part, int) else len(part) for part in parts)
        self._divisors = [1 if per_column else width for width in self.widths]
        self.n_settings, self.n_classes = members.shape
        start = torch.where(members.to(device), 0.0, CLOSED).reshape(-1)
        self.weights = [torch.zeros(members.numel(), width, device=device) for width in self.widths]
        self.biases = [start.clone() for _ in self.widths]
        self._rates = torch.tensor(list(rates), device=device).repeat_interleave(self.n_classes)
        # Momentum makes a steady gradient count 1 / (1 − momentum) times; decay is to count as often.
        shrink = [rate * decay / (1 - MOMENTUM) for rate, decay in zip(rates, decays or (), strict=False)]
        # Empty where nothing decays: a step then skips the pass over all weights.
        self._shrink = torch.tensor(shrink, device=device).repeat_interleave(self.n_classes)
        self._weight_speeds = [torch.zeros_like(weight) for weight in self.weights]
        self._bias_speeds = [torch.zeros_like(bias) for bias in self.biases]

    def logits(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield, for every part, the logits (B, S, K) of standardized rows (B, D)."""
        for part in range(len(self.widths)):
            yield self._logits(part, self._choose(rows, part))

    def step(self, rows: Tensor, labels: Tensor, factor: float, kept: Tensor | None = None) -> None:
        """Make one step on standardized rows (B, D) with labels (B,) int64.

        Parameters
        ----------
        rows, labels : Tensor
            The batch.
        factor : float
            Of all learning rates, in [0, 1].
        kept : Tensor (B, S) of bool, optional
            Which rows each classifier of a part learns from; by default all.
        """
        for part, divisor in enumerate(self._divisors):
            chosen = self._choose(rows, part)
            # Written out: autograd would keep the logits of all parts until the last one is done.
            pull = cross_entropy_gradient(self._logits(part, chosen), labels, kept).view(len(rows), -1)
            speed, bias_speed = self._weight_speeds[part], self._bias_speeds[part]
            speed.addmm_(pull.T, chosen, beta=MOMENTUM)
            bias_speed.mul_(MOMENTUM).add_(pull.sum(dim=0))
            if len(self._shrink):
                self.weights[part].mul_((1 - factor * self._shrink).clamp_min(0)[:, None])
            self.weights[part].addcmul_(speed, self._rates[:, None], value=-factor / divisor)
            self.biases[part].addcmul_(bias_speed, self._rates, value=-factor)

    def classifier(self, part: int, setting: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight (K, width) and bias (K,) of one classifier."""
        lines = slice(setting * self.n_classes, (setting + 1) * self.n_classes)
        return self.weights[part][lines].cpu().numpy(), self.biases[part][lines].cpu().numpy()

    def _choose(self, rows: Tensor, part: int) -> Tensor:
        """Return the columns that a part sees; leading ones are a view."""
        columns = self._columns[part]
        return rows[:, :columns] if isinstance(columns, int) else rows.index_select(1, columns)

    def _logits(self, part: int, chosen: Tensor) -> Tensor:
        """Return a part's logits (B, S, K) of its columns."""
        flat = torch.nn.functional.linear(chosen, self.weights[part], self.biases[part])
        return flat.view(len(chosen), self.n_settings, self.n_classes)


def cross_entropy_gradient(logits: Tensor, labels: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the gradient of the mean cross-entropy by the logits.

    Parameters
    ----------
    logits : Tensor (B, S, K)
        Of S classifiers.
    labels : Tensor (B,) int64
        The same for all classifiers.
    kept : Tensor (B, S) of bool, optional
        The rows that the mean of each classifier is over; by default all.
    """
    pull = torch.softmax(logits, dim=2)
    pull -= torch.nn.functional.one_hot(labels, logits.shape[2])[:, None]
    if kept is None:
        return pull.div_(len(labels))
    share = kept / kept.sum(dim=0).clamp_min(1)
    return pull.mul_(share[:, :, None])


def train(
    stack: SoftmaxStack,
    rows: StandardRows,
    labels: Tensor,
    members: Tensor,
    *,
    n_iterations: int,
    batch_size: int,
    seed: int,
    folds: Tensor | None = None,
    progress: Progress = SILENT,
    title: str = "Training classifiers",
) -> None:
    """Train a stack in place, with rates that fall to zero on half a cosine.

    Parameters
    ----------
    stack : SoftmaxStack
        The classifiers.
    rows : StandardRows
        Features of N samples.
    labels : Tensor (N,) int64
        Classes of all samples, on the device.
    members : Tensor (M,) int64
        The samples to learn from, in main memory.
    n_iterations, batch_size : int
        Steps, and samples per step (at most M); a pass ends where no whole batch is left.
    seed : int
        Of the order.
    folds : Tensor (N,) int64, optional
        On the device: classifier s never learns from a sample of fold s.
    progress : Progress
        Shows steps.
    title : str, default "Training classifiers"
        What progress calls the training.
    """
    folds_of = torch.arange(stack.n_settings, device=labels.device)
    with progress.task(title, n_iterations, "steps") as task:
        for step, batch in enumerate(_batches(members, batch_size, n_iterations, seed)):
            there = batch.to(labels.device)
            kept = None if folds is None else folds[there][:, None] != folds_of
            # Half a cosine: large steps first, small ones to settle, without a length to tune.
            factor = 0.5 * (1 + math.cos(math.pi * step / n_iterations))
            stack.step(rows.take(batch), labels[there], factor, kept)
            task.advance()


def agreements(stack: SoftmaxStack, rows: StandardRows, labels: Tensor, members: Tensor) -> Tensor:
    """Return, per part and setting (V, S), the share of the given samples that get their label."""
    hits = torch.zeros(len(stack.widths), stack.n_settings, dtype=torch.int64, device=labels.device)
    size = max(1, _READ_BYTES // (4 * (rows.dim + stack.biases[0].numel())))
    for start in range(0, len(members), size):
        batch = members[start : start + size]
        expected = labels[batch.to(labels.device)][:, None]
        for part, logits in enumerate(stack.logits(rows.take(batch))):
            hits[part] += (logits.argmax(dim=2) == expected).sum(dim=0)
    return hits.double().cpu() / len(members)


def deal_folds(labels: Tensor, n_folds: int, seed: int) -> Tensor:
    """Return the fold (N,) of every sample: shuffled within its class, then dealt in turn.

    Classes lie one after another in the dealing, so that every fold holds its share of each.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]
    folds = torch.empty_like(labels)
    folds[order] = torch.arange(len(labels)) % n_folds
    return folds


def _batches(members: Tensor, batch_size: int, n_batches: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of samples: pass after pass in a new order, a function of the seed alone."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same order on every device
    done = 0
    while done < n_batches:
        order = members[torch.randperm(len(members), generator=generator)]
        whole = min(len(order) // batch_size, n_batches - done)
        for index in range(whole):
            yield order[index * batch_size : (index + 1) * batch_size]
        done += whole
