"""What methods train their heads on: losses with their settings and running state.

An objective sees the teacher first and the student after, a tile of heads at a time, so that the logits
of all heads need not be in memory together:

1. :meth:`Objective.observe`, for every tile: the teacher's logits become targets;
2. :meth:`Objective.agreement`, for every tile: what pairs weigh, summed over all heads;
3. :meth:`Objective.loss`, for every tile: the student's logits against the targets.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kinfold.heads._pair_loss import pair_loss, row_blocks
from kinfold.heads.losses import half_cosine, pair_agreement, sinkhorn

TEMPERATURE = 0.1


class Objective(Protocol):
    """What a method trains its heads on. h stands for the heads of a tile, B for the pairs of a batch."""

    weighted: bool  # whether pairs are weighted by all heads together

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold; they are updated in place."""

    def to(self, device: torch.device) -> None:
        """Move the state to a device."""

    def observe(self, teacher_logits: Tensor, n_pairs: int, heads: slice, *, again: bool = False) -> Tensor:
        """Return the targets (h, 2B, K), log-probabilities, of teacher logits (h, n·B, K).

        Rows of the logits: B samples x, their neighbours x', then any further neighbours of x and of x', by
        turns. Rows of the targets: what p(·|x) is held against, then what p(·|x') is. The logits' memory is
        used again after the call. ``again``: the same logits came before, when the targets found no room;
        running averages have taken them in already.
        """

    def agreement(self, targets: Tensor) -> Tensor:
        """Return Σ_c of the product of both views' targets, (h, B)."""

    def loss(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, progress: float
    ) -> Tensor:
        """Return the loss (h,) of student logits (h, 2B, K); ``progress`` of the training is in [0, 1)."""


class NeighborObjective:
    """Base of objectives that hold a sample's prediction against the teacher's on its neighbours.

    Parameters
    ----------
    temperature : float, default 0.1
        Softmax temperature of the student, and of the teacher unless it is given.
    teacher_temperature : float, optional
        Of the teacher.
    balanced : bool, default False
        Balance the teacher's outputs over clusters by :func:`~kinfold.heads.losses.sinkhorn`.
    """

    weighted = False

    def __init__(
        self,
        *,
        temperature: float = TEMPERATURE,
        teacher_temperature: float | None = None,
        balanced: bool = False,
    ) -> None:
        self.temperature = temperature
        self.teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
        self.balanced = balanced

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold."""
        return {}

    def to(self, device: torch.device) -> None:
        """Move the state to a device."""

    def observe(self, teacher_logits: Tensor, n_pairs: int, heads: slice, *, again: bool = False) -> Tensor:
        """Return the targets (h, 2B, K), log-probabilities."""
        of_x, of_partner, *further = torch.split(teacher_logits.float(), n_pairs, dim=1)
        # Each row of the targets is what the row of the pair's other member says.
        logits = torch.cat([of_partner, of_x, *further], dim=1).div_(self.teacher_temperature)
        outputs = self._teach(logits, n_pairs)
        if not again:
            self._count(outputs[:, : 2 * n_pairs], heads)
        if not further:
            return outputs
        views = torch.split(outputs, n_pairs, dim=1)
        smoothed = [torch.stack(views[side::2]).logsumexp(0) for side in (0, 1)]
        return torch.log_softmax(torch.cat(smoothed, dim=1), dim=2)

    def agreement(self, targets: Tensor) -> Tensor:
        """Return Σ_c of the product of both views' targets, (h, B)."""
        return pair_agreement(*targets.chunk(2, dim=1))

    def _teach(self, logits: Tensor, n_pairs: int) -> Tensor:
        """Return the teacher's log-probabilities (h, n·B, K)."""
        if not self.balanced:
            return torch.log_softmax(logits, dim=2)
        views = logits.view(-1, n_pairs, logits.shape[2])  # each is balanced on its own
        return sinkhorn(views).view_as(logits)

    def _count(self, outputs: Tensor, heads: slice) -> None:
        """Take in what the teacher says of the pairs, log-probabilities (h, 2B, K)."""


class TemiObjective(NeighborObjective):
    """TEMI's loss with its running cluster marginal, and ICCE's additions to it.

    Parameters
    ----------
    n_heads, n_clusters : int
        H and K.
    beta : float, default 0.6
        Exponent of the PMI.
    weighted : bool, default True
        Whether pairs are weighted by the teachers' agreement.
    cross_entropy_weight : float, default 0.0
        λ of ICCE's pseudo-label term, reached on a half cosine at the end of training.
    momentum : float, default 0.9
        Of the running mean q̄, which starts at 1/K and takes in the batch before it is used.
    temperature, teacher_temperature, balanced
        See :class:`NeighborObjective`.
    """

    def __init__(
        self,
        n_heads: int,
        n_clusters: int,
        *,
        beta: float = 0.6,
        weighted: bool = True,
        cross_entropy_weight: float = 0.0,
        momentum: float = 0.9,
        temperature: float = TEMPERATURE,
        teacher_temperature: float | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(temperature=temperature, teacher_temperature=teacher_temperature, balanced=balanced)
        self.beta, self.weighted, self.momentum = beta, weighted, momentum
        self.cross_entropy_weight = cross_entropy_weight
        self.marginal = torch.full((n_heads, n_clusters), 1 / n_clusters)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold; they are updated in place."""
        return {"marginal": self.marginal}

    def to(self, device: torch.device) -> None:
        """Move the state to a device."""
        self.marginal = self.marginal.to(device)

    def loss(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, progress: float
    ) -> Tensor:
        """Return the loss (h,) of student logits (h, 2B, K)."""
        return pair_loss(
            student_logits.float(),
            targets,
            temperature=self.temperature,
            beta=self.beta,
            log_marginal=self.marginal[heads].log(),
            weights=weights,
            label_weight=self.cross_entropy_weight * half_cosine(progress),
        )

    def _count(self, outputs: Tensor, heads: slice) -> None:
        sums = torch.stack([outputs[:, rows].exp().sum(dim=1) for rows in row_blocks(outputs)])
        self.marginal[heads].lerp_(sums.sum(dim=0) / outputs.shape[1], 1 - self.momentum)


class ScanObjective(NeighborObjective):
    """SCANv2's loss.

    Parameters
    ----------
    entropy_weight : float, default 5.0
        α, what an even use of clusters is worth.
    temperature : float, default 0.1
        Softmax temperature of student and teacher.
    """

    def __init__(self, *, entropy_weight: float = 5.0, temperature: float = TEMPERATURE) -> None:
        super().__init__(temperature=temperature)
        self.entropy_weight = entropy_weight

    def loss(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, progress: float
    ) -> Tensor:
        """Return the loss (h,) of student logits (h, 2B, K)."""
        return pair_loss(
            student_logits.float(),
            targets,
            temperature=self.temperature,
            weights=weights,
            entropy_weight=self.entropy_weight,
        )
