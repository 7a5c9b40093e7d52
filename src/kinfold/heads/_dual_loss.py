"""The losses of :mod:`kinfold.heads.distillation` in one: from logits, with the gradient made on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from kinfold.heads.distillation import SHORTEST, TINY, DualSettings

_PAIRS = {"both": [0, 1], "text_to_image": [0], "image_to_text": [1], "none": []}


@torch.no_grad()
def dual_loss_gradient(logits: Tensor, settings: DualSettings) -> tuple[Tensor, Tensor]:
    """Return the loss () and its gradient (2, 2, B, K) with respect to the logits.

    Equal to :func:`~kinfold.heads.distillation.dual_loss` of their softmax, and autograd's gradient of it.

    Parameters
    ----------
    logits : Tensor (2, 2, B, K) float32
        Of images, then of texts; of samples, then of their neighbours in the same modality. The memory
        becomes the gradient's.
    settings : DualSettings
        Which terms count.
    """
    log_p = torch.log_softmax(logits, dim=3)
    p = log_p.exp()
    gradient = logits.zero_()  # with respect to the probabilities, to begin with
    loss = logits.new_zeros(())
    if pairs := _PAIRS[settings.distillation]:
        loss = loss + _distil(p, gradient, pairs, settings.temperature)
    if settings.balance_weight > 0:
        means = p[:, 0].mean(dim=1, keepdim=True)  # (2, 1, K)
        log_means = means.clamp_min(TINY).log()
        loss = loss + settings.balance_weight * (means * log_means).sum()
        gradient[:, 0].add_(log_means, alpha=settings.balance_weight / p.shape[2])
    gradient.mul_(p)
    gradient.addcmul_(p, gradient.sum(dim=3, keepdim=True), value=-1)
    if settings.confidence:
        joint = log_p[0, 0] + log_p[1, 0]
        log_share = torch.log_softmax(joint, dim=1)
        loss = loss - (joint[:, 0] - log_share[:, 0]).mean()
        gradient[:, 0].add_(p[:, 0] - log_share.exp_(), alpha=1 / p.shape[2])
    return loss, gradient


def _distil(p: Tensor, gradient: Tensor, pairs: list[int], temperature: float) -> Tensor:
    """Return the distillation losses of some pairs in sum, and add their gradient by the probabilities.

    Pair 0 holds images against neighbours of texts, pair 1 texts against neighbours of images.
    """
    n_clusters = p.shape[3]
    columns = torch.cat([p[pairs, 0], p[[1 - pair for pair in pairs], 1]], dim=2)  # (pairs, B, 2K)
    lengths = torch.linalg.vector_norm(columns, dim=1, keepdim=True).clamp_min_(SHORTEST)
    columns.div_(lengths)
    similarities = torch.bmm(columns.transpose(1, 2), columns).div_(temperature)
    positives = similarities.diagonal(n_clusters, 1, 2).sum(dim=1) * 2  # both ways
    similarities.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    peaks = similarities.amax(dim=2, keepdim=True)
    shares = similarities.sub_(peaks).exp_()
    totals = shares.sum(dim=2, keepdim=True)
    loss = (totals.log() + peaks).sum() - positives.sum()
    shares.div_(totals)
    for shift in (n_clusters, -n_clusters):
        shares.diagonal(shift, 1, 2).sub_(1)
    pulls = shares + shares.transpose(1, 2)
    moved = torch.bmm(columns, pulls)  # by the unit columns, but for 1 / (2K τ)
    moved.addcmul_(columns, (moved * columns).sum(dim=1, keepdim=True), value=-1)
    moved.mul_(1 / (2 * n_clusters * temperature * lengths))
    for index, pair in enumerate(pairs):
        gradient[pair, 0].add_(moved[index, :, :n_clusters])
        gradient[1 - pair, 1].add_(moved[index, :, n_clusters:])
    return loss / (2 * n_clusters)
