"""AdamW and the teacher's moving average, a tile of heads at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from kinfold.heads.network import HeadWeights, MultiHeadNetwork, select_heads

_DECAYED: tuple[str, ...] = ("weight1", "weight2", "direction", "gain")
_UNDECAYED: tuple[str, ...] = ("bias1", "bias2")
_LAST_LAYER = ("direction", "gain")


class Updater:
    """Moves a student along its gradients by AdamW, and its teacher after it.

    Gradients are needed for one tile of heads at a time, right after its backward pass: there are never
    gradients of all heads together.

    Parameters
    ----------
    student, teacher : MultiHeadNetwork
        Updated in place.
    momentum : float
        ``teacher ← momentum · teacher + (1 − momentum) · student``.
    weight_decay : float
        Decoupled, on matrices and gains, not on biases.

    References
    ----------
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization".
    """

    def __init__(
        self, student: MultiHeadNetwork, teacher: MultiHeadNetwork, *, momentum: float, weight_decay: float
    ) -> None:
        self._student, self._teacher = student, teacher
        self._momentum, self._weight_decay = momentum, weight_decay
        weights = [weight.detach() for weight in student.weights()]
        self._first = HeadWeights(*map(torch.zeros_like, weights))
        self._second = HeadWeights(*map(torch.zeros_like, weights))

    def state(self) -> dict[str, Tensor]:
        """Return the moments by name; they are updated in place."""
        first = {f"first.{name}": moment for name, moment in self._first._asdict().items()}
        return first | {f"second.{name}": moment for name, moment in self._second._asdict().items()}

    def update(
        self, heads: slice, gradients: HeadWeights, *, rate: float, step: int, frozen_steps: int
    ) -> None:
        """Move some heads: ``step`` counts from 0, and the last layer rests in the first ``frozen_steps``."""
        for group, decay in ((_DECAYED, self._weight_decay), (_UNDECAYED, 0.0)):
            names = [name for name in group if step >= frozen_steps or name not in _LAST_LAYER]
            made = [step - frozen_steps if name in _LAST_LAYER else step for name in names]
            self._move(names, made, heads, gradients, rate, decay)
        for follower, leader in zip(self._teacher.weights(heads), self._student.weights(heads), strict=True):
            follower.lerp_(leader, 1 - self._momentum)

    def _move(
        self,
        names: list[str],
        steps_made: list[int],
        heads: slice,
        gradients: HeadWeights,
        rate: float,
        decay: float,
    ) -> None:
        def of(weights: HeadWeights) -> list[Tensor]:
            return [getattr(weights, name) for name in names]

        device = gradients.weight1.device
        adamw(
            of(self._student.weights(heads)),
            of(gradients),
            of(select_heads(self._first, heads)),
            of(select_heads(self._second, heads)),
            [],
            # Filled on the device: a copy from the host could wait for it.
            [torch.full((), made, dtype=torch.float32, device=device) for made in steps_made],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=decay,
            eps=1e-8,
            maximize=False,
        )
