"""Forward and backward pass through a tile of heads, written by hand, in memory that is reused.

Temporaries of a step live in a :class:`Scratch`: after the first step only the loss allocates memory, and a
tile's temporaries stay in the processor's cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kinfold.heads.network import BOTTLENECK, HIDDEN, SHORTEST, HeadWeights

# Size of a tile's largest temporary, an activation. 16 MiB are four heads of 2,048 rows, with which a step
# comes within a few per cent of all heads at once (docs/performance.md) in a quarter of the memory.
_CPU_TILE_BYTES = 16 << 20

# A GPU is busy only with large products; 1 GiB of some ten temporaries still fits on small ones.
_GPU_TILE_BYTES = 1 << 30


def tile_heads(
    n_heads: int, n_rows: int, n_clusters: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[slice]:
    """Return the tiles in which a step goes over the heads: a function of shapes, device and dtype alone.

    One head's largest temporary has max(512, K) columns of ``n_rows``. On a CPU a tile's should stay in
    the cache; on a GPU larger tiles occupy the device. A tile has at least one head.

    In bfloat16 on a CPU a tile is one head. The order in which a product is summed may depend on its shape,
    and rounding the sum to 8 bits enlarges a difference in the last bit 65,536 times: the clusters that
    several processes find, which have fewer heads each, would not be those of one.
    """
    if device.type == "cpu" and dtype == torch.bfloat16:
        return [slice(head, head + 1) for head in range(n_heads)]
    budget = _CPU_TILE_BYTES if device.type == "cpu" else _GPU_TILE_BYTES
    size = max(1, budget // (4 * n_rows * max(HIDDEN, n_clusters)))
    n_tiles = math.ceil(n_heads / size)
    # Equal tiles: a small rest at the end would be a slow product of its own.
    return [slice(i * n_heads // n_tiles, (i + 1) * n_heads // n_tiles) for i in range(n_tiles)]


class Scratch:
    """Named memory on one device that grows to its largest use and is reused from then on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._flat: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor; it shares its memory with all others of this name and dtype."""
        size = math.prod(shape)
        flat = self._flat.get((name, dtype))
        if flat is None or len(flat) < size:
            flat = self._flat[name, dtype] = torch.empty(size, dtype=dtype, device=self._device)
        return flat[:size].view(shape)

    def cast(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the tensor itself where it has the dtype, else a rounded copy."""
        if tensor.dtype is dtype:
            return tensor
        return self.take(name, tuple(tensor.shape), dtype).copy_(tensor)


class TilePass:
    """One pass of inputs through a tile of heads, and back.

    Equal to :func:`~kinfold.heads.network.head_logits` and its gradient.

    Parameters
    ----------
    inputs : Tensor (R, D)
        Normalised inputs, in the dtype of the matrix products.
    weights : HeadWeights
        float32 weights of the h heads of the tile.
    scratch : Scratch
        Where temporaries live: one pass at a time.
    """

    def __init__(self, inputs: Tensor, weights: HeadWeights, scratch: Scratch) -> None:
        self._inputs, self._weights, self._scratch = inputs, weights, scratch
        self._dtype = inputs.dtype
        self._n_rows, self._n_heads = len(inputs), len(weights.weight2)

    def teach(self) -> Tensor:
        """Return logits (h, R, K), float32, without keeping what :meth:`backward` needs."""
        # GELU in place: one activation less in the cache.
        hidden = self._first_layer()
        return self._last_layers(torch.ops.aten.gelu.out(hidden, out=hidden))

    def forward(self) -> Tensor:
        """Return logits (h, R, K), float32, and keep what :meth:`backward` needs."""
        self._hidden = self._first_layer()
        self._active = self._take("active", tuple(self._hidden.shape))
        torch.ops.aten.gelu.out(self._hidden, out=self._active)
        return self._last_layers(self._active)

    def backward(self, gradient: Tensor, *, frozen: bool) -> HeadWeights:
        """Return float32 gradients of the weights, from that of the logits (h, R, K).

        Where the last layer is ``frozen``, the gradients of ``direction`` and ``gain`` aren't computed: what
        stands in their place is not to be used.
        """
        weights, d_logits = self._weights, self._cast("gradient", gradient)
        d_direction, d_gain = weights.direction, weights.gain
        if not frozen:
            d_direction, d_gain = self._backward_prototypes(d_logits)
        d_code = torch.bmm(d_logits, self._prototypes, out=self._take("d_code", tuple(self._unit.shape)))
        # Through the normalisation: the part along the code drops out, the rest is divided by its length.
        radial = (d_code * self._unit).sum(dim=2, keepdim=True)
        d_code.addcmul_(self._unit, radial, value=-1).div_(self._length)
        active = self._by_head(self._active)
        d_weight2 = torch.bmm(
            active.transpose(1, 2), d_code, out=self._take("d_weight2", tuple(weights.weight2.shape))
        )
        d_active = torch.bmm(
            d_code, self._weight2.transpose(1, 2), out=self._take("d_active", tuple(active.shape))
        )
        # The gradient overwrites the inputs of GELU, which nothing needs any more.
        hidden = self._by_head(self._hidden)
        torch.ops.aten.gelu_backward.grad_input(d_active, hidden, grad_input=hidden)
        d_weight1 = torch.mm(
            self._hidden.t(), self._inputs, out=self._take("d_weight1", tuple(weights.weight1.shape))
        )
        return HeadWeights(
            self._full("d_weight1", d_weight1),
            # Sums over rows in float32 whatever the products are in: bfloat16 would lose most of the addends.
            self._hidden.sum(dim=0, dtype=torch.float32),
            self._full("d_weight2", d_weight2),
            d_code.sum(dim=1, keepdim=True, dtype=torch.float32),
            d_direction,
            d_gain,
        )

    def _first_layer(self) -> Tensor:
        weight, bias = self._cast("weight1", self._weights.weight1), self._cast("bias1", self._weights.bias1)
        hidden = self._take("hidden", (self._n_rows, len(bias)))
        return torch.addmm(bias, self._inputs, weight.t(), out=hidden)

    def _last_layers(self, active: Tensor) -> Tensor:
        weights = self._weights
        self._weight2 = self._cast("weight2", weights.weight2)
        code = self._take("code", (self._n_heads, self._n_rows, BOTTLENECK))
        torch.baddbmm(self._cast("bias2", weights.bias2), self._by_head(active), self._weight2, out=code)
        self._length = _length(code)
        self._unit = code.div_(self._length)
        self._direction_length = _length(weights.direction)
        prototypes = self._scratch.take("prototypes", tuple(weights.direction.shape), torch.float32)
        torch.mul(weights.direction, weights.gain / self._direction_length, out=prototypes)
        self._prototypes = self._cast("prototypes", prototypes)
        logits = self._take("logits", (self._n_heads, self._n_rows, weights.direction.shape[1]))
        torch.bmm(self._unit, self._prototypes.transpose(1, 2), out=logits)
        return self._full("logits", logits)

    def _backward_prototypes(self, d_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of direction and gain: of gain · direction / |direction|."""
        weights = self._weights
        shape = tuple(weights.direction.shape)
        d_prototypes = torch.bmm(d_logits.transpose(1, 2), self._unit, out=self._take("d_direction", shape))
        d_prototypes = self._full("d_direction", d_prototypes)
        unit = torch.div(
            weights.direction,
            self._direction_length,
            out=self._scratch.take("unit_direction", shape, torch.float32),
        )
        d_gain = self._scratch.take("product", shape, torch.float32)
        d_gain = torch.mul(d_prototypes, unit, out=d_gain).sum(dim=2, keepdim=True)
        d_direction = d_prototypes.addcmul_(unit, d_gain, value=-1)
        return d_direction.mul_(weights.gain / self._direction_length), d_gain

    def _by_head(self, hidden: Tensor) -> Tensor:
        """Return a view (h, R, 512) of (R, h · 512)."""
        return hidden.view(self._n_rows, self._n_heads, HIDDEN).transpose(0, 1)

    def _take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._scratch.take(name, shape, self._dtype)

    def _cast(self, name: str, tensor: Tensor) -> Tensor:
        return self._scratch.cast(name, tensor, self._dtype)

    def _full(self, name: str, tensor: Tensor) -> Tensor:
        return self._scratch.cast(name, tensor, torch.float32)


def _length(vectors: Tensor) -> Tensor:
    """Return the lengths of vectors along the last axis, float32, never 0."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=torch.float32)
    return lengths.clamp_min_(SHORTEST)
