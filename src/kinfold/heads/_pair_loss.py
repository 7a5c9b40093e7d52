"""The losses of :mod:`kinfold.heads.losses` in one: from logits, with the gradient made on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_TINY = 1e-30
_BLOCK_BYTES = 2 << 20


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
        scale = 1 / logits.shape[1]  # 1 / 2B
        gradient = torch.empty_like(logits)
        loss = logits.new_zeros(len(logits))
        log_mean = None
        if entropy_weight > 0:
            log_mean, negative_entropy = _mean_prediction(logits, temperature)
            loss = loss - entropy_weight / scale * negative_entropy
        row_weights = None if weights is None else weights.repeat(2)
        for rows in row_blocks(logits):
            log_p = torch.log_softmax(logits[:, rows] / temperature, dim=2)
            p = log_p.exp()
            some_weights = None if row_weights is None else row_weights[rows]
            similar, pull = _similarity(log_p, p, targets[:, rows], beta, log_marginal, some_weights)
            loss += similar
            if label_weight > 0:
                loss += label_weight * _add_labels(log_p, p, targets[:, rows], pull, label_weight)
            if log_mean is not None:
                surprise = p * _of_rows(log_mean, rows, logits.shape[1])
                surprise.addcmul_(p, surprise.sum(dim=2, keepdim=True), value=-1)
                pull.sub_(surprise, alpha=entropy_weight)
            torch.mul(pull, -scale / temperature, out=gradient[:, rows])
        ctx.gradient = gradient
        return loss.mul_(-scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient: Tensor | None = ctx.gradient
        if gradient is None:
            raise RuntimeError("the gradient of this loss was taken before; compute the loss again")
        ctx.gradient = None  # its memory becomes the result
        return gradient.mul_(upstream.view(-1, 1, 1)), *[None] * 7


def row_blocks(tensor: Tensor) -> list[slice]:
    """Return blocks of the rows of (h, R, K) whose temporaries stay in a CPU's cache; elsewhere all rows."""
    n_heads, n_rows, n_clusters = tensor.shape
    size = n_rows
    if tensor.device.type == "cpu":
        size = max(1, _BLOCK_BYTES // (4 * n_heads * n_clusters))
    return [slice(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]


def _similarity(
    log_p: Tensor,
    p: Tensor,
    targets: Tensor,
    beta: float,
    log_marginal: Tensor | None,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return Σ_rows w · log Σ_c exp(z) of every head, z = β(targets + log p) − log q̄, and τ its gradient."""
    z = (targets + log_p).mul_(beta)
    if log_marginal is not None:
        z.sub_(log_marginal.unsqueeze(1))
    log_share = torch.log_softmax(z, dim=2)
    similar = z[:, :, 0] - log_share[:, :, 0]
    pull = log_share.exp_().sub_(p).mul_(beta)
    if weights is not None:
        similar = similar * weights
        pull.mul_(weights.unsqueeze(1))
    return similar.sum(dim=1), pull


def _add_labels(log_p: Tensor, p: Tensor, targets: Tensor, pull: Tensor, label_weight: float) -> Tensor:
    """Return Σ_rows log p(ŷ) of every head; add ``label_weight`` · τ of its gradient to ``pull``."""
    chosen = targets.argmax(dim=2, keepdim=True)
    pull.sub_(p, alpha=label_weight)
    pull.scatter_add_(2, chosen, torch.full_like(p[:, :, :1], label_weight))
    return log_p.gather(2, chosen).sum(dim=(1, 2))


def _mean_prediction(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log p̄ (h, 2, K) of both views, and ½ Σ_views Σ_c p̄ log p̄ of every head."""
    n_pairs = logits.shape[1] // 2
    sums = []
    for view in torch.chunk(logits, 2, dim=1):
        parts = [torch.softmax(view[:, rows] / temperature, dim=2).sum(dim=1) for rows in row_blocks(view)]
        sums.append(torch.stack(parts).sum(dim=0))
    mean = torch.stack(sums, dim=1) / n_pairs
    log_mean = mean.clamp_min(_TINY).log()
    return log_mean, 0.5 * (mean * log_mean).sum(dim=(1, 2))


def _of_rows(by_view: Tensor, rows: slice, n_rows: int) -> Tensor:
    """Return what (h, 2, K) holds for each of some rows of both views together."""
    view = torch.arange(rows.start, rows.stop, device=by_view.device) // (n_rows // 2)
    return by_view[:, view]
