"""The two players of TURTLE: an encoder that proposes labels, and classifiers that try to learn them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

_TINY = 1e-30


def labeling_loss(log_classified: Sequence[Tensor], proposed: Sequence[Tensor], gamma: float) -> Tensor:
    """Return what the task encoder minimises.

    ``Σ_s −mean_b Σ_k τ(k|b) log p_s(k|b) − γ Σ_s H(mean_b l_s(·|b))`` with ``τ = mean_s l_s``: labels should
    be learnable in every space, and all of them in use.

    Parameters
    ----------
    log_classified : sequence of Tensor (B, K)
        log p_s of the inner classifier of every space; no gradient passes here.
    proposed : sequence of Tensor (B, K)
        l_s, the labels that every space proposes: rows sum to 1.
    gamma : float
        Weight of the entropy.

    Returns
    -------
    Tensor
        A scalar.

    References
    ----------
    Gadetsky et al., "Let Go of Your Labels with Unsupervised Transfer" (ICML 2024).
    """
    labels = torch.stack(list(proposed)).mean(dim=0)
    loss = labels.new_zeros(())
    for log_p, part in zip(log_classified, proposed, strict=True):
        used = part.mean(dim=0)
        error = -(labels * log_p.detach()).sum(dim=1).mean()
        entropy = -(used * used.clamp_min(_TINY).log()).sum()  # its slope stays finite where a label dies out
        loss = loss + error - gamma * entropy
    return loss


def classifier_gradient(rows: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the mean cross-entropy of softmax(rows · weightᵀ + bias) towards soft labels.

    Parameters
    ----------
    rows : Tensor (B, D)
        In the precision of matrix products.
    weight, bias : Tensor (K, D), (K,)
        Of the classifier, float32.
    labels : Tensor (B, K)
        Rows sum to 1.

    Returns
    -------
    tuple of Tensor (K, D), (K,)
        Both float32.
    """
    pull = torch.softmax(product(rows, weight) + bias, dim=1).sub_(labels).div_(len(rows))
    return (pull.to(rows.dtype).T @ rows).float(), pull.sum(dim=0)


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Return ``rows · weightᵀ`` in the precision of the rows, as float32."""
    return linear(rows, weight.to(rows.dtype)).float()


def split_columns(rows: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Return the columns (B, width) of every space, as views."""
    starts = [sum(widths[:space]) for space in range(len(widths))]
    return [rows.narrow(1, start, width) for start, width in zip(starts, widths, strict=True)]


class TaskEncoder:
    """Soft labels: the mean over spaces of softmax(weight-normalised linear with bias).

    Parameters
    ----------
    widths : sequence of int
        Columns of every space.
    n_clusters : int
        K.
    generator : torch.Generator
        Of the initial values: PyTorch's for linear layers.
    device : torch.device
        Where it lives; also an attribute.
    """

    def __init__(
        self, widths: Sequence[int], n_clusters: int, generator: torch.Generator, device: torch.device
    ) -> None:
        self.widths, self.device = tuple(widths), device
        self.directions, self.gains, self.biases = [], [], []
        for width in self.widths:
            weight, bias = _linear_layer(width, n_clusters, generator)
            self.gains.append(weight.norm(dim=1, keepdim=True).to(device).requires_grad_())
            self.directions.append(weight.to(device).requires_grad_())
            self.biases.append(bias.to(device).requires_grad_())

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        kinds = {"direction": self.directions, "gain": self.gains, "bias": self.biases}
        return {
            f"{kind}{space}": value for kind, values in kinds.items() for space, value in enumerate(values)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite the parameters, in place."""
        with torch.no_grad():
            for name, value in self.tensors().items():
                value.copy_(tensors[name])

    def __call__(self, rows: Tensor) -> list[Tensor]:
        """Return the labels (B, K) that every space proposes for rows (B, D), float32."""
        proposed = []
        for space, part in enumerate(split_columns(rows, self.widths)):
            direction = self.directions[space]
            weight = self.gains[space] * direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-12)
            proposed.append(torch.softmax(product(part, weight) + self.biases[space], dim=1))
        return proposed


class InnerClassifiers:
    """One linear classifier per space, which learns soft labels by Adam with gradients in closed form.

    Parameters
    ----------
    widths : sequence of int
        Columns of every space.
    n_clusters : int
        K.
    learning_rate : float
        Of Adam.
    device : torch.device
        Where they live.
    """

    def __init__(
        self, widths: Sequence[int], n_clusters: int, learning_rate: float, device: torch.device
    ) -> None:
        self.widths, self._n_clusters = tuple(widths), n_clusters
        self.weights = [torch.zeros(n_clusters, width, device=device) for width in self.widths]
        self.biases = [torch.zeros(n_clusters, device=device) for _ in self.widths]
        self.optimizer = torch.optim.Adam([*self.weights, *self.biases], lr=learning_rate, fused=True)
        self._moments = list(adam_state(self.optimizer, "").values())

    def restart(self, generator: torch.Generator) -> None:
        """Draw the classifiers afresh, and forget the moments."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            for live, drawn in zip(
                (weight, bias), _linear_layer(weight.shape[1], len(bias), generator), strict=True
            ):
                live.copy_(drawn)
        torch._foreach_zero_(self._moments)

    def learn(self, spaces: Sequence[Tensor], labels: Tensor, n_steps: int) -> None:
        """Make ``n_steps`` steps towards labels (B, K) on the rows of every space (B, width)."""
        for _ in range(n_steps):
            for rows, weight, bias in zip(spaces, self.weights, self.biases, strict=True):
                weight.grad, bias.grad = classifier_gradient(rows, weight, bias, labels)
            self.optimizer.step()

    def log_probabilities(self, spaces: Sequence[Tensor]) -> list[Tensor]:
        """Return the log-probabilities (B, K) in every space, float32."""
        return [
            torch.log_softmax(product(rows, weight) + bias, dim=1)
            for rows, weight, bias in zip(spaces, self.weights, self.biases, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return the classifiers by name."""
        kinds = {"weight": self.weights, "bias": self.biases}
        return {
            f"{kind}{space}": value for kind, values in kinds.items() for space, value in enumerate(values)
        }


def adam_state(optimizer: torch.optim.Adam, prefix: str) -> dict[str, Tensor]:
    """Return the tensors that Adam keeps, by name, made now where it has none yet."""
    live: dict[str, Tensor] = {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        moments = optimizer.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        live |= {f"{prefix}{index}.{name}": value for name, value in moments.items()}
    return live


def _linear_layer(width: int, n_clusters: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return weight (K, width) and bias (K,) drawn as PyTorch draws a linear layer's."""
    bound = 1 / math.sqrt(width)
    weight, bias = torch.empty(n_clusters, width), torch.empty(n_clusters)
    return weight.uniform_(-bound, bound, generator=generator), bias.uniform_(
        -bound, bound, generator=generator
    )
