"""Losses as pure functions on log-probabilities, one value per head."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pair_agreement(target_log_a: Tensor, target_log_b: Tensor) -> Tensor:
    """Return how surely the teacher of every head puts both members of each pair in one cluster.

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
    ``beta=1`` and no weights it is plain pointwise mutual information.

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
        Exponent in (0.5, 1]; below 1 it works against collapse into one cluster.

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

    ``L_h = −½ mean_batch [ log Σ_c q_h(c|x) p_h(c|x') + log Σ_c q_h(c|x') p_h(c|x) ]
    + α · ½ Σ_views Σ_c p̄_h(c) log p̄_h(c)``: Scaling paper, Equation 2. p̄ is the student's mean over one
    view of the batch; its entropy keeps clusters alive.

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


def sinkhorn(logits: Tensor, n_rounds: int = 3) -> Tensor:
    """Return the log-probabilities of balanced assignments, of every head over the rows of one view.

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
    # The constants 1/K and 1/B of all but the last scaling cancel in the next one.
    for _ in range(n_rounds):
        logits = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        logits = torch.log_softmax(logits, dim=2)
    return logits


def half_cosine(progress: float) -> float:
    """Return 0 … 1 along half a cosine for a progress of 0 … 1: ICCE's schedule of the cross-entropy."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, progress)))
