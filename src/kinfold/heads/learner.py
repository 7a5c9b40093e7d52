"""Many heads as one learner: student, slowly following teacher, AdamW, and what the training leaves.

A step goes over the heads tile by tile, so that temporaries are small. Under ``torchrun`` the heads are
divided among the processes, each of which sees whole batches: whatever is averaged over a batch needs no
exchange, and the one thing that depends on all heads, the weights of pairs, is summed over the processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adamw import adamw

from kinfold.distributed import Workers, current_workers
from kinfold.errors import InputError
from kinfold.heads._tiles import Scratch, TilePass, tile_heads
from kinfold.heads.network import HeadWeights, MultiHeadNetwork, head_logits, select_heads
from kinfold.heads.objectives import TEMPERATURE, Objective

# Targets of all heads are kept between the teacher's and the student's pass up to this size, that of 256
# heads of 1,000 clusters at 1,024 pairs; beyond it the teacher's pass is made twice, which costs time but no
# memory.
_KEPT_TARGETS_BYTES = 2 << 30

# The defaults of PyTorch's AdamW.
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8

# Decay is for what multiplies inputs. Biases only shift, and are left out.
_DECAYED: tuple[str, ...] = ("weight1", "weight2", "direction", "gain")
_UNDECAYED: tuple[str, ...] = ("bias1", "bias2")
_LAST_LAYER = ("direction", "gain")


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
        First steps in which the last layer keeps its initial values, so that targets which are still noise
        don't decide on the clusters.
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
        if self.workers.size > self.n_heads:
            raise InputError(
                f"{self.n_heads} heads can't be divided among {self.workers.size} processes; start at most "
                f"{self.n_heads}, or train more heads"
            )
        self.heads = self.workers.share(self.n_heads)
        if self.workers.size > 1:
            network = network.part(self.heads)
        self.student = network.to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher.norm = self.student.norm  # one input for both, normalised once a step
        self.objective, self.schedule = objective, schedule
        self.device, self.dtype = device, dtype
        objective.to(device)
        self._updater = Updater(
            self.student, self.teacher, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )
        self._scratch = Scratch(device)

    @torch.no_grad()
    def step(self, batch: Tensor, n_pairs: int, step: int, share_done: float) -> Tensor:
        """Make one update and return the loss of every head of this process (h,).

        Parameters
        ----------
        batch : Tensor (R, D)
            ``n_pairs`` samples, their neighbours, then any further neighbours.
        n_pairs : int
            B.
        step : int
            Steps made before.
        share_done : float
            Share of the training that is done.
        """
        inputs = self._scratch.take("normalized", tuple(batch.shape), torch.float32)
        inputs = self.student.norm.normalize_batch(batch, 2 * n_pairs, out=inputs)
        inputs = self._scratch.cast("inputs", inputs, self.dtype)
        tiles = tile_heads(
            self.student.n_heads, len(inputs), self.student.n_clusters, self.device, self.dtype
        )
        kept, weights = self._weigh(inputs, n_pairs, tiles)
        frozen_steps, warmup = self.schedule.frozen_steps, self.schedule.warmup_steps
        rate = self.schedule.learning_rate * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
        losses = []
        for index, tile in enumerate(tiles):
            targets = (
                kept[index] if kept else self._find_targets(inputs, n_pairs, tile, again=weights is not None)
            )
            student = TilePass(inputs[: 2 * n_pairs], self.student.weights(tile), self._scratch)
            loss, gradient = self.objective.loss_and_gradient(
                student.forward(), targets, weights, self._of_all(tile), share_done
            )
            # Minimised is the mean over the heads of all processes, so that a head's steps don't depend on
            # how many processes share the work.
            gradients = student.backward(gradient.mul_(1 / self.n_heads), frozen=step < frozen_steps)
            self._updater.update(tile, gradients, rate=rate, step=step, frozen_steps=frozen_steps)
            losses.append(loss)
        return torch.cat(losses)

    def _weigh(self, inputs: Tensor, n_pairs: int, tiles: list[slice]) -> tuple[list[Tensor], Tensor | None]:
        """Return the targets of all tiles, none where they take too much room, and what pairs weigh.

        A pair's weight is the mean of all heads' agreement on it, so the targets of every tile are needed
        before any student's loss: they are kept until then, or computed a second time.
        """
        if not self.objective.weighted:
            return [], None
        n_bytes = 4 * self.student.n_heads * 2 * n_pairs * self.student.n_clusters
        keep, kept = n_bytes <= _KEPT_TARGETS_BYTES, []
        # One row per head of all processes, so that the mean is always taken in the same order: otherwise the
        # last bit of a weight would depend on the number of processes, and rounding to bfloat16 enlarges
        # that.
        agreement = torch.zeros(self.n_heads, n_pairs, device=self.device)
        for tile in tiles:
            targets = self._find_targets(inputs, n_pairs, tile)
            agreement[self._of_all(tile)] = self.objective.agreement(targets)
            if keep:
                kept.append(targets)
        return kept, self.workers.sum_(agreement).mean(dim=0)

    def _find_targets(self, inputs: Tensor, n_pairs: int, tile: slice, *, again: bool = False) -> Tensor:
        logits = TilePass(inputs, self.teacher.weights(tile), self._scratch).teach()
        return self.objective.observe(logits, n_pairs, self._of_all(tile), again=again)

    def _of_all(self, tile: slice) -> slice:
        """Return a tile of this process's heads as numbered among the heads of all processes."""
        return slice(self.heads.start + tile.start, self.heads.start + tile.stop)

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


class Updater:
    """Moves a student along its gradients by AdamW, and its teacher after it.

    Gradients are needed for one tile of heads at a time, right after its backward pass: there are never
    gradients of all heads together.

    Parameters
    ----------
    student, teacher : MultiHeadNetwork
        Updated in place.
    momentum : float
        ``teacher ← momentum · teacher + (1 − momentum) · student``.
    weight_decay : float
        Decoupled, on matrices and gains, not on biases.

    References
    ----------
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization".
    """

    def __init__(
        self, student: MultiHeadNetwork, teacher: MultiHeadNetwork, *, momentum: float, weight_decay: float
    ) -> None:
        self._student, self._teacher = student, teacher
        self._momentum, self._weight_decay = momentum, weight_decay
        weights = [weight.detach() for weight in student.weights()]
        self._first = HeadWeights(*map(torch.zeros_like, weights))
        self._second = HeadWeights(*map(torch.zeros_like, weights))

    def state(self) -> dict[str, Tensor]:
        """Return the moments by name; they are updated in place."""
        first = {f"first.{name}": moment for name, moment in self._first._asdict().items()}
        return first | {f"second.{name}": moment for name, moment in self._second._asdict().items()}

    def update(
        self, heads: slice, gradients: HeadWeights, *, rate: float, step: int, frozen_steps: int
    ) -> None:
        """Move some heads, but not the last layer in the first ``frozen_steps``; steps count from 0."""
        for group, decay in ((_DECAYED, self._weight_decay), (_UNDECAYED, 0.0)):
            names = [name for name in group if step >= frozen_steps or name not in _LAST_LAYER]
            # Moments start at 0 and are corrected for it by the number of their own updates.
            made = [step - frozen_steps if name in _LAST_LAYER else step for name in names]
            self._move(names, made, heads, gradients, rate, decay)
        for follower, leader in zip(self._teacher.weights(heads), self._student.weights(heads), strict=True):
            follower.lerp_(leader, 1 - self._momentum)

    def _move(
        self,
        names: list[str],
        steps_made: list[int],
        heads: slice,
        gradients: HeadWeights,
        rate: float,
        decay: float,
    ) -> None:
        def of(weights: HeadWeights) -> list[Tensor]:
            return [getattr(weights, name) for name in names]

        device = gradients.weight1.device
        adamw(
            of(self._student.weights(heads)),
            of(gradients),
            of(select_heads(self._first, heads)),
            of(select_heads(self._second, heads)),
            [],
            # Filled on the device: a copy from the host would wait until the device has caught up.
            [torch.full((), made, dtype=torch.float32, device=device) for made in steps_made],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=rate,
            weight_decay=decay,
            eps=_EPSILON,
            maximize=False,
        )


@dataclass(frozen=True)
class Training:
    """Result of a training: the teacher, and the losses.

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

    def predict_labels(self, blocks: Iterable[NDArray[Any] | Tensor]) -> NDArray[np.int32]:
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
        self, head: int, blocks: Iterable[NDArray[Any] | Tensor], *, temperature: float = TEMPERATURE
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


def _on_device(blocks: Iterable[NDArray[Any] | Tensor], network: MultiHeadNetwork) -> Iterator[Tensor]:
    for block in blocks:
        rows = block if isinstance(block, Tensor) else torch.from_numpy(np.array(block, dtype=np.float32))
        yield rows.to(network.weight1.device, torch.float32)


@torch.no_grad()
def _logits(network: MultiHeadNetwork, rows: Tensor) -> Iterator[Tensor]:
    """Yield the logits (h, n, K) of tiles of heads."""
    inputs = network.norm(rows)
    for tile in tile_heads(network.n_heads, len(rows), network.n_clusters, rows.device):
        yield head_logits(inputs, network.weights(tile))
