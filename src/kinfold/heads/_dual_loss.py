"""The losses of :mod:`kinfold.heads.distillation` in one: from logits, with the gradient made on the way.

Clusters stand before samples: what is taken over clusters then runs along samples, which are many, and the
assignments to one cluster lie in one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinfold.heads.distillation import SHORTEST, TINY, DualSettings

_PAIRS = {"both": [0, 1], "text_to_image": [0], "image_to_text": [1], "none": []}


@torch.no_grad()
def dual_loss_gradient(logits: Tensor, settings: DualSettings) -> tuple[Tensor, Tensor]:
    """Return the loss () and its gradient (2, K, 2B) with respect to the logits.

    Equal to :func:`~kinfold.heads.distillation.dual_loss` of their softmax, and autograd's gradient of it.

    Parameters
    ----------
    logits : Tensor (2, K, 2B) float32
        Of images, then of texts; of B samples, then of a neighbour of each in the same modality. The memory
        becomes the gradient's.
    settings : DualSettings
        Which terms count.
    """
    n_samples = logits.shape[2] // 2
    log_p = torch.log_softmax(logits, dim=1)
    p = log_p.exp()
    own = p[:, :, :n_samples]
    gradient = logits.zero_()  # with respect to the probabilities, to begin with
    loss = logits.new_zeros(())
    if pairs := _PAIRS[settings.distillation]:
        loss = loss + _distil(p, gradient, pairs, settings.temperature)
    if settings.balance_weight > 0:
        means = own.mean(dim=2, keepdim=True)  # (2, K, 1)
        log_means = means.clamp_min(TINY).log()
        loss = loss + settings.balance_weight * (means * log_means).sum()
        gradient[:, :, :n_samples].add_(log_means, alpha=settings.balance_weight / n_samples)
    gradient.mul_(p)
    gradient.addcmul_(p, gradient.sum(dim=1, keepdim=True), value=-1)
    if settings.confidence:
        joint = log_p[0, :, :n_samples] + log_p[1, :, :n_samples]
        log_share = torch.log_softmax(joint, dim=0)
        loss = loss - (joint[0] - log_share[0]).mean()
        gradient[:, :, :n_samples].add_(own - log_share.exp_(), alpha=1 / n_samples)
    return loss, gradient


def _distil(p: Tensor, gradient: Tensor, pairs: list[int], temperature: float) -> Tensor:
    """Return the distillation losses of some pairs in sum, and add their gradient by the probabilities.

    Pair 0 holds images against neighbours of texts, pair 1 texts against neighbours of images.
    """
    n_clusters, n_samples = p.shape[1], p.shape[2] // 2
    sides = [[p[pair, :, :n_samples], p[1 - pair, :, n_samples:]] for pair in pairs]
    vectors = torch.stack([torch.cat(side) for side in sides])  # (pairs, 2K, B)
    lengths = torch.linalg.vector_norm(vectors, dim=2, keepdim=True).clamp_min_(SHORTEST)
    vectors.div_(lengths)
    similarities = torch.bmm(vectors, vectors.transpose(1, 2)).div_(temperature)
    positives = 2 * similarities.diagonal(n_clusters, 1, 2).sum()  # both ways
    similarities.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    peaks = similarities.amax(dim=2, keepdim=True)
    shares = similarities.sub_(peaks).exp_()
    totals = shares.sum(dim=2, keepdim=True)
    loss = (totals.log() + peaks).sum() - positives
    shares.div_(totals)
    for shift in (n_clusters, -n_clusters):
        shares.diagonal(shift, 1, 2).sub_(1)
    moved = torch.bmm(shares + shares.transpose(1, 2), vectors)  # but for 1 / (2K τ length)
    moved.addcmul_(vectors, (moved * vectors).sum(dim=2, keepdim=True), value=-1)
    moved.mul_(1 / (2 * n_clusters * temperature * lengths))
    for index, pair in enumerate(pairs):
        gradient[pair, :, :n_samples].add_(moved[index, :n_clusters])
        gradient[1 - pair, :, n_samples:].add_(moved[index, n_clusters:])
    return loss / (2 * n_clusters)
