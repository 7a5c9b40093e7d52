"""Training objectives: pure functions on logits, one loss per head."""

from __future__ import annotations

import torch
from torch import Tensor


def temi_weights(teacher_log_a: Tensor, teacher_log_b: Tensor) -> Tensor:
    """Return how surely the teachers of all heads put both members of each pair in one cluster.

    ``w(x,x') = (1/H) Σ_h Σ_c q_h(c|x) · q_h(c|x')``: TEMI, the teacher-weighted PMI.

    Parameters
    ----------
    teacher_log_a, teacher_log_b : Tensor (H, B, K)
        Log-probabilities of the teacher for the two members of each pair.

    Returns
    -------
    Tensor (B,)
        Weights in [0, 1].
    """
    return (teacher_log_a + teacher_log_b).exp().sum(dim=2).mean(dim=0)


def temi_loss(
    student_log_a: Tensor,
    student_log_b: Tensor,
    teacher_log_a: Tensor,
    teacher_log_b: Tensor,
    marginal: Tensor,
    *,
    beta: float = 0.6,
    weighted: bool = True,
) -> Tensor:
    """Return the TEMI loss of every head.

    ``L_h = −½ · mean_batch w · [ pmi_h(x,x') + pmi_h(x',x) ]`` with
    ``pmi_h(x,x') = log Σ_c [ q_h(c|x) · p_h(c|x') ]^β / q̄_h(c)``: TEMI, the weighted PMI objective. With
    ``beta=1`` and ``weighted=False`` it is plain pointwise mutual information.

    Parameters
    ----------
    student_log_a, student_log_b : Tensor (H, B, K)
        Log-probabilities of the student for the two members of each pair; gradients flow into these.
    teacher_log_a, teacher_log_b : Tensor (H, B, K)
        Log-probabilities of the teacher; no gradient.
    marginal : Tensor (H, K)
        q̄, the running mean probability of every cluster; positive.
    beta : float, default 0.6
        Exponent in (0.5, 1]; below 1 it works against collapse into one cluster.
    weighted : bool, default True
        Weigh pairs by :func:`temi_weights`, shared by all heads; else every pair counts 1.

    Returns
    -------
    Tensor (H,)
    """
    log_marginal = marginal.log().unsqueeze(1)
    pmi_ab = torch.logsumexp(beta * (teacher_log_a + student_log_b) - log_marginal, dim=2)
    pmi_ba = torch.logsumexp(beta * (teacher_log_b + student_log_a) - log_marginal, dim=2)
    pmi = pmi_ab + pmi_ba
    if weighted:
        pmi = pmi * temi_weights(teacher_log_a, teacher_log_b)
    return -0.5 * pmi.mean(dim=1)


class TemiObjective:
    """TEMI's loss with its running cluster marginal.

    Parameters
    ----------
    n_heads, n_clusters : int
        H and K.
    beta : float, default 0.6
        Exponent of the PMI.
    weighted : bool, default True
        Whether pairs are weighted by the teachers' agreement.
    temperature : float, default 0.1
        Softmax temperature of student and teacher.
    momentum : float, default 0.9
        Of the running mean q̄, which starts at 1/K and takes in the batch before it is used.
    """

    def __init__(
        self,
        n_heads: int,
        n_clusters: int,
        *,
        beta: float = 0.6,
        weighted: bool = True,
        temperature: float = 0.1,
        momentum: float = 0.9,
    ) -> None:
        self.beta, self.weighted = beta, weighted
        self.temperature, self.momentum = temperature, momentum
        self.marginal = torch.full((n_heads, n_clusters), 1 / n_clusters)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold; they are updated in place."""
        return {"marginal": self.marginal}

    def to(self, device: torch.device) -> None:
        """Move the state to a device."""
        self.marginal = self.marginal.to(device)

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the loss (H,) for logits (H, 2B, K): first members of the pairs, then the second ones."""
        student = torch.log_softmax(student_logits.float() / self.temperature, dim=2)
        teacher = torch.log_softmax(teacher_logits.float() / self.temperature, dim=2)
        self.marginal.lerp_(teacher.exp().mean(dim=1), 1 - self.momentum)
        student_a, student_b = student.chunk(2, dim=1)
        teacher_a, teacher_b = teacher.chunk(2, dim=1)
        return temi_loss(
            student_a,
            student_b,
            teacher_a,
            teacher_b,
            self.marginal,
            beta=self.beta,
            weighted=self.weighted,
        )
