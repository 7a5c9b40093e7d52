"""Many independent clustering heads on frozen features, computed together."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 512  # width of the first layer, as in TEMI
BOTTLENECK = 256  # width of the second, whose outputs are the code that clusters are compared with

# Least length that a vector is divided by, and its square: a vector of zeros then stays one instead of NaN.
SHORTEST = 1e-12
_SHORTEST_SQUARED = 1e-24

# PyTorch's defaults for batch normalisation; ICCE names none.
_NORM_MOMENTUM = 0.1
_NORM_EPSILON = 1e-5

# Features whose deviation is within 2^±20 of 1 are squared as they are, far from the ends of float32 at
# 2^±126. Others are scaled by a power of two, which rounds nothing, of at most 2^±100, which is itself a
# float32 number.
_FREE_SHIFT, _MOST_SHIFT = 20, 100


class HeadWeights(NamedTuple):
    """The weights of some heads, h of them, as :func:`head_logits` takes them."""

    weight1: Tensor  # (h · 512, D)
    bias1: Tensor  # (h · 512)
    weight2: Tensor  # (h, 512, 256)
    bias2: Tensor  # (h, 1, 256)
    direction: Tensor  # (h, K, 256)
    gain: Tensor  # (h, K, 1)


def select_heads(weights: HeadWeights, heads: slice) -> HeadWeights:
    """Return views of the weights of some heads, a slice without steps."""
    first, last, _ = heads.indices(len(weights.weight2))
    rows = slice(first * HIDDEN, last * HIDDEN)
    return HeadWeights(weights.weight1[rows], weights.bias1[rows], *(part[heads] for part in weights[2:]))


def head_logits(x: Tensor, weights: HeadWeights) -> Tensor:
    """Return the logits (h, B, K) of normalised inputs (B, D) under some heads.

    The first layers of all heads share their input and are one matrix product; the later ones are
    batched products.
    """
    n_heads = len(weights.weight2)
    hidden = functional.gelu(functional.linear(x, weights.weight1, weights.bias1))
    hidden = hidden.view(len(x), n_heads, HIDDEN).transpose(0, 1)
    code = torch.baddbmm(weights.bias2, hidden, weights.weight2)
    prototypes = weights.gain * functional.normalize(weights.direction, dim=2)
    # Dividing K logits by the code's length is cheaper than dividing its 256 entries.
    length = code.square().sum(dim=2, keepdim=True).clamp_min(_SHORTEST_SQUARED).sqrt()
    return torch.bmm(code, prototypes.transpose(1, 2)) / length


class InputNorm(nn.Module):
    """Normalisation of the features before all heads: (x − mean) · scale.

    By default it standardises with the mean and the deviation of the training set. As batch normalisation
    it uses those of each batch in training, and their running averages in prediction. It has no learned
    scale and shift, since the first layer of every head can learn both.

    Parameters
    ----------
    n_features : int
        D.
    batch_norm : bool
        Normalise by the batch in training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.batch_norm = batch_norm
        self.epsilon, self.unit = _NORM_EPSILON, 1.0
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation (D,) to those of the training set; constant columns are only centred."""
        self.mean.copy_(mean)
        spread = float(deviation.double().square().mean().sqrt()) or 1.0
        # Squares of very large or small features leave float32: they are measured in a power of two instead.
        exponent = max(-_MOST_SHIFT, min(_MOST_SHIFT, -round(math.log2(spread))))
        self.unit = 1.0 if abs(exponent) < _FREE_SHIFT else 2.0**exponent
        # Relative to the features' own variance, so that features of any scale are treated alike.
        self.epsilon = _NORM_EPSILON * (spread * self.unit) ** 2
        self.scale.copy_(torch.where(deviation > 0, 1 / deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised inputs, as in prediction."""
        return (x - self.mean) * self.scale

    def normalize_batch(self, x: Tensor, n_counted: int, out: Tensor | None = None) -> Tensor:
        """Return normalised inputs, as in training, by the moments of the first ``n_counted`` rows."""
        if not self.batch_norm:
            return torch.sub(x, self.mean, out=out).mul_(self.scale)
        if self.unit != 1:
            x = torch.mul(x, self.unit, out=out)
        variance, mean = torch.var_mean(x[:n_counted], dim=0, correction=0)
        # The running variance is read back off the scale, so that one buffer holds it in training and
        # prediction.
        running = ((self.unit / self.scale).square() - self.epsilon).clamp_min(0)
        running.lerp_(variance, _NORM_MOMENTUM)
        self.mean.lerp_(mean / self.unit, _NORM_MOMENTUM)
        self.scale.copy_((running + self.epsilon).rsqrt() * self.unit)
        return torch.sub(x, mean, out=out).mul_((variance + self.epsilon).rsqrt())


def count_head_weights(n_features: int, n_clusters: int) -> int:
    """Return the number of entries in the matrices of one head, the multiplications for one sample."""
    return n_features * HIDDEN + HIDDEN * BOTTLENECK + BOTTLENECK * n_clusters


class MultiHeadNetwork(nn.Module):
    """H independent heads, each a small network with K weight-normalised outputs.

    One head is Linear(D → 512), GELU, Linear(512 → 256), ℓ2-normalisation and a weight-normalised
    Linear(256 → K) without bias, whose gain per cluster is learned and starts at 1.

    Parameters
    ----------
    n_features : int
        D, the length of a feature vector.
    n_clusters : int
        K.
    n_heads : int
        H.
    generator : torch.Generator
        Source of the initial weights, on the CPU.
    batch_norm : bool, default False
        Normalise inputs by the batch in training; else by a fixed mean and deviation.

    References
    ----------
    TEMI, section "Implementation" (as restated in docs/methods.md): weights of the first two layers
    from a normal distribution of deviation 0.02 truncated at two deviations, biases 0; the direction
    of the last layer keeps PyTorch's default for linear layers. Batch normalisation: ICCE, section 3.1.
    """

    def __init__(
        self,
        n_features: int,
        n_clusters: int,
        n_heads: int,
        *,
        generator: torch.Generator,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.n_features, self.n_clusters, self.n_heads = n_features, n_clusters, n_heads
        self.norm = InputNorm(n_features, batch_norm=batch_norm)
        self.weight1 = nn.Parameter(truncated_normal((n_heads * HIDDEN, n_features), generator))
        self.bias1 = nn.Parameter(torch.zeros(n_heads * HIDDEN))
        self.weight2 = nn.Parameter(truncated_normal((n_heads, HIDDEN, BOTTLENECK), generator))
        self.bias2 = nn.Parameter(torch.zeros(n_heads, 1, BOTTLENECK))
        bound = 1 / math.sqrt(BOTTLENECK)
        direction = torch.empty(n_heads, n_clusters, BOTTLENECK)
        self.direction = nn.Parameter(direction.uniform_(-bound, bound, generator=generator))
        self.gain = nn.Parameter(torch.ones(n_heads, n_clusters, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (H, B, K) of feature vectors (B, D)."""
        return head_logits(self.norm(x), self.weights())

    def weights(self, heads: slice = slice(None)) -> HeadWeights:
        """Return views of the weights of some heads."""
        return select_heads(HeadWeights(*(getattr(self, name) for name in HeadWeights._fields)), heads)

    def part(self, heads: slice) -> MultiHeadNetwork:
        """Return a copy with some of the heads."""
        # deepcopy gets the chosen weights, so that it never copies those of the other heads.
        tensors = {name: value.detach().clone() for name, value in self.weights(heads)._asdict().items()}
        part = copy.deepcopy(self, {id(getattr(self, name)): nn.Parameter(t) for name, t in tensors.items()})
        part.n_heads = len(part.weight2)
        return part

    def head_tensors(self, head: int) -> dict[str, Tensor]:
        """Return the state of one head as the state of a one-head network."""
        weights = self.weights(slice(head, head + 1))
        tensors = {name: value.detach() for name, value in weights._asdict().items()}
        return {**tensors, "norm.mean": self.norm.mean, "norm.scale": self.norm.scale}


def truncated_normal(shape: tuple[int, ...], generator: torch.Generator, deviation: float = 0.02) -> Tensor:
    """Return draws from a normal distribution around 0 that is cut off at two deviations."""
    return nn.init.trunc_normal_(
        torch.empty(shape), std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator
    )
