"""What an encoder needs of a text model: how to cut texts into tokens, and how to read its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class TextTower:
    """A text model and how to use it.

    Parameters
    ----------
    model : nn.Module
        The model.
    tokenize : callable
        Texts → lists of token ids, special tokens in, cut to what the model takes.
    read : callable
        Token ids (B, T) and numbers of tokens (B,) → raw features (B, dim).
    dim : int
        Dimension of the features.
    pad_id : int
        What rows are filled up with, on the right.
    length : int or None
        Length that every row is padded to; None pads to the longest of the batch, which must not change
        the features.
    logit_scale, logit_bias : float or None
        Learned with the model; None where it has none or its weights don't say.
    identity : dict
        Besides the weights, what the features depend on; JSON.
    unread : frozenset of str
        Names of weights that no feature depends on.
    """

    model: nn.Module
    tokenize: Callable[[list[str]], list[list[int]]]
    read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    dim: int
    pad_id: int
    length: int | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
