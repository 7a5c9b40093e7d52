"""TAC's losses as pure functions on assignment probabilities: what two modalities teach each other.

Written to be read, and differentiated by autograd; training takes the same values with their gradients from
:mod:`kinfold.heads._dual_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

DIRECTIONS = ("both", "text_to_image", "image_to_text", "none")
SHORTEST = 1e-12  # what shorter columns are divided by
TINY = 1e-30


@dataclass(frozen=True)
class DualSettings:
    """Which terms TAC's loss has, and how they weigh.

    Attributes
    ----------
    temperature : float, default 0.5
        τ of the distillation's softmax over clusters.
    balance_weight : float, default 5.0
        α of the balance term; 0 leaves it out.
    confidence : bool, default True
        Whether the confidence term counts.
    distillation : {"both", "text_to_image", "image_to_text", "none"}, default "both"
        Which modality's neighbours teach the other one: L(P, Q^N), L(Q, P^N), both or neither.
    """

    temperature: float = 0.5
    balance_weight: float = 5.0
    confidence: bool = True
    distillation: str = "both"


def distillation_loss(a: Tensor, b: Tensor, *, temperature: float) -> Tensor:
    """Return L_AB, which makes cluster k of A the same samples as cluster k of B, and no other cluster.

    The 2K columns of A and B at unit length are compared with each other. For every column its namesake on
    the other side is the positive, the 2K − 2 others are negatives:
    ``L_AB = −(1/2K) Σ log [ e^{s(a_k, b_k)/τ} / (e^{s(a_k, b_k)/τ} + Σ_negatives e^{s/τ}) ]``, both ways
    (Li et al. 2024, equations 9 to 11).

    Parameters
    ----------
    a, b : Tensor (B, K)
        Probabilities.
    temperature : float
        τ.

    Returns
    -------
    Tensor ()
    """
    n_clusters = a.shape[1]
    columns = functional.normalize(torch.cat([a, b], dim=1), dim=0, eps=SHORTEST)
    similarities = columns.T @ columns / temperature
    own = torch.eye(2 * n_clusters, dtype=torch.bool, device=a.device)
    positives = torch.cat([similarities.diagonal(n_clusters), similarities.diagonal(-n_clusters)])
    return (similarities.masked_fill(own, -torch.inf).logsumexp(dim=1) - positives).mean()


def confidence_loss(p: Tensor, q: Tensor) -> Tensor:
    """Return L_con = −mean_batch log Σ_c p_c(x) q_c(x): 0 where both modalities are sure of one cluster.

    Li et al. 2024, equation 12. ``p``, ``q``: probabilities (B, K) of the same samples.
    """
    return -(p * q).sum(dim=1).log().mean()


def balance_loss(p: Tensor, q: Tensor) -> Tensor:
    """Return L_bal = −H(P̄) − H(Q̄), P̄ and Q̄ being batch means: at least −2 log K, where use is even.

    Li et al. 2024, equations 13 and 14. ``p``, ``q``: probabilities (B, K).
    """
    means = torch.stack([p.mean(dim=0), q.mean(dim=0)])
    return (means * means.clamp_min(TINY).log()).sum()


def dual_loss(p: Tensor, q: Tensor, p_neighbor: Tensor, q_neighbor: Tensor, settings: DualSettings) -> Tensor:
    """Return TAC's whole loss, L_dis + L_con + α L_bal (Li et al. 2024, equation 15).

    Parameters
    ----------
    p, q : Tensor (B, K)
        Probabilities of images, and of their text counterparts.
    p_neighbor, q_neighbor : Tensor (B, K)
        Those of a neighbour of every image among images, and of every counterpart among counterparts.
    settings : DualSettings
        Which terms count.

    Returns
    -------
    Tensor ()
    """
    loss = p.new_zeros(())
    if settings.distillation in ("both", "text_to_image"):
        loss = loss + distillation_loss(p, q_neighbor, temperature=settings.temperature)
    if settings.distillation in ("both", "image_to_text"):
        loss = loss + distillation_loss(q, p_neighbor, temperature=settings.temperature)
    if settings.confidence:
        loss = loss + confidence_loss(p, q)
    if settings.balance_weight > 0:
        loss = loss + settings.balance_weight * balance_loss(p, q)
    return loss
