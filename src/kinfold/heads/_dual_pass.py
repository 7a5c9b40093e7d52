"""One pass of a batch through one of TAC's heads, and back: hand-written, in memory that is used again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kinfold.heads._tiles import Scratch

EPSILON = 1e-5  # of the batch's variance


class DualWeights(NamedTuple):
    """What training learns, stacked: the image head first, the text head second."""

    weight1: Tensor  # (2, D, D)
    gain: Tensor  # (2, D)
    shift: Tensor  # (2, D)
    weight2: Tensor  # (2, K, D)
    bias2: Tensor  # (2, K)


class HeadPass:
    """One pass of a batch through one head, and back, in memory that is used again.

    Parameters
    ----------
    rows : Tensor (R, D)
        float32.
    weights : DualWeights
        Of one head, without the first axis.
    scratch : Scratch
        Where temporaries live.
    name : str
        What those begin with that live from the pass forward to the pass back.
    dtype : torch.dtype
        Of the products with D × D matrices.

    Attributes
    ----------
    mean, variance : Tensor (D,)
        Of the first layer's outputs over the batch.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, rows: Tensor, weights: DualWeights, scratch: Scratch, name: str, dtype: torch.dtype
    ) -> None:
        self._weights, self._scratch, self._name, self._dtype = weights, scratch, name, dtype
        self._rows = self._cast("rows", rows, dtype)
        self._ones = rows.new_ones(len(rows))

    def forward(self, logits: Tensor) -> None:
        """Write the logits (K, R)."""
        weights, n_rows = self._weights, len(self._rows)
        weight1 = self._cast("weight1", weights.weight1, self._dtype)
        hidden = self._take("hidden", self._dtype)
        hidden = self._cast("wide", torch.mm(self._rows, weight1.t(), out=hidden), torch.float32)
        # Sums over rows as products with ones: several times faster than reductions over the first axis.
        self.mean = torch.mv(hidden.t(), self._ones).div_(n_rows)
        hidden.sub_(self.mean)
        squares = torch.mul(hidden, hidden, out=self._take_shared("other", torch.float32))
        self.variance = torch.mv(squares.t(), self._ones).div_(n_rows)
        self._inverse = (self.variance + EPSILON).rsqrt()
        self._normal = hidden.mul_(self._inverse)
        active = self._take("active", torch.float32)
        self._active = torch.addcmul(weights.shift, self._normal, weights.gain, out=active).relu_()
        torch.addmm(weights.bias2.unsqueeze(1), weights.weight2, self._active.t(), out=logits)

    def backward(self, gradient: Tensor, out: DualWeights) -> None:
        """Write the gradients of the weights, from that of the logits (K, R)."""
        weights, n_rows = self._weights, len(self._rows)
        torch.mv(gradient, self._ones, out=out.bias2)
        torch.mm(gradient, self._active, out=out.weight2)
        d_active = torch.mm(gradient.t(), weights.weight2, out=self._take_shared("other", torch.float32))
        torch.ops.aten.threshold_backward.grad_input(d_active, self._active, 0, grad_input=d_active)
        torch.mv(d_active.t(), self._ones, out=out.shift)
        product = torch.mul(d_active, self._normal, out=self._active)
        torch.mv(product.t(), self._ones, out=out.gain)
        d_hidden = d_active.addcmul_(self._normal, out.gain, value=-1 / n_rows)
        d_hidden.sub_(out.shift, alpha=1 / n_rows)
        d_hidden = self._scratch.cast("d_hidden", d_hidden, self._dtype)
        if self._dtype is torch.float32:
            d_weight1 = torch.mm(d_hidden.t(), self._rows, out=out.weight1)
        else:
            d_weight1 = out.weight1.copy_(torch.mm(d_hidden.t(), self._rows))
        d_weight1.mul_((weights.gain * self._inverse).unsqueeze(1))

    def _take(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._take_shared(self._name + name, dtype)

    def _take_shared(self, name: str, dtype: torch.dtype) -> Tensor:
        return self._scratch.take(name, (len(self._rows), len(self._weights.gain)), dtype)

    def _cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return self._scratch.cast(self._name + name, tensor, dtype)
