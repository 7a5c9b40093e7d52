"""A neighbour as one int64 whose order is the order of neighbours."""

from __future__ import annotations

import torch

EMPTY = torch.iinfo(torch.int64).min
"""Marks a place without a neighbour; below every neighbour."""

_LAST = 0x7FFFFFFF


def pack(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return int64s of float32 similarities, at most 1, and of row numbers.

    The similarity's bits stand in the upper half, the reversed row number in the lower: so ties go to the
    lower row number, and the outcome does not depend on how a sort treats equals.
    """
    # Adding zero turns −0 into 0; rounding may push a similarity over 1.
    bits = (values.clamp(max=1.0) + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _LAST)
    return (ordered.to(torch.int64) << 32) | (_LAST - numbers)


def values_of(packed: torch.Tensor) -> torch.Tensor:
    """Return the float32 similarities of packed neighbours, −inf where there is none."""
    ordered = (packed >> 32).to(torch.int32)
    values = (ordered ^ ((ordered >> 31) & _LAST)).view(torch.float32)
    return torch.where(packed == EMPTY, -torch.inf, values)


def numbers_of(packed: torch.Tensor) -> torch.Tensor:
    """Return the int64 row numbers of packed neighbours; meaningless where there is none."""
    return _LAST - (packed & _LAST)
