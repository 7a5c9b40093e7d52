"""TAC's two heads, one for images and one for their text counterparts, and how a step moves them."""

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
from kinfold.heads._dual_loss import dual_loss_gradient
from kinfold.heads._dual_pass import EPSILON, DualWeights, HeadPass
from kinfold.heads._tiles import Scratch
from kinfold.heads.distillation import DualSettings

_NORM_MOMENTUM = 0.1
BETAS = (0.9, 0.99)


class PlainHead(NamedTuple):
    """One head as it predicts: the averages of batch normalisation are part of its first layer."""

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
    """What training leaves.

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
    constant rate. The first layer has no bias, which batch normalisation would take away again. Moments of a
    batch are those of its samples and their neighbours together. The running averages of the moments, of
    which prediction is made, don't count the values that they started from, so that they are right after
    a few steps already.

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
        Source of the initial weights, on the CPU: PyTorch's default for linear layers.
    device : torch.device
        Where to train.
    dtype : torch.dtype
        Of the products with D × D matrices; everything else is float32.

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
    ) -> None:
        self.workers = Workers()
        self.settings, self.n_epochs, self.learning_rate = settings, n_epochs, learning_rate
        self.n_features, self.n_clusters = n_features, n_clusters
        self.dtype, self._device = dtype, device
        weights = _initial_weights(n_features, n_clusters, generator)
        self.weights = DualWeights(*(weight.to(device) for weight in weights))
        self._first = DualWeights(*map(torch.zeros_like, self.weights))
        self._second = DualWeights(*map(torch.zeros_like, self.weights))
        self._gradients = DualWeights(*map(torch.empty_like, self.weights))
        self._mean = torch.zeros(2, n_features, device=device)
        self._variance = torch.zeros(2, n_features, device=device)
        self._counted = torch.zeros((), device=device)  # the share of the averages that batches make
        self._whole = torch.ones((), device=device)
        # Views, made once: weights and gradients are written in place.
        self._sides = [_side(self.weights, side) for side in (0, 1)]
        self._gradient_sides = [_side(self._gradients, side) for side in (0, 1)]
        self._scratch = Scratch(device)

    @torch.no_grad()
    def step(self, batch: tuple[Tensor, Tensor], batch_size: int, step: int, progress: float) -> Tensor:
        """Make one update and return the loss (1,).

        Parameters
        ----------
        batch : pair of Tensor (2B, D)
            B images and a neighbour of each; the text counterparts of these images and a neighbour of each.
        batch_size : int
            B.
        step : int
            Updates made before.
        progress : float
            Unused.
        """
        logits = self._scratch.take("logits", (2, self.n_clusters, 2 * batch_size), torch.float32)
        passes = [self._forward(side, rows, logits[side]) for side, rows in enumerate(batch)]
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
        }

    def finish(self, history: Sequence[NDArray[np.float32]], stopped_early: bool) -> DualTraining:
        """Return what training leaves."""
        return DualTraining(self._plain(0), self._plain(1), np.concatenate(list(history)))

    def _forward(self, side: int, rows: Tensor, logits: Tensor) -> HeadPass:
        done = HeadPass(rows, self._sides[side], self._scratch, f"{side}.", self.dtype)
        done.forward(logits)
        self._mean[side].lerp_(done.mean, _NORM_MOMENTUM)
        self._variance[side].lerp_(done.variance, _NORM_MOMENTUM)
        return done

    def _update(self, step: int) -> None:
        adam(
            list(self.weights),
            list(self._gradients),
            list(self._first),
            list(self._second),
            [],
            # Filled on the device: a copy from the host could wait for it.
            [torch.full((), step, dtype=torch.float32, device=self._device) for _ in self.weights],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def _plain(self, side: int) -> PlainHead:
        weights = self._sides[side]
        mean, variance = self._mean[side] / self._counted, self._variance[side] / self._counted
        scale = weights.gain * (variance + EPSILON).rsqrt()
        return PlainHead(
            weights.weight1 * scale.unsqueeze(1),
            weights.shift - mean * scale,
            weights.weight2.clone(),
            weights.bias2.clone(),
        )


def _side(weights: DualWeights, side: int) -> DualWeights:
    return DualWeights(*(weight[side] for weight in weights))


def _initial_weights(n_features: int, n_clusters: int, generator: torch.Generator) -> DualWeights:
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
