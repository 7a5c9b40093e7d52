"""TAC: the losses by which two modalities teach each other, their fused form, and the learner of both heads.

Each loss stands here twice. :func:`dual_loss` and its terms are the paper's equations on probabilities,
differentiated by autograd: they are there to be read and to test against. :func:`dual_loss_gradient`, right
behind them, is what training runs: the same value and its gradient from logits.

A head's pass is written by hand as well (:class:`HeadPass`). Half of the time of a step are four large
products; the rest is taken in memory that is reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

from kinfold.distributed import Workers
from kinfold.heads._tiles import Scratch
from kinfold.heads.network import SHORTEST, truncated_normal
from kinfold.heads.objectives import LEAST_PROBABILITY

DIRECTIONS = ("both", "text_to_image", "image_to_text", "none")
INITIALIZATIONS = ("uniform", "truncated_normal")

# Which pairs of columns are compared, see _add_distillation: 0 is L(P, Q^N), 1 is L(Q, P^N).
_PAIRS = {"both": [0, 1], "text_to_image": [0], "image_to_text": [1], "none": []}

# PyTorch's defaults for batch normalisation; the paper names none.
_NORM_EPSILON = 1e-5  # of the batch's variance
_NORM_MOMENTUM = 0.1  # of the running averages

_BETAS = (0.9, 0.99)  # of Adam, TAC's; PyTorch's second one, 0.999, averages over ten times as many steps
_ADAM_EPSILON = 1e-8  # PyTorch's default


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
    # The column of an empty cluster is 0, and so are its cosines: SHORTEST keeps them from being NaN.
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
    return (means * means.clamp_min(LEAST_PROBABILITY).log()).sum()


def dual_loss(p: Tensor, q: Tensor, p_neighbor: Tensor, q_neighbor: Tensor, settings: DualSettings) -> Tensor:
    """Return TAC's whole loss, L_dis + L_con + α L_bal (Li et al. 2024, equation 15).

    Training runs its fused form, :func:`dual_loss_gradient`.

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


@torch.no_grad()
def dual_loss_gradient(logits: Tensor, settings: DualSettings) -> tuple[Tensor, Tensor]:
    """Return the loss () and its gradient (2, K, 2B) with respect to the logits.

    The fused form of :func:`dual_loss`: equal to it on the softmax of the logits, with autograd's gradient.
    Clusters stand before samples: what is taken over clusters then runs along samples, which are many, and
    the assignments to one cluster lie in one piece.

    Parameters
    ----------
    logits : Tensor (2, K, 2B) float32
        Of images, then of texts; of B samples, then of a neighbour of each in the same modality. Overwritten
        by the gradient.
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
        loss = loss + _add_distillation(p, gradient, pairs, settings.temperature)
    if settings.balance_weight > 0:
        means = own.mean(dim=2, keepdim=True)  # (2, K, 1)
        log_means = means.clamp_min(LEAST_PROBABILITY).log()
        loss = loss + settings.balance_weight * (means * log_means).sum()
        gradient[:, :, :n_samples].add_(log_means, alpha=settings.balance_weight / n_samples)
    # From probabilities to logits, through the softmax.
    gradient.mul_(p)
    gradient.addcmul_(p, gradient.sum(dim=1, keepdim=True), value=-1)
    if settings.confidence:
        # Straight from logits: a quotient by Σ p q, which can be 0 in float32, never arises.
        joint = log_p[0, :, :n_samples] + log_p[1, :, :n_samples]
        log_share = torch.log_softmax(joint, dim=0)
        loss = loss - (joint[0] - log_share[0]).mean()
        gradient[:, :, :n_samples].add_(own - log_share.exp_(), alpha=1 / n_samples)
    return loss, gradient


def _add_distillation(p: Tensor, gradient: Tensor, pairs: list[int], temperature: float) -> Tensor:
    """Return the sum of the distillation losses of some pairs; add their gradient to ``gradient``.

    Pair 0 holds images against neighbours of texts, pair 1 texts against neighbours of images.
    """
    n_clusters, n_samples = p.shape[1], p.shape[2] // 2
    sides = [[p[pair, :, :n_samples], p[1 - pair, :, n_samples:]] for pair in pairs]
    vectors = torch.stack([torch.cat(side) for side in sides])  # (pairs, 2K, B)
    lengths = torch.linalg.vector_norm(vectors, dim=2, keepdim=True).clamp_min_(SHORTEST)
    vectors.div_(lengths)
    similarities = torch.bmm(vectors, vectors.transpose(1, 2)).div_(temperature)
    positives = 2 * similarities.diagonal(n_clusters, 1, 2).sum()  # counted from a and from b
    similarities.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    peaks = similarities.amax(dim=2, keepdim=True)
    shares = similarities.sub_(peaks).exp_()
    totals = shares.sum(dim=2, keepdim=True)
    loss = (totals.log() + peaks).sum() - positives
    shares.div_(totals)
    for shift in (n_clusters, -n_clusters):
        shares.diagonal(shift, 1, 2).sub_(1)
    # Every similarity stands in the row of both its columns; then through the normalisation to unit length.
    moved = torch.bmm(shares + shares.transpose(1, 2), vectors)
    moved.addcmul_(vectors, (moved * vectors).sum(dim=2, keepdim=True), value=-1)
    moved.mul_(1 / (2 * n_clusters * temperature * lengths))
    for index, pair in enumerate(pairs):
        gradient[pair, :, :n_samples].add_(moved[index, :n_clusters])
        gradient[1 - pair, :, n_samples:].add_(moved[index, n_clusters:])
    return loss / (2 * n_clusters)


class DualWeights(NamedTuple):
    """What training learns, stacked: the image head first, the text head second."""

    weight1: Tensor  # (2, D, D)
    gain: Tensor  # (2, D)
    shift: Tensor  # (2, D)
    weight2: Tensor  # (2, K, D)
    bias2: Tensor  # (2, K)


class HeadPass:
    """One pass of a batch through one head, and back, in memory that is reused.

    Parameters
    ----------
    rows : Tensor (R, D)
        float32.
    weights : DualWeights
        Of one head, without the first axis.
    scratch : Scratch
        Where temporaries live.
    name : str
        Prefix of the temporaries that must survive from the forward to the backward pass.
    dtype : torch.dtype
        Of the products with D × D matrices.
    n_parts : int, default 1
        Into how many equal parts the rows are cut for batch normalisation, each with moments of its own.

    Attributes
    ----------
    moments : list of (Tensor (D,), Tensor (D,))
        Mean and variance of the first layer's outputs over every part of the batch.
    """

    moments: list[tuple[Tensor, Tensor]]

    def __init__(
        self,
        rows: Tensor,
        weights: DualWeights,
        scratch: Scratch,
        name: str,
        dtype: torch.dtype,
        n_parts: int = 1,
    ) -> None:
        self._weights, self._scratch, self._name, self._dtype = weights, scratch, name, dtype
        self._rows = self._cast("rows", rows, dtype)
        self._ones = rows.new_ones(len(rows))
        size = len(rows) // n_parts
        self._parts = [slice(start, start + size) for start in range(0, len(rows), size)]

    def forward(self, logits: Tensor) -> None:
        """Write the logits (K, R)."""
        weights = self._weights
        weight1 = self._cast("weight1", weights.weight1, self._dtype)
        hidden = self._take("hidden", self._dtype)
        hidden = self._cast("wide", torch.mm(self._rows, weight1.t(), out=hidden), torch.float32)
        squares = self._take_shared("other", torch.float32)
        self.moments, self._inverses = [], []
        for rows in self._parts:
            # Sums over rows as products with ones: several times faster than reductions over the first axis.
            part, ones = hidden[rows], self._ones[rows]
            mean = torch.mv(part.t(), ones).div_(len(part))
            part.sub_(mean)
            torch.mul(part, part, out=squares[rows])
            variance = torch.mv(squares[rows].t(), ones).div_(len(part))
            inverse = (variance + _NORM_EPSILON).rsqrt()
            part.mul_(inverse)
            self.moments.append((mean, variance))
            self._inverses.append(inverse)
        self._normal = hidden
        active = self._take("active", torch.float32)
        self._active = torch.addcmul(weights.shift, self._normal, weights.gain, out=active).relu_()
        torch.addmm(weights.bias2.unsqueeze(1), weights.weight2, self._active.t(), out=logits)

    def backward(self, gradient: Tensor, out: DualWeights) -> None:
        """Write the gradients of the weights, from that of the logits (K, R)."""
        weights = self._weights
        torch.mv(gradient, self._ones, out=out.bias2)
        torch.mm(gradient, self._active, out=out.weight2)
        d_active = torch.mm(gradient.t(), weights.weight2, out=self._take_shared("other", torch.float32))
        # ReLU's outputs tell where it let the gradient through; its inputs needn't be kept.
        torch.ops.aten.threshold_backward.grad_input(d_active, self._active, 0, grad_input=d_active)
        product = torch.mul(d_active, self._normal, out=self._active)
        for part, inverse in zip(self._parts, self._inverses, strict=True):
            self._add_part(part, inverse, d_active[part], product[part], out)

    def _add_part(
        self, rows: slice, inverse: Tensor, d_active: Tensor, product: Tensor, out: DualWeights
    ) -> None:
        """Add a part's share to the gradients of batch normalisation and of the first layer."""
        ones, n_rows, first = self._ones[rows], len(d_active), rows.start == 0
        d_shift, d_gain = torch.mv(d_active.t(), ones), torch.mv(product.t(), ones)
        # Through batch normalisation: the mean and the part along the normalised values drop out.
        d_hidden = d_active.addcmul_(self._normal[rows], d_gain, value=-1 / n_rows)
        d_hidden.sub_(d_shift, alpha=1 / n_rows)
        d_hidden = self._scratch.cast("d_hidden", d_hidden, self._dtype)
        product1 = self._scratch.take("d_weight1", tuple(out.weight1.shape), self._dtype)
        d_weight1 = torch.mm(d_hidden.t(), self._rows[rows], out=product1)
        scale = (self._weights.gain * inverse).unsqueeze(1)
        if first:
            out.shift.copy_(d_shift)
            out.gain.copy_(d_gain)
            torch.mul(d_weight1, scale, out=out.weight1)
        else:
            out.shift.add_(d_shift)
            out.gain.add_(d_gain)
            out.weight1.addcmul_(d_weight1, scale)

    def _take(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._take_shared(self._name + name, dtype)

    def _take_shared(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._scratch.take(name, (len(self._rows), len(self._weights.gain)), dtype)

    def _cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return self._scratch.cast(self._name + name, tensor, dtype)


class PlainHead(NamedTuple):
    """One head as it predicts: batch normalisation, by its averages, is folded into the first layer."""

    weight1: Tensor  # (D, D)
    bias1: Tensor  # (D,)
    weight2: Tensor  # (K, D)
    bias2: Tensor  # (K,)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, K) of rows of unit length (n, D); their softmax are probabilities."""
        hidden = functional.linear(x, self.weight1, self.bias1).relu_()
        return functional.linear(hidden, self.weight2, self.bias2)


@dataclass(frozen=True)
class DualTraining:
    """Result of a training.

    Attributes
    ----------
    image, text : PlainHead
        The two heads as they predict.
    history : ndarray (epochs,) float32
        Mean loss of every epoch.
    """

    image: PlainHead
    text: PlainHead
    history: NDArray[np.float32]


class DualHeads:
    """A learner for :class:`~kinfold.heads.Trainer`: two heads that teach each other.

    One head is Linear(D → D), batch normalisation, ReLU, Linear(D → K), softmax; both follow Adam at a
    constant rate. The first layer has no bias, since batch normalisation would subtract it again. Moments of
    a batch are those of its samples and their neighbours together, or of each apart. The running averages of
    the moments, which prediction uses, leave out the zeros that they started from, so that they are right
    after a single step.

    Parameters
    ----------
    n_features, n_clusters : int
        D and K.
    settings : DualSettings
        The loss.
    n_epochs : int
        Passes over the data.
    learning_rate : float
        Of Adam, with β = (0.9, 0.99).
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    device : torch.device
        Where to train.
    dtype : torch.dtype
        Of the products with D × D matrices; everything else is float32.
    separate_moments : bool, default False
        Normalise samples by their own moments and neighbours by theirs, as two passes through a head do, the
        samples first.
    initialization : {"uniform", "truncated_normal"}, default "uniform"
        Of the weights: PyTorch's default for linear layers, ±1/√D, biases too; or a normal distribution of
        deviation 0.02 truncated at two deviations, with biases 0.

    References
    ----------
    Li, Hu, Peng, Lv, Peng (2024), "Image Clustering with External Guidance" (TAC), sections 3.2 and 4.1.3.
    """

    title = "Training two heads"

    def __init__(
        self,
        n_features: int,
        n_clusters: int,
        settings: DualSettings,
        *,
        n_epochs: int,
        learning_rate: float,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
        separate_moments: bool = False,
        initialization: str = "uniform",
    ) -> None:
        self.workers = Workers()
        self.separate_moments, self.initialization = separate_moments, initialization
        self.settings, self.n_epochs, self.learning_rate = settings, n_epochs, learning_rate
        self.n_features, self.n_clusters = n_features, n_clusters
        self.dtype, self._device = dtype, device
        make = _uniform_weights if initialization == "uniform" else _normal_weights
        weights = make(n_features, n_clusters, generator)
        self.weights = DualWeights(*(weight.to(device) for weight in weights))
        self._first = DualWeights(*map(torch.zeros_like, self.weights))
        self._second = DualWeights(*map(torch.zeros_like, self.weights))
        self._gradients = DualWeights(*map(torch.empty_like, self.weights))
        self._mean = torch.zeros(2, n_features, device=device)
        self._variance = torch.zeros(2, n_features, device=device)
        # Weight of all batches in the averages, 1 − 0.9^updates: dividing by it leaves out the zeros at the
        # start.
        self._counted = torch.zeros((), device=device)
        self._whole = torch.ones((), device=device)
        # Views, made once: weights and gradients are written in place.
        self._sides, self._gradient_sides = (
            [DualWeights(*(weight[side] for weight in every)) for side in (0, 1)]
            for every in (self.weights, self._gradients)
        )
        self._scratch = Scratch(device)

    @torch.no_grad()
    def step(self, batch: tuple[Tensor, Tensor], batch_size: int, step: int, share_done: float) -> Tensor:
        """Make one update and return the loss (1,).

        Parameters
        ----------
        batch : pair of Tensor (2B, D)
            B images and a neighbour of each; the text counterparts of these images and a neighbour of each.
        batch_size : int
            B.
        step : int
            Updates made before.
        share_done : float
            Unused.
        """
        logits = self._scratch.take("logits", (2, self.n_clusters, 2 * batch_size), torch.float32)
        passes = []
        for side, rows in enumerate(batch):
            done = HeadPass(
                rows, self._sides[side], self._scratch, f"{side}.", self.dtype, 1 + self.separate_moments
            )
            done.forward(logits[side])
            for mean, variance in done.moments:
                self._mean[side].lerp_(mean, _NORM_MOMENTUM)
                self._variance[side].lerp_(variance, _NORM_MOMENTUM)
            passes.append(done)
        for _ in passes[0].moments:
            self._counted.lerp_(self._whole, _NORM_MOMENTUM)
        loss, gradient = dual_loss_gradient(logits, self.settings)
        for side, done in enumerate(passes):
            done.backward(gradient[side], self._gradient_sides[side])
        self._update(step)
        return loss.view(1)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that training changes, by name; they are updated in place."""
        parts = {"weights": self.weights, "first": self._first, "second": self._second}
        live = {
            f"{part}.{name}": value for part, all_ in parts.items() for name, value in all_._asdict().items()
        }
        return {**live, "mean": self._mean, "variance": self._variance, "counted": self._counted}

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint must agree with."""
        return {
            "settings": asdict(self.settings),
            "n_epochs": self.n_epochs,
            "learning_rate": self.learning_rate,
            "n_features": self.n_features,
            "n_clusters": self.n_clusters,
            "dtype": str(self.dtype),
            "separate_moments": self.separate_moments,
            "initialization": self.initialization,
        }

    def finish(self, history: Sequence[NDArray[np.float32]], stopped_early: bool) -> DualTraining:
        """Return what training leaves."""
        return DualTraining(self._plain(0), self._plain(1), np.concatenate(list(history)))

    def _update(self, step: int) -> None:
        adam(
            list(self.weights),
            list(self._gradients),
            list(self._first),
            list(self._second),
            [],
            # Filled on the device: a copy from the host would wait until the device has caught up.
            [torch.full((), step, dtype=torch.float32, device=self._device) for _ in self.weights],
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=_ADAM_EPSILON,
            maximize=False,
        )

    def _plain(self, side: int) -> PlainHead:
        weights = self._sides[side]
        mean, variance = self._mean[side] / self._counted, self._variance[side] / self._counted
        scale = weights.gain * (variance + _NORM_EPSILON).rsqrt()
        return PlainHead(
            weights.weight1 * scale.unsqueeze(1),
            weights.shift - mean * scale,
            weights.weight2.clone(),
            weights.bias2.clone(),
        )


def _uniform_weights(n_features: int, n_clusters: int, generator: torch.Generator) -> DualWeights:
    """Return uniform weights in ±1/√D, gains of 1 and shifts of 0."""

    def uniform(*shape: int) -> Tensor:
        bound = n_features**-0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)

    return DualWeights(
        uniform(2, n_features, n_features),
        torch.ones(2, n_features),
        torch.zeros(2, n_features),
        uniform(2, n_clusters, n_features),
        uniform(2, n_clusters),
    )


def _normal_weights(n_features: int, n_clusters: int, generator: torch.Generator) -> DualWeights:
    """Return weights from a truncated normal distribution of deviation 0.02, gains of 1, all else 0."""
    return DualWeights(
        truncated_normal((2, n_features, n_features), generator),
        torch.ones(2, n_features),
        torch.zeros(2, n_features),
        truncated_normal((2, n_clusters, n_features), generator),
        torch.zeros(2, n_clusters),
    )
