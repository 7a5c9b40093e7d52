"""Candidates found by rough similarities: which to measure again, and what their rows keep then."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kinfold.compute import sampled_products
from kinfold.neighbors._packed import EMPTY, numbers_of, pack, values_of
from kinfold.neighbors._rule import Rule

_GATHERED_BYTES = 1 << 27


@dataclass(frozen=True)
class Source:
    """Rows of unit length, float32, from number ``start`` of all."""

    start: int
    unit: torch.Tensor


@dataclass(frozen=True)
class Ranking:
    """What rows keep after their candidates were measured.

    Attributes
    ----------
    best : int64 Tensor (rows, width)
        Packed neighbours, best first.
    degrees : int64 Tensor (rows,)
        How many of them a row keeps.
    proven : bool Tensor (rows,)
        Whether nothing that was dropped could be among them.
    """

    best: torch.Tensor
    degrees: torch.Tensor
    proven: torch.Tensor

    @classmethod
    def of(cls, packed: torch.Tensor, limits: torch.Tensor, rule: Rule) -> Ranking:
        """Rank measured candidates (rows, width); nothing that was dropped is above the limits (rows,)."""
        best = packed.topk(min(packed.shape[1], rule.at_most), dim=1).values
        values = values_of(best)
        if rule.threshold is None:
            degrees = torch.full((len(best),), rule.at_least, device=best.device)
            needed = values[:, rule.at_least - 1]
        else:
            reached = (values >= rule.threshold).sum(dim=1)
            degrees = reached.clamp(rule.at_least, rule.at_most)
            last = values.gather(1, degrees[:, None] - 1)[:, 0]
            open_end = (degrees < rule.at_most) & (last >= rule.threshold)
            needed = torch.where(open_end, rule.threshold, last)
        return cls(best, degrees, limits < needed)


def shortlist(packed: torch.Tensor, errors: torch.Tensor, rule: Rule) -> None:
    """Empty the places of candidates that can't be kept, whatever their true similarity is.

    Parameters
    ----------
    packed : int64 Tensor (rows, width)
        Candidates by rough similarity, best first; changed in place.
    errors : Tensor (rows,)
        How far a rough similarity of the row can be from the true one.
    rule : Rule
        What is kept. ``at_least`` candidates have true similarities of at least the rough one at that place
        less an error, so what lies more than two errors below that place can't be among the best.
    """
    values = values_of(packed)
    lowest = values[:, rule.at_least - 1] - 2 * errors
    if rule.threshold is not None:
        lowest = torch.minimum(lowest, rule.threshold - errors)
        if rule.at_most <= packed.shape[1]:
            lowest = torch.maximum(lowest, values[:, rule.at_most - 1] - 2 * errors)
    packed.masked_fill_(values < lowest[:, None], EMPTY)


def measure(packed: torch.Tensor, unit: torch.Tensor, source: Source) -> None:
    """Put true similarities in the place of the rough ones, for all candidates that are of ``source``.

    Parameters
    ----------
    packed : int64 Tensor (rows, width)
        Candidates, changed in place.
    unit : Tensor (rows, dim)
        The rows themselves.
    source : Source
        Where the candidates' rows are.
    """
    numbers = numbers_of(packed) - source.start
    inside = (packed != EMPTY) & (numbers >= 0) & (numbers < len(source.unit))
    rows, slots = inside.nonzero(as_tuple=True)
    keys = numbers[rows, slots]
    if packed.device.type == "cpu":
        values = _products_on_cpu(unit, source.unit, inside.sum(dim=1), keys)
    else:
        values = _gathered_products(unit, source.unit, rows, keys)
    packed[rows, slots] = pack(values, keys + source.start)


def _products_on_cpu(
    unit: torch.Tensor, others: torch.Tensor, counts: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor:
    """Return unit[row] · others[key] for ``counts`` keys of each row, without copying any row."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=starts[1:])
    return sampled_products(unit, others, starts, keys)


def _gathered_products(
    unit: torch.Tensor, others: torch.Tensor, rows: torch.Tensor, keys: torch.Tensor
) -> torch.Tensor:
    """Return unit[row] · others[key] for every pair."""
    values = torch.empty(len(rows), device=unit.device)
    step = max(1, _GATHERED_BYTES // (8 * unit.shape[1]))
    for start in range(0, len(rows), step):
        part = unit[rows[start : start + step]].mul_(others[keys[start : start + step]])
        torch.sum(part, dim=1, out=values[start : start + step])
    return values
