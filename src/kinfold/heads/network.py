"""Many independent clustering heads on frozen features, computed together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN = 512
BOTTLENECK = 256
_TINY = 1e-24


class MultiHeadNetwork(nn.Module):
    """H independent heads, each a small network with K weight-normalised outputs.

    One head is Linear(D → 512), GELU, Linear(512 → 256), ℓ2-normalisation and a weight-normalised
    Linear(256 → K) without bias, whose gain per cluster is learned and starts at 1. The first layers
    of all heads share their input and are one matrix product; the later ones are batched products.

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

    References
    ----------
    TEMI, section "Implementation" (as restated in docs/methods.md): weights of the first two layers
    from a normal distribution of deviation 0.02 truncated at two deviations, biases 0; the direction
    of the last layer keeps PyTorch's default for linear layers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int, n_clusters: int, n_heads: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.n_features, self.n_clusters, self.n_heads = n_features, n_clusters, n_heads
        self.weight1 = nn.Parameter(_truncated_normal((n_heads * HIDDEN, n_features), generator))
        self.bias1 = nn.Parameter(torch.zeros(n_heads * HIDDEN))
        self.weight2 = nn.Parameter(_truncated_normal((n_heads, HIDDEN, BOTTLENECK), generator))
        self.bias2 = nn.Parameter(torch.zeros(n_heads, 1, BOTTLENECK))
        bound = 1 / math.sqrt(BOTTLENECK)
        direction = torch.empty(n_heads, n_clusters, BOTTLENECK)
        self.direction = nn.Parameter(direction.uniform_(-bound, bound, generator=generator))
        self.gain = nn.Parameter(torch.ones(n_heads, n_clusters, 1))
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def set_standardization(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardise inputs with a fixed mean and deviation (D,); constant columns are only centred."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, 1 / deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (H, B, K) of feature vectors (B, D)."""
        x = (x - self.mean) * self.scale
        hidden = functional.gelu(functional.linear(x, self.weight1, self.bias1))
        hidden = hidden.view(len(x), self.n_heads, HIDDEN).transpose(0, 1)
        code = torch.baddbmm(self.bias2, hidden, self.weight2)
        prototypes = self.gain * functional.normalize(self.direction, dim=2)
        # Dividing K logits by the code's length is cheaper than dividing its 256 entries.
        length = code.square().sum(dim=2, keepdim=True).clamp_min(_TINY).sqrt()
        return torch.bmm(code, prototypes.transpose(1, 2)) / length

    def last_layer(self) -> list[nn.Parameter]:
        """Return the parameters that stay frozen at the start of training."""
        return [self.direction, self.gain]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Return optimiser groups: decay for matrices and gains, none for biases."""
        return [
            {
                "params": [self.weight1, self.weight2, self.direction, self.gain],
                "weight_decay": weight_decay,
            },
            {"params": [self.bias1, self.bias2], "weight_decay": 0.0},
        ]

    def head_tensors(self, head: int) -> dict[str, Tensor]:
        """Return the state of one head as the state of a one-head network."""
        rows = slice(head * HIDDEN, (head + 1) * HIDDEN)
        one = slice(head, head + 1)
        return {
            "weight1": self.weight1.detach()[rows],
            "bias1": self.bias1.detach()[rows],
            "weight2": self.weight2.detach()[one],
            "bias2": self.bias2.detach()[one],
            "direction": self.direction.detach()[one],
            "gain": self.gain.detach()[one],
            "mean": self.mean,
            "scale": self.scale,
        }


def _truncated_normal(shape: tuple[int, ...], generator: torch.Generator, deviation: float = 0.02) -> Tensor:
    return nn.init.trunc_normal_(
        torch.empty(shape), std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator
    )
