"""What heads train on: losses as equations and in fused form, and objectives with settings and running state.

Each loss stands here twice. :func:`temi_loss`, :func:`scan_loss` and :func:`pseudo_label_loss` are the
papers' equations on log-probabilities, differentiated by autograd: they are there to be read and to test
against. :func:`pair_loss_gradient`, right behind them, is what training runs: the same values and their
gradient in a few passes over the logits.

An objective sees the teacher first and the student after, a tile of heads at a time, so that the logits
of all heads need not be in memory together:

1. :meth:`Objective.observe`, for every tile: the teacher's logits become targets;
2. :meth:`Objective.agreement`, for every tile: what pairs weigh, summed over all heads;
3. :meth:`Objective.loss_and_gradient`, for every tile: the student's logits against the targets.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

# Softmax temperature of student and teacher. Logits are products of unit-length codes with prototypes of gain
# 1: they start in [-1, 1], and without it no softmax could come near a single cluster.
TEMPERATURE = 0.1

# Least probability before a logarithm: a mean of float32 softmaxes can be exactly 0, and 0 · log 0 is NaN.
# Any normal float32 number far below a probability that matters will do.
LEAST_PROBABILITY = 1e-30

# Rows of the loss are taken in blocks whose temporaries, of this size each, stay in a CPU core's cache: the
# four or five passes over a block then don't wait for main memory.
_BLOCK_BYTES = 2 << 20


def pair_agreement(target_log_a: Tensor, target_log_b: Tensor) -> Tensor:
    """Return the probability, by every head's teacher, that both members of a pair are in one cluster.

    ``Σ_c q_h(c|x) · q_h(c|x')``: its mean over all heads is w(x,x'), the weight of TEMI's pairs.

    Parameters
    ----------
    target_log_a, target_log_b : Tensor (h, B, K)
        Log-probabilities of the teacher for the two members of each pair.

    Returns
    -------
    Tensor (h, B)
        In [0, 1].
    """
    return (target_log_a + target_log_b).exp().sum(dim=2)


def temi_loss(
    student_log_a: Tensor,
    student_log_b: Tensor,
    teacher_log_a: Tensor,
    teacher_log_b: Tensor,
    marginal: Tensor,
    weights: Tensor | None = None,
    *,
    beta: float = 0.6,
) -> Tensor:
    """Return the TEMI loss of every head.

    ``L_h = −½ · mean_batch w · [ pmi_h(x,x') + pmi_h(x',x) ]`` with
    ``pmi_h(x,x') = log Σ_c [ q_h(c|x) · p_h(c|x') ]^β / q̄_h(c)``: TEMI, the weighted PMI objective. With
    ``beta=1`` and no weights it is plain pointwise mutual information. Training runs its fused form,
    :func:`pair_loss_gradient`.

    Parameters
    ----------
    student_log_a, student_log_b : Tensor (H, B, K)
        Log-probabilities of the student for the two members of each pair; gradients flow into these.
    teacher_log_a, teacher_log_b : Tensor (H, B, K)
        Log-probabilities of the teacher; no gradient.
    marginal : Tensor (H, K)
        q̄, the running mean probability of every cluster; positive.
    weights : Tensor (B,), optional
        w of every pair, shared by all heads; without them every pair counts 1.
    beta : float, default 0.6
        Exponent in (0, 1]; below 1 it works against collapse into one cluster.

    Returns
    -------
    Tensor (H,)
    """
    log_marginal = marginal.log().unsqueeze(1)
    pmi_ab = torch.logsumexp(beta * (teacher_log_a + student_log_b) - log_marginal, dim=2)
    pmi_ba = torch.logsumexp(beta * (teacher_log_b + student_log_a) - log_marginal, dim=2)
    pmi = pmi_ab + pmi_ba
    if weights is not None:
        pmi = pmi * weights
    return -0.5 * pmi.mean(dim=1)


def scan_loss(
    student_log_a: Tensor,
    student_log_b: Tensor,
    teacher_log_a: Tensor,
    teacher_log_b: Tensor,
    *,
    entropy_weight: float = 5.0,
) -> Tensor:
    """Return the SCANv2 loss of every head.

    ``L_h = −½ mean_batch [ log Σ_c q_h(c|x) p_h(c|x') + log Σ_c q_h(c|x') p_h(c|x) ] + α · ½ Σ_views Σ_c
    p̄_h(c) log p̄_h(c)``: Scaling paper, Equation 2. p̄ is the student's mean over one view of the batch; its
    entropy keeps clusters alive. Training runs its fused form, :func:`pair_loss_gradient`.

    Parameters
    ----------
    student_log_a, student_log_b : Tensor (H, B, K)
        Log-probabilities of the student for the two members of each pair; gradients flow into these.
    teacher_log_a, teacher_log_b : Tensor (H, B, K)
        Log-probabilities of the teacher; no gradient.
    entropy_weight : float, default 5.0
        α.

    Returns
    -------
    Tensor (H,)
    """
    agreement_ab = torch.logsumexp(teacher_log_a + student_log_b, dim=2)
    agreement_ba = torch.logsumexp(teacher_log_b + student_log_a, dim=2)
    consistency = (agreement_ab + agreement_ba).mean(dim=1)
    negative_entropy = _negative_entropy(student_log_a) + _negative_entropy(student_log_b)
    return -0.5 * consistency + 0.5 * entropy_weight * negative_entropy


def _negative_entropy(log_probabilities: Tensor) -> Tensor:
    log_mean = torch.logsumexp(log_probabilities, dim=1) - math.log(log_probabilities.shape[1])
    return (log_mean.exp() * log_mean).sum(dim=1)


def pseudo_label_loss(
    student_log_a: Tensor, student_log_b: Tensor, teacher_log_a: Tensor, teacher_log_b: Tensor
) -> Tensor:
    """Return the cross-entropy of every head towards the teacher's choice for the other member of a pair.

    ``½ mean[ −log p_h(ŷ(x)|x') − log p_h(ŷ(x')|x) ]`` with ``ŷ = arg max q_h``: ICCE, Equations 1 and 2.
    Training runs its fused form, :func:`pair_loss_gradient`, as a part of TEMI's loss.

    Parameters
    ----------
    student_log_a, student_log_b, teacher_log_a, teacher_log_b : Tensor (H, B, K)
        As in :func:`temi_loss`.

    Returns
    -------
    Tensor (H,)
    """
    chosen_a = teacher_log_a.argmax(dim=2, keepdim=True)
    chosen_b = teacher_log_b.argmax(dim=2, keepdim=True)
    likelihood = student_log_b.gather(2, chosen_a) + student_log_a.gather(2, chosen_b)
    return -0.5 * likelihood.squeeze(2).mean(dim=1)


@torch.no_grad()
def pair_loss_gradient(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    beta: float = 1.0,
    log_marginal: Tensor | None = None,
    weights: Tensor | None = None,
    label_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the loss of every head (h,) and its gradient (h, 2B, K) with respect to the student's logits.

    The fused form of :func:`temi_loss`, plus ``label_weight`` times :func:`pseudo_label_loss`, plus the
    entropy term of :func:`scan_loss`: ``−½ mean_batch Σ_views w · log Σ_c [q · p]^β / q̄``, and so on. With
    ``beta=1`` and neither marginal nor weights the first part is that of :func:`scan_loss`.

    The gradient of log Σ_c exp(z_c) through a softmax is a difference of two softmaxes, that of z and p
    itself. So a few passes over (h, 2B, K) give both loss and gradient, and nothing of that size is recorded
    for autograd.

    Parameters
    ----------
    logits : Tensor (h, 2B, K)
        The student's: B samples, then their neighbours.
    targets : Tensor (h, 2B, K)
        Log-probabilities that each row is held against: the teacher's for the other member of the pair.
    temperature : float
        Of the student's softmax.
    beta : float, default 1.0
        Exponent of TEMI's PMI.
    log_marginal : Tensor (h, K), optional
        log q̄; without it nothing is divided by.
    weights : Tensor (B,), optional
        w of every pair.
    label_weight, entropy_weight : float, default 0.0
        λ(t) of ICCE and α of SCANv2.
    """
    n_rows = logits.shape[1]
    scale = 1 / n_rows  # ½ · mean over B pairs
    gradient = torch.empty_like(logits)
    loss = logits.new_zeros(len(logits))
    log_mean = None
    if entropy_weight > 0:
        # Needs all rows of a view before the gradient of any: a pass of its own.
        log_mean, negative_entropy = _mean_prediction(logits, temperature)
        loss = loss - entropy_weight / scale * negative_entropy
    row_weights = None if weights is None else weights.repeat(2)
    for rows in _row_blocks(logits):
        log_p = torch.log_softmax(logits[:, rows] / temperature, dim=2)
        p = log_p.exp()
        # The PMI, log Σ_c exp(z) with z = β (log q + log p) − log q̄; read off a log-softmax, whose
        # exponential the gradient needs anyway.
        z = (targets[:, rows] + log_p).mul_(beta)
        if log_marginal is not None:
            z.sub_(log_marginal.unsqueeze(1))
        log_share = torch.log_softmax(z, dim=2)
        pmi = z[:, :, 0] - log_share[:, :, 0]
        pull = log_share.exp_().sub_(p).mul_(beta)  # temperature · d pmi / d logits
        if row_weights is not None:
            pmi = pmi * row_weights[rows]
            pull.mul_(row_weights[rows].unsqueeze(1))
        loss += pmi.sum(dim=1)
        if label_weight > 0:
            chosen = targets[:, rows].argmax(dim=2, keepdim=True)
            pull.sub_(p, alpha=label_weight)
            pull.scatter_add_(2, chosen, torch.full_like(p[:, :, :1], label_weight))
            loss += label_weight * log_p.gather(2, chosen).sum(dim=(1, 2))
        if log_mean is not None:
            view = torch.arange(rows.start, rows.stop, device=logits.device) // (n_rows // 2)
            surprise = p * log_mean[:, view]
            surprise.addcmul_(p, surprise.sum(dim=2, keepdim=True), value=-1)
            pull.sub_(surprise, alpha=entropy_weight)
        torch.mul(pull, -scale / temperature, out=gradient[:, rows])
    return loss.mul_(-scale), gradient


def _row_blocks(tensor: Tensor) -> list[slice]:
    """Return blocks of the rows of (h, R, K) whose temporaries stay in a CPU's cache; elsewhere all rows."""
    n_heads, n_rows, n_clusters = tensor.shape
    size = n_rows
    if tensor.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (4 * n_heads * n_clusters))
    return [slice(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]


def _mean_prediction(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log p̄ (h, 2, K) of both views, and ½ Σ_views Σ_c p̄ log p̄ of every head."""
    n_pairs = logits.shape[1] // 2
    sums = []
    for view in torch.chunk(logits, 2, dim=1):
        parts = [torch.softmax(view[:, rows] / temperature, dim=2).sum(dim=1) for rows in _row_blocks(view)]
        sums.append(torch.stack(parts).sum(dim=0))
    mean = torch.stack(sums, dim=1) / n_pairs
    log_mean = mean.clamp_min(LEAST_PROBABILITY).log()
    return log_mean, 0.5 * (mean * log_mean).sum(dim=(1, 2))


def sinkhorn(logits: Tensor, n_rounds: int = 3) -> Tensor:
    """Return the log-probabilities of balanced assignments, of every head over its rows.

    Sinkhorn–Knopp on exp(logits): ``n_rounds`` times, every cluster's total is scaled to 1/K and then every
    row's to 1/B; at the end rows sum to 1. In the log domain, so that no logit overflows.

    Parameters
    ----------
    logits : Tensor (H, B, K)
        Teacher's logits divided by the temperature.
    n_rounds : int, default 3
        Of scaling clusters and rows.

    Returns
    -------
    Tensor (H, B, K)
        log Q.

    References
    ----------
    Caron et al. (2020), "Unsupervised learning of visual features by contrasting cluster assignments",
    section 3.1; ICCE, section 3.1 (three rounds).
    """
    # Factors 1/K and 1/B are left out: each scaling cancels them but for the last, after which rows sum to 1.
    for _ in range(n_rounds):
        logits = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        logits = torch.log_softmax(logits, dim=2)
    return logits


def half_cosine(share_done: float) -> float:
    """Return 0 … 1 along half a cosine for a share done of 0 … 1: ICCE's schedule of the cross-entropy."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, share_done)))


class Objective(Protocol):
    """What a method trains its heads on. h stands for the heads of a tile, B for the pairs of a batch.

    Attributes
    ----------
    weighted : bool
        Whether pairs are weighted by all heads together.
    """

    weighted: bool

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold; they are updated in place."""

    def to(self, device: torch.device) -> None:
        """Move the state to a device."""

    def observe(self, teacher_logits: Tensor, n_pairs: int, heads: slice, *, again: bool = False) -> Tensor:
        """Return the targets (h, 2B, K), log-probabilities, of teacher logits (h, n·B, K).

        Rows of the logits: B samples x, their neighbours x', then any further neighbours of x and of x',
        alternately. Rows of the targets: what p(·|x) is compared with, then what p(·|x') is. The memory of
        the logits is overwritten after the call. ``again`` says that the same logits were passed before, and
        their targets dropped for want of memory: running averages must not count them twice.
        """

    def agreement(self, targets: Tensor) -> Tensor:
        """Return Σ_c of the product of both views' targets, (h, B)."""

    def loss_and_gradient(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, share_done: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss (h,) of student logits (h, 2B, K), and its gradient with respect to them.

        ``share_done``, in [0, 1), is the share of the training that is done.
        """


class NeighborObjective:
    """Base of objectives that compare a sample's prediction with the teacher's on its neighbours.

    Parameters
    ----------
    temperature : float, default 0.1
        Softmax temperature of the student, and of the teacher unless it is given.
    teacher_temperature : float, optional
        Of the teacher.
    balanced : bool or "joint", default False
        Balance the teacher's outputs over clusters by :func:`sinkhorn`: True takes the rows of one view at a
        time, "joint" the rows of all views together, as DINOv2 does.
    """

    weighted = False

    def __init__(
        self,
        *,
        temperature: float = TEMPERATURE,
        teacher_temperature: float | None = None,
        balanced: bool | str = False,
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
        # A row's target is the teacher's output for the other member of its pair, so the halves change
        # places.
        logits = torch.cat([of_partner, of_x, *further], dim=1).div_(self.teacher_temperature)
        outputs = self._log_probabilities(logits, n_pairs)
        if not again:
            self._count(outputs[:, : 2 * n_pairs], heads)
        if not further:
            return outputs
        views = torch.split(outputs, n_pairs, dim=1)
        # The mean over neighbours, as a log-sum-exp; log_softmax then takes off the log of their number.
        smoothed = [torch.stack(views[side::2]).logsumexp(0) for side in (0, 1)]
        return torch.log_softmax(torch.cat(smoothed, dim=1), dim=2)

    def agreement(self, targets: Tensor) -> Tensor:
        """Return Σ_c of the product of both views' targets, (h, B)."""
        return pair_agreement(*targets.chunk(2, dim=1))

    def _log_probabilities(self, logits: Tensor, n_pairs: int) -> Tensor:
        """Return the teacher's log-probabilities (h, n·B, K)."""
        if not self.balanced:
            return torch.log_softmax(logits, dim=2)
        if self.balanced == "joint":
            return sinkhorn(logits)
        # Balanced is the batch of one view, in which every sample stands once.
        views = logits.view(-1, n_pairs, logits.shape[2])
        return sinkhorn(views).view_as(logits)

    def _count(self, outputs: Tensor, heads: slice) -> None:
        """Update running averages with the teacher's log-probabilities of the pairs (h, 2B, K)."""


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
        Of the running mean q̄, which starts at 1/K and is updated with a batch before that batch's loss.
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
        balanced: bool | str = False,
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

    def loss_and_gradient(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, share_done: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss (h,) of student logits (h, 2B, K), and its gradient."""
        return pair_loss_gradient(
            student_logits.float(),
            targets,
            temperature=self.temperature,
            beta=self.beta,
            log_marginal=self.marginal[heads].log(),
            weights=weights,
            label_weight=self.cross_entropy_weight * half_cosine(share_done),
        )

    def _count(self, outputs: Tensor, heads: slice) -> None:
        # Exponentials block by block: a second tensor of the size of the outputs is never made.
        sums = torch.stack([outputs[:, rows].exp().sum(dim=1) for rows in _row_blocks(outputs)])
        self.marginal[heads].lerp_(sums.sum(dim=0) / outputs.shape[1], 1 - self.momentum)


class ScanObjective(NeighborObjective):
    """SCANv2's loss.

    Parameters
    ----------
    entropy_weight : float, default 5.0
        α, the weight of the entropy of the mean prediction.
    temperature : float, default 0.1
        Softmax temperature of student and teacher.
    """

    def __init__(self, *, entropy_weight: float = 5.0, temperature: float = TEMPERATURE) -> None:
        super().__init__(temperature=temperature)
        self.entropy_weight = entropy_weight

    def loss_and_gradient(
        self, student_logits: Tensor, targets: Tensor, weights: Tensor | None, heads: slice, share_done: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss (h,) of student logits (h, 2B, K), and its gradient."""
        return pair_loss_gradient(
            student_logits.float(),
            targets,
            temperature=self.temperature,
            weights=weights,
            entropy_weight=self.entropy_weight,
        )
