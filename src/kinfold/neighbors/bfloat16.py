"""Exact neighbours by products in bfloat16, measured again in float32, with a proof for every row.

The proof is a bound on how far a product of rounded rows can be from the similarity of the rows themselves.
For rows x, y of unit length, x̂, ŷ their roundings, and Δx = x − x̂:

    x·y − x̂·ŷ = x·Δy + Δx·ŷ   so that, by Cauchy and Schwarz,   |x·y − x̂·ŷ| ≤ ‖x‖ ‖Δy‖ + ‖Δx‖ ‖ŷ‖.

‖Δx‖ is computed for every row. To this come the errors of summing up D products in float32 on both
sides, at most D roundings of a partial sum each, and the rounding of the result where it leaves in bfloat16.
Every term is taken at its worst, so the bound holds for any order of summation and for units that truncate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kinfold.compute import sampled_products
from kinfold.neighbors._candidates import (
    EMPTY,
    Csr,
    CsrParts,
    Reservoir,
    Rule,
    TopReservoir,
    numbers_of,
    pack,
    replace_rows,
    values_of,
)
from kinfold.neighbors._products import TilePlan, is_output_rounded, make_plan
from kinfold.neighbors.exact import Keys, exact_neighbors, neighbors_of, search_panel
from kinfold.progress import Progress, ProgressTask
from kinfold.rows.readers import UnitRows

logger = logging.getLogger(__name__)


WORST_DISTANCE = 1.01 * 2.0**-8
"""More than ‖Δx‖ of any row of unit length: bfloat16 has 8 significant bits, so that rounding changes an
element by at most 2⁻⁸ of itself."""

# Errors of a sum of D products, divided by D. Sums of bfloat16 products on tensor cores are truncated, and
# align a few products at a time; sums of float32 products are rounded to nearest, with 1 % for the second
# order.
_SUM_BFLOAT16 = 2.0**-22
_SUM_FLOAT32 = 1.01 * 2.0**-24
# Size of a block of rows whose distances are computed at once: on the CPU it stays in a core's cache, since
# memory is the limit; on a GPU it is large enough to keep all units busy.
_BLOCK_BYTES = {"cpu": 1 << 19, "cuda": 1 << 26}
_OUTPUT = 2.0**-9  # error of rounding a product to bfloat16: half the spacing of its numbers just below 1
_GATHERED_BYTES = 1 << 27  # of pairs of rows that are copied for their products on a GPU
# Candidates that are kept beyond one and a half times the neighbours wanted. The more candidates, the lower
# is the similarity of the best pair that was dropped, and the more rows are proven; each candidate costs 8
# bytes and a product.
_MARGIN = 64
_HOPELESS = 0.5  # above this share of unproven rows the symmetric float32 search is the quicker one


def round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows (n, D) of unit length in bfloat16, and the distance (n,) of each from its rounding."""
    rounded = rows.to(torch.bfloat16)
    distances = torch.empty(len(rows), device=rows.device)
    step = max(1, _BLOCK_BYTES.get(rows.device.type, 1 << 19) // (4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        torch.linalg.vector_norm(rows[block] - rounded[block], dim=1, out=distances[block])
    return rounded, distances * (1 + rows.shape[1] * _SUM_BFLOAT16)


def bound_errors(distances: torch.Tensor, farthest: torch.Tensor, dim: int, rounded: bool) -> torch.Tensor:
    """Return bounds on the difference between products in bfloat16 and similarities in float32.

    Parameters
    ----------
    distances : Tensor (n,)
        ‖Δx‖ of the rows.
    farthest : Tensor ()
        The greatest ‖Δy‖ of all keys.
    dim : int
        D.
    rounded : bool
        Whether products come out in bfloat16.

    Returns
    -------
    Tensor (n,)
        One bound per row, which holds for its pairs with all keys, for any order of summation in float32.
        Both values count as 1 where rounding takes them above 1.
    """
    length = 1 + dim * _SUM_BFLOAT16  # of a row, which was scaled in float32
    operands = length * (distances + farthest) + distances * farthest
    sums = dim * (_SUM_BFLOAT16 * (length + WORST_DISTANCE) ** 2 + _SUM_FLOAT32 * length**2)
    return operands + sums + (_OUTPUT if rounded else 0.0)


@dataclass(frozen=True)
class KeyBlock:
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


def measure(packed: torch.Tensor, unit: torch.Tensor, block: KeyBlock) -> None:
    """Put true similarities in the place of the rough ones, for all candidates that are of ``block``.

    Parameters
    ----------
    packed : int64 Tensor (rows, width)
        Candidates, changed in place.
    unit : Tensor (rows, dim)
        The rows themselves.
    block : KeyBlock
        Where the candidates' rows are.
    """
    numbers = numbers_of(packed) - block.start
    inside = (packed != EMPTY) & (numbers >= 0) & (numbers < len(block.unit))
    rows, slots = inside.nonzero(as_tuple=True)
    keys = numbers[rows, slots]
    if packed.device.type == "cpu":
        values = _products_on_cpu(unit, block.unit, inside.sum(dim=1), keys)
    else:
        values = _gathered_products(unit, block.unit, rows, keys)
    packed[rows, slots] = pack(values, keys + block.start)


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


def bfloat16_neighbors(
    rows: UnitRows, rule: Rule, budget: int, device: torch.device, progress: Progress
) -> tuple[Csr, int]:
    """Return the exact neighbours of every row, and how many rows needed the float32 search.

    Products in bfloat16 find more candidates than are wanted; the promising ones are measured again in
    float32 and ranked by that. A row is done if the error bound (see the module) proves that
    no pair that was dropped could have come in; the others are searched again in float32.
    """
    n = rows.n_rows
    wide = widen(rule, n, rows.dim, is_output_rounded(device))
    plan = make_plan(n, rows.dim, wide, budget, device, bytes_per_element=6)
    parts, unproven = CsrParts(), []
    n_unproven = 0
    with progress.task("finding nearest neighbours", total=plan.count_products(n), unit="steps") as task:
        for start, stop in plan.panels(n):
            for low, ranking in _rank_panel(rows, (start, stop), rule, wide, plan, task):
                parts.add_packed(ranking.best, ranking.degrees)
                unproven.append(np.flatnonzero(~ranking.proven.cpu().numpy()) + start + low)
            n_unproven = sum(map(len, unproven))
            if n_unproven > _HOPELESS * n:
                break  # near duplicates everywhere: stop early, all rows are searched again anyway
    logger.info("%s of %s rows are searched again in float32", f"{n_unproven:,}", f"{n:,}")
    if n_unproven > _HOPELESS * n:
        return exact_neighbors(rows, rule, budget, device, progress), n
    found = parts.join()
    if n_unproven:
        again = np.concatenate(unproven)
        found = replace_rows(found, again, neighbors_of(rows, again, rule, budget, device))
    return found, n_unproven


def widen(rule: Rule, n_rows: int, dim: int, output_rounded: bool) -> Rule:
    """Return the rule by which candidates are kept, so that rows can nearly always be proven."""
    others = n_rows - 1
    at_least = min(others, rule.at_least + rule.at_least // 2 + _MARGIN)
    at_most = min(others, rule.at_most + rule.at_most // 2 + _MARGIN)
    if rule.threshold is None:
        return Rule.fixed(at_least)
    # Rounded similarities may lie below the true ones by the error, so the threshold is lowered by it.
    worst = torch.tensor(WORST_DISTANCE)
    error = float(bound_errors(worst, worst, dim, output_rounded))
    return Rule(at_least, at_most, rule.threshold - error)


@dataclass(frozen=True)
class _Panel:
    """Rows from ``start``: at unit length, rounded, and how far each is from its rounding."""

    start: int
    unit: torch.Tensor
    rounded: torch.Tensor
    distances: torch.Tensor

    @classmethod
    def read(cls, rows: UnitRows, start: int, stop: int) -> _Panel:
        unit = rows.read(start, stop)
        return cls(start, unit, *round_rows(unit))


def _rank_panel(
    rows: UnitRows, span: tuple[int, int], rule: Rule, wide: Rule, plan: TilePlan, task: ProgressTask
) -> Iterator[tuple[int, Ranking]]:
    """Search for the rows of a panel, and yield what a tile of them keeps, and the tile's first row."""
    panel = _Panel.read(rows, *span)  # read here, so that it is freed before the next panel is read
    device, size = panel.unit.device, len(panel.unit)
    farthest = [panel.distances.max()]

    def read_rounded(start: int, stop: int) -> torch.Tensor:
        rounded, distances = round_rows(rows.read(start, stop))
        farthest.append(distances.max())
        return rounded

    candidates = (Reservoir if device.type == "cpu" else TopReservoir)(size, wide, device)
    search_panel(Keys(panel.rounded, panel.start, read_rounded, rows.n_rows), candidates, plan, task)
    largest = torch.stack(farthest).max()
    errors = bound_errors(panel.distances, largest, rows.dim, is_output_rounded(device))
    tiles, kept = plan.tiles(0, size), []
    for low, high in tiles:
        packed, floors = candidates.best(low, high)
        if wide.at_least == rows.n_rows - 1:
            floors = torch.full_like(floors, -torch.inf)  # nothing was dropped
        shortlist(packed, errors[low:high], rule)
        kept.append((packed, floors))
    for block in _key_blocks(rows, panel, plan):
        for (low, high), (packed, _) in zip(tiles, kept, strict=True):
            measure(packed, panel.unit[low:high], block)
    for (low, high), (packed, floors) in zip(tiles, kept, strict=True):
        yield low, Ranking.of(packed, floors + errors[low:high], rule)


def _key_blocks(rows: UnitRows, panel: _Panel, plan: TilePlan) -> Iterator[KeyBlock]:
    """Yield all rows again, tile by tile, the panel's own at once."""
    stop = panel.start + len(panel.unit)
    yield KeyBlock(panel.start, panel.unit)
    for first, last in (*plan.tiles(0, panel.start), *plan.tiles(stop, rows.n_rows)):
        yield KeyBlock(first, rows.read(first, last))
