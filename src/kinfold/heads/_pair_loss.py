"""The losses of :mod:`kinfold.heads.losses` in one: from logits, with the gradient made on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-30


def pair_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    beta: float = 1.0,
    log_marginal: Tensor | None = None,
    weights: Tensor | None = None,
    label_weight: float = 0.0,
    entropy_weight: float = 0.0,
) -> Tensor:
    """Return the loss of every head, (h,).

    ``−½ mean_batch Σ_views w · log Σ_c [q · p]^β / q̄``, plus ``label_weight`` times the pseudo-label loss,
    plus ``entropy_weight`` times the negative entropy of the mean prediction of SCANv2.

    The gradient of all of it with respect to the logits is a difference of probabilities, so that a few
    passes over (h, 2B, K) give both loss and gradient, and nothing is recorded for autograd.

    Parameters
    ----------
    logits : Tensor (h, 2B, K)
        The student's, of both views.
    targets : Tensor (h, 2B, K)
        Log-probabilities that each row is held against.
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
    loss: Tensor = _PairLoss.apply(  # type: ignore[no-untyped-call]
        logits, targets, temperature, beta, log_marginal, weights, label_weight, entropy_weight
    )
    return loss


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        temperature: float,
        beta: float,
        log_marginal: Tensor | None,
        weights: Tensor | None,
        label_weight: float,
        entropy_weight: float,
    ) -> Tensor:
        log_p = torch.log_softmax(logits / temperature, dim=2)
        loss, gradient = _similarity(log_p, targets, beta, log_marginal, weights)
        p = log_p.exp()
        gradient.sub_(p).mul_(beta)
        if weights is not None:
            gradient.mul_(weights.repeat(2).unsqueeze(1))
        scale = 1 / p.shape[1]  # 1 / 2B
        if label_weight > 0:
            chosen = targets.argmax(dim=2, keepdim=True)
            loss = loss + label_weight * log_p.gather(2, chosen).sum(dim=(1, 2))
            gradient.sub_(p, alpha=label_weight)
            gradient.scatter_add_(2, chosen, torch.full_like(p[:, :, :1], label_weight))
        loss = -scale * loss
        gradient.mul_(-scale / temperature)
        if entropy_weight > 0:
            loss = loss + entropy_weight * _add_entropy(p, gradient, scale * entropy_weight / temperature)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.view(-1, 1, 1), *[None] * 7


def _similarity(
    log_p: Tensor, targets: Tensor, beta: float, log_marginal: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return Σ_rows w · log Σ_c exp(z) of every head, z = β(targets + log p) − log q̄, and softmax(z)."""
    z = (targets + log_p).mul_(beta)
    if log_marginal is not None:
        z.sub_(log_marginal.unsqueeze(1))
    log_share = torch.log_softmax(z, dim=2)
    rows = z[:, :, 0] - log_share[:, :, 0]
    if weights is not None:
        rows = rows * weights.repeat(2)
    return rows.sum(dim=1), log_share.exp_()


def _add_entropy(p: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """Return ½ Σ_views Σ_c p̄ log p̄ of every head; add ``scale`` times 2Bτ of its gradient."""
    n_heads, n_rows, n_clusters = p.shape
    views = p.view(n_heads, 2, n_rows // 2, n_clusters)
    mean = views.mean(dim=2, keepdim=True)
    log_mean = mean.clamp_min(_TINY).log()
    pull = views * log_mean
    pull.addcmul_(views, pull.sum(dim=3, keepdim=True), value=-1)
    gradient.view_as(views).add_(pull, alpha=scale)
    return 0.5 * (mean * log_mean).sum(dim=(1, 2, 3))
