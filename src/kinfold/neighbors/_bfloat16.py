"""Exact neighbours by products in bfloat16, measured again in float32, with a proof for every row."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._csr import Csr, CsrParts, replace_rows
from kinfold.neighbors._errors import WORST_DISTANCE, bound_errors, round_rows
from kinfold.neighbors._exact import exact_neighbors, neighbors_of
from kinfold.neighbors._overlap import is_output_rounded
from kinfold.neighbors._panel import Keys, search_panel
from kinfold.neighbors._plan import Plan, make_plan
from kinfold.neighbors._remeasure import Ranking, Source, measure, shortlist
from kinfold.neighbors._reservoir import Reservoir
from kinfold.neighbors._rule import Rule
from kinfold.neighbors._top import TopReservoir
from kinfold.progress import Progress, ProgressTask

logger = logging.getLogger(__name__)

_MARGIN = 64
_HOPELESS = 0.5  # above this share of unproven rows the symmetric float32 search is the quicker one


def bfloat16_neighbors(
    rows: UnitRows, rule: Rule, budget: int, device: torch.device, progress: Progress
) -> tuple[Csr, int]:
    """Return the exact neighbours of every row, and how many rows needed the float32 search.

    Products in bfloat16 find more candidates than are wanted; the promising ones are measured again in
    float32 and ranked by that. A row is done if the error bound of :mod:`kinfold.neighbors._errors` proves
    that no pair that was dropped could have come in; the others are searched again in float32.
    """
    n = rows.n_rows
    wide = widen(rule, n, rows.dim, is_output_rounded(device))
    plan = make_plan(n, rows.dim, wide, budget, device, bytes_per_element=6)
    parts, unproven = CsrParts(), []
    n_unproven = 0
    with progress.task("neighbours", total=plan.count_products(n), unit="tiles") as task:
        for start, stop in plan.panels(n):
            for low, ranking in _search(rows, (start, stop), rule, wide, plan, task):
                parts.add_packed(ranking.best, ranking.degrees)
                unproven.append(np.flatnonzero(~ranking.proven.cpu().numpy()) + start + low)
            n_unproven = sum(map(len, unproven))
            if n_unproven > _HOPELESS * n:
                break
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


def _search(
    rows: UnitRows, span: tuple[int, int], rule: Rule, wide: Rule, plan: Plan, task: ProgressTask
) -> Iterator[tuple[int, Ranking]]:
    """Search for the rows of a panel, and yield what a tile of them keeps, and the tile's first row."""
    panel = _Panel.read(rows, *span)  # here, so that it goes before the next one comes
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
    for source in _sources(rows, panel, plan):
        for (low, high), (packed, _) in zip(tiles, kept, strict=True):
            measure(packed, panel.unit[low:high], source)
    for (low, high), (packed, floors) in zip(tiles, kept, strict=True):
        yield low, Ranking.of(packed, floors + errors[low:high], rule)


def _sources(rows: UnitRows, panel: _Panel, plan: Plan) -> Iterator[Source]:
    """Bring all rows by again, the panel's at once."""
    stop = panel.start + len(panel.unit)
    yield Source(panel.start, panel.unit)
    for first, last in (*plan.tiles(0, panel.start), *plan.tiles(stop, rows.n_rows)):
        yield Source(first, rows.read(first, last))
