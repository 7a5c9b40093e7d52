"""Training of TURTLE: the task encoder, the inner classifiers, and the plan of steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from kinfold.heads import Checkpoint
from kinfold.methods._rows import numpy_blocks
from kinfold.methods.linear import FloatRows
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix

logger = logging.getLogger(__name__)

PAPER_STEPS, PAPER_BATCH, PAPER_RATE = 6000, 10_000, 1e-3
ROUND = 50  # steps between looks at the objective: each look waits for the device
# Rounds compared with as many before them: the objective of one batch is too noisy to tell a level by.
PATIENCE = 4
# By how much a mean objective must fall to go on, per space; docs/methods.md shows where this ends.
_TOLERANCE = 0.02
# Adam moves every weight by about its rate, and so a logit by about rate · D, on entries of size 1. From this
# width on the paper's rate is right; narrower spaces get more, at most what 64 columns get, as in the digits.
_WIDE, _MOST_FASTER = 1280, 20
# Samples of an outer step: the score rises with them (docs/methods.md), and so does the time of a step. With
# fewer than ten per cluster, the entropy of a batch would be that of its sampling.
_BATCH, _PER_CLUSTER = 2500, 10
_READ_BYTES = 8 << 20  # of X in memory at once
_TINY = 1e-30  # keeps the slope of the entropy finite where a label dies out
_LEAST_NORM = 1e-12  # of a weight's direction: a zero vector must not divide by zero


def labeling_loss(log_classified: Sequence[Tensor], proposed: Sequence[Tensor], gamma: float) -> Tensor:
    """Return what the task encoder minimizes.

    ``Σ_s −mean_b Σ_k τ(k|b) log p_s(k|b) − γ Σ_s H(mean_b l_s(·|b))`` with ``τ = mean_s l_s``: labels should
    be learnable in every space, and all of them in use.

    Parameters
    ----------
    log_classified : sequence of Tensor (B, K)
        log p_s of the inner classifier of every space; no gradient passes here.
    proposed : sequence of Tensor (B, K)
        l_s, the labels that every space proposes: rows sum to 1.
    gamma : float
        Weight of the entropy.

    Returns
    -------
    Tensor
        A scalar.

    References
    ----------
    Gadetsky et al., "Let Go of Your Labels with Unsupervised Transfer" (ICML 2024).
    """
    labels = torch.stack(list(proposed)).mean(dim=0)  # with its gradient: each error teaches all spaces
    loss = labels.new_zeros(())
    for log_p, part in zip(log_classified, proposed, strict=True):
        used = part.mean(dim=0)
        error = -(labels * log_p.detach()).sum(dim=1).mean()
        entropy = -(used * used.clamp_min(_TINY).log()).sum()
        loss = loss + error - gamma * entropy
    return loss


def classifier_gradient(rows: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the mean cross-entropy of softmax(rows · weightᵀ + bias) towards soft labels.

    Parameters
    ----------
    rows : Tensor (B, D)
        In the precision of matrix products.
    weight, bias : Tensor (K, D), (K,)
        Of the classifier, float32.
    labels : Tensor (B, K)
        Rows sum to 1.

    Returns
    -------
    tuple of Tensor (K, D), (K,)
        Both float32.
    """
    pull = torch.softmax(product(rows, weight) + bias, dim=1).sub_(labels).div_(len(rows))
    return (pull.to(rows.dtype).T @ rows).float(), pull.sum(dim=0)


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``rows · weightᵀ`` in the precision of the rows, as float32."""
    return linear(rows, weight.to(rows.dtype)).float()


def split_columns(rows: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return the columns (B, width) of every space, as views."""
    starts = [sum(widths[:space]) for space in range(len(widths))]
    return [rows.narrow(1, start, width) for start, width in zip(starts, widths, strict=True)]


class TaskEncoder:
    """Soft labels: the mean over spaces of softmax(weight-normalised linear with bias).

    Parameters
    ----------
    widths : sequence of int
        Columns of every space.
    n_clusters : int
        K.
    generator : torch.Generator
        Of the initial values: PyTorch's for linear layers.
    device : torch.device
        Where it lives; also an attribute.
    """

    def __init__(
        self, widths: Sequence[int], n_clusters: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.widths, self.device = tuple(widths), device
        self.directions, self.gains, self.biases = [], [], []
        for width in self.widths:
            weight, bias = _linear_layer(width, n_clusters, generator)
            self.gains.append(weight.norm(dim=1, keepdim=True).to(device).requires_grad_())
            self.directions.append(weight.to(device).requires_grad_())
            self.biases.append(bias.to(device).requires_grad_())

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        kinds = {"direction": self.directions, "gain": self.gains, "bias": self.biases}
        return {
            f"{kind}{space}": value for kind, values in kinds.items() for space, value in enumerate(values)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the parameters, in place."""
        with torch.no_grad():
            for name, value in self.tensors().items():
                value.copy_(tensors[name])

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """Return the labels (B, K) that every space proposes for rows (B, D), float32."""
        proposed = []
        for space, part in enumerate(split_columns(rows, self.widths)):
            direction = self.directions[space]
            weight = (
                self.gains[space] * direction / direction.norm(dim=1, keepdim=True).clamp_min(_LEAST_NORM)
            )
            proposed.append(torch.softmax(product(part, weight) + self.biases[space], dim=1))
        return proposed


class InnerClassifiers:
    """One linear classifier per space, which learns soft labels by Adam with gradients in closed form.

    The closed form spares autograd's graph of ten steps, through which no gradient flows.

    Parameters
    ----------
    widths : sequence of int
        Columns of every space.
    n_clusters : int
        K.
    learning_rate : float
        Of Adam.
    device : torch.device
        Where they live.
    """

    def __init__(
        self, widths: Sequence[int], n_clusters: int, learning_rate: float, device: torch.device
    ) -> None:
        self.widths, self._n_clusters = tuple(widths), n_clusters
        self.weights = [torch.zeros(n_clusters, width, device=device) for width in self.widths]
        self.biases = [torch.zeros(n_clusters, device=device) for _ in self.widths]
        self.optimizer = torch.optim.Adam([*self.weights, *self.biases], lr=learning_rate, fused=True)
        self._moments = list(adam_state(self.optimizer, "").values())

    def restart(self, generator: torch.Generator) -> None:
        """Draw the classifiers afresh, and set Adam's moments to zero, all in place."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            for live, drawn in zip(
                (weight, bias), _linear_layer(weight.shape[1], len(bias), generator), strict=True
            ):
                live.copy_(drawn)
        torch._foreach_zero_(self._moments)

    def learn(self, spaces: Sequence[Tensor], labels: Tensor, n_steps: int) -> None:
        """Make ``n_steps`` steps towards labels (B, K) on the rows of every space (B, width)."""
        for _ in range(n_steps):
            for rows, weight, bias in zip(spaces, self.weights, self.biases, strict=True):
                weight.grad, bias.grad = classifier_gradient(rows, weight, bias, labels)
            self.optimizer.step()

    def log_probabilities(self, spaces: Sequence[Tensor]) -> list[Tensor]:
        """Return the log-probabilities (B, K) in every space, float32."""
        return [
            torch.log_softmax(product(rows, weight) + bias, dim=1)
            for rows, weight, bias in zip(spaces, self.weights, self.biases, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return the classifiers by name."""
        kinds = {"weight": self.weights, "bias": self.biases}
        return {
            f"{kind}{space}": value for kind, values in kinds.items() for space, value in enumerate(values)
        }


def adam_state(optimizer: torch.optim.Adam, prefix: str) -> dict[str, Tensor]:
    """Return the tensors that Adam keeps, by name, made now where it has none yet."""
    live: dict[str, Tensor] = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        moments = optimizer.state[parameter]
        if not moments:  # Adam makes them in its first step, but a checkpoint restores before it
            moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        live |= {f"{prefix}{index}.{name}": value for name, value in moments.items()}
    return live


def _linear_layer(width: int, n_clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return weight (K, width) and bias (K,) drawn as PyTorch draws a linear layer's."""
    bound = 1 / math.sqrt(width)
    # On the CPU, and moved by the caller: the same seed gives the same values on every device.
    weight, bias = torch.empty(n_clusters, width), torch.empty(n_clusters)
    return weight.uniform_(-bound, bound, generator=generator), bias.uniform_(
        -bound, bound, generator=generator
    )


@dataclass(frozen=True)
class TurtlePlan:
    """How long and how fast to train.

    Attributes
    ----------
    n_steps : int
        Outer steps at most.
    batch_size : int
        Samples per outer step.
    n_inner_steps : int
        Steps of the inner classifiers per outer step.
    warm : bool
        Whether inner classifiers go on from step to step, rather than start afresh.
    gamma : float
        Weight of the entropy.
    learning_rate, inner_learning_rate : float
        Of Adam, for the encoder and for the inner classifiers.
    tolerance : float
        Training ends when the objective's mean over 4 rounds of 50 steps is lower by less than this than over
        the 4 rounds before; 0 to make all steps.
    """

    n_steps: int
    batch_size: int
    n_inner_steps: int
    warm: bool
    gamma: float
    learning_rate: float
    inner_learning_rate: float
    tolerance: float


def plan_turtle(
    n_samples: int,
    n_clusters: int,
    widths: Sequence[int],
    *,
    n_steps: int | None,
    batch_size: int | None,
    n_inner_steps: int,
    warm: bool,
    gamma: float,
    learning_rate: float | None,
    inner_learning_rate: float | None,
) -> TurtlePlan:
    """Choose the steps, batch size and rates of a training, as far as the user left them open.

    Adam moves every weight by about its rate, so a step moves a logit by about rate · D: the paper's 1e-3 is
    meant for spaces of 1,280 columns and more. In narrower ones the rate grows in proportion, up to 20 times.

    Parameters
    ----------
    n_samples, n_clusters : int
        N and K.
    widths : sequence of int
        Columns of every space.
    n_steps, batch_size, learning_rate, inner_learning_rate : optional
        What the user fixed; a fixed number of steps is made in full.
    n_inner_steps, warm, gamma
        As in :class:`TurtlePlan`.
    """
    rate = PAPER_RATE * float(np.clip(_WIDE / max(widths), 1, _MOST_FASTER))
    return TurtlePlan(
        n_steps=PAPER_STEPS if n_steps is None else int(n_steps),
        batch_size=min(int(batch_size), n_samples)
        if batch_size
        else turtle_batch_size(n_samples, n_clusters),
        n_inner_steps=int(n_inner_steps),
        warm=warm,
        gamma=float(gamma),
        learning_rate=rate if learning_rate is None else float(learning_rate),
        inner_learning_rate=rate if inner_learning_rate is None else float(inner_learning_rate),
        tolerance=_TOLERANCE * len(widths) if n_steps is None else 0.0,
    )


def turtle_batch_size(n_samples: int, n_clusters: int) -> int:
    """Return the samples of an outer step where that is open: 2,500 or 10 per cluster, at most 10,000."""
    return min(max(_BATCH, _PER_CLUSTER * n_clusters), PAPER_BATCH, n_samples)


class TurtleTraining:
    """One training of a task encoder.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features.
    widths : sequence of int
        Columns of every space.
    factors : ndarray (spaces,)
        What the features of every space are multiplied by.
    n_clusters : int
        K.
    plan : TurtlePlan
        Length and rates.
    seed : int
        Of initial values and batches.
    device : torch.device
        Where to train.
    dtype : torch.dtype
        Of matrix products; everything else is float32.

    Attributes
    ----------
    encoder : TaskEncoder
        What training changes.
    """

    def __init__(
        self,
        X: RowMatrix,
        widths: Sequence[int],
        factors: NDArray[np.float32],
        n_clusters: int,
        plan: TurtlePlan,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.plan, self._seed, self._dtype = plan, seed, dtype
        self._rows = FloatRows(X, device)
        self._factors = column_factors(factors, widths).to(device)
        # A batch of all samples is the same in every step: it is read and scaled once.
        everything = plan.batch_size >= self._rows.n_rows
        self._whole = self._prepare(torch.arange(self._rows.n_rows)) if everything else None
        generator = torch.Generator().manual_seed(seed)
        self.encoder = TaskEncoder(widths, n_clusters, generator, device)
        self._inner = InnerClassifiers(widths, n_clusters, plan.inner_learning_rate, device)
        self._inner.restart(generator)
        parameters = list(self.encoder.tensors().values())
        self._optimizer = torch.optim.Adam(parameters, lr=plan.learning_rate, fused=True)

    def run(
        self, identity: str, *, progress: Progress = SILENT, checkpoint: Path | None = None
    ) -> NDArray[Any]:
        """Train until the objective has levelled off, and return it for every round (rounds,), float32.

        Parameters
        ----------
        identity : str
            Names the data; a checkpoint with another one is not continued from.
        progress : Progress
            Shows steps and objective.
        checkpoint : Path, optional
            File to continue from, and to save to every half minute.
        """
        saved = self._checkpoint(checkpoint, identity) if checkpoint else None
        history = saved.restore() if saved else []
        n_rounds = -(-self.plan.n_steps // ROUND)
        with progress.task("training TURTLE", n_rounds, "rounds") as task:
            task.advance(len(history))
            while len(history) < n_rounds and not self._done(history):
                history.append(self._round(len(history)))
                task.advance(1, objective=float(history[-1][0]))
                if saved:
                    saved.save_if_due(history)
        logger.info("objective %.4f after %d rounds of %d steps", history[-1][0], len(history), ROUND)
        return np.concatenate(history)

    def step(self, number: int) -> Tensor:
        """Make one outer step and return its objective, a scalar on the device."""
        rows = self._whole if self._whole is not None else self._prepare(self._draw(number))
        spaces = split_columns(rows, self.encoder.widths)
        proposed = self.encoder(rows)
        if not self.plan.warm:
            # From the step's number, not from a running generator: a resumed training draws the same.
            self._inner.restart(torch.Generator().manual_seed(_derive(self._seed, number, 1)))
        labels = torch.stack([part.detach() for part in proposed]).mean(dim=0)
        self._inner.learn(spaces, labels, self.plan.n_inner_steps)
        loss = labeling_loss(self._inner.log_probabilities(spaces), proposed, self.plan.gamma)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self._optimizer.step()
        return loss.detach()

    def _round(self, number: int) -> NDArray[np.float32]:
        first = number * ROUND
        losses = [self.step(step) for step in range(first, min(first + ROUND, self.plan.n_steps))]
        return torch.stack(losses).mean(dim=0, keepdim=True).cpu().numpy()

    def _done(self, history: Sequence[NDArray[np.float32]]) -> bool:
        return self.plan.tolerance > 0 and levelled_off(history, self.plan.tolerance)

    def _draw(self, number: int) -> Tensor:
        random = np.random.default_rng(_derive(self._seed, number, 0))
        drawn = random.choice(self._rows.n_rows, self.plan.batch_size, replace=False, shuffle=False)
        return torch.from_numpy(np.sort(drawn))  # in order: rows on disk are read in one sweep

    def _prepare(self, numbers: Tensor) -> Tensor:
        return self._rows.take(numbers).mul_(self._factors).to(self._dtype)

    def _checkpoint(self, path: Path, identity: str) -> Checkpoint:
        parts = {"encoder": self.encoder.tensors(), "inner": self._inner.tensors()}
        live = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        live |= adam_state(self._optimizer, "encoder.adam.")
        live |= adam_state(self._inner.optimizer, "inner.adam.")
        description = {
            "plan": asdict(self.plan),
            "seed": self._seed,
            "dtype": str(self._dtype),
            "data": identity,
        }
        return Checkpoint(path, live, description)


def levelled_off(history: Sequence[NDArray[np.float32]], tolerance: float) -> bool:
    """Tell whether the last 4 rounds improved the objective by less than ``tolerance`` over the 4 before."""
    if len(history) < 2 * PATIENCE:
        return False
    recent = np.concatenate(history[-2 * PATIENCE :]).reshape(2, PATIENCE).mean(axis=1)
    return bool(recent[0] - recent[1] < tolerance)


def column_factors(factors: NDArray[np.float32], widths: Sequence[int]) -> Tensor:
    """Return the factor of every column (D,) from those of the spaces."""
    return torch.from_numpy(np.repeat(np.asarray(factors, dtype=np.float32), widths))


def space_sizes(X: RowMatrix, widths: Sequence[int]) -> NDArray[np.float64]:
    """Return the root of the mean square of the entries in every space (spaces,)."""
    squares = np.zeros(X.shape[1])
    for _, block in numpy_blocks(X, _READ_BYTES):
        squares += np.square(block, dtype=np.float64).sum(axis=0)
    edges = np.cumsum([0, *widths[:-1]])
    sizes: NDArray[np.float64] = np.sqrt(np.add.reduceat(squares, edges) / (np.array(widths) * X.shape[0]))
    return sizes


def _derive(seed: int, number: int, purpose: int) -> int:
    return int(
        np.random.SeedSequence([seed, number, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )
