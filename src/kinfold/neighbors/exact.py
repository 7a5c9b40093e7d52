"""Exact cosine neighbours in float32: blocked matrix products, each pair computed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.neighbors._candidates import EMPTY, Csr, CsrParts, Reservoir, Rule
from kinfold.neighbors._products import OverlappedProducts, TilePlan, make_plan
from kinfold.progress import Progress, ProgressTask
from kinfold.rows.readers import UnitRows


class Candidates(Protocol):
    """Takes blocks of similarities; see ``Reservoir``."""

    def offer(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (rows, keys) of rows from ``row_start`` with keys from ``key_start``."""

    def offer_transposed(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (keys, rows)."""


@dataclass(frozen=True)
class Keys:
    """Where the rows of a search come from.

    Attributes
    ----------
    panel : Tensor (rows, dim)
        The rows that are searched for.
    start : int
        Number of the first of them among all rows.
    read : callable
        Gives rows ``start`` to ``stop`` of all, of the panel's type.
    n_rows : int
        Number of all rows.
    """

    panel: torch.Tensor
    start: int
    read: Callable[[int, int], torch.Tensor]
    n_rows: int


def search_panel(keys: Keys, candidates: Candidates, plan: TilePlan, task: ProgressTask) -> None:
    """Offer all similarities of a panel's rows to their candidates.

    Inside the panel each tile off the diagonal serves both of its sides. Keys reach every row in
    ascending order.
    """
    with OverlappedProducts(plan.tile, keys.panel.device, keys.panel.dtype) as products:
        for step in _steps(keys, plan):
            products.multiply(step.rows, step.keys, partial(step.select, candidates))
            task.advance()
        products.finish()


@dataclass(frozen=True)
class _Step:
    """One product: rows of the panel from ``row_start``, keys from ``key_start`` of all.

    Keys that are of the panel too, from ``mirror_start`` on, are served by the same block.
    """

    rows: torch.Tensor
    keys: torch.Tensor
    row_start: int
    key_start: int
    panel_start: int
    mirror_start: int | None = None

    def select(self, candidates: Candidates, block: torch.Tensor) -> None:
        """Offer the block to the rows, and to the keys where they are of the panel."""
        if self.mirror_start == self.row_start:
            block.fill_diagonal_(-torch.inf)  # a sample is not its own neighbour
        candidates.offer(block, self.row_start, self.key_start)
        if self.mirror_start is not None and self.mirror_start != self.row_start:
            candidates.offer_transposed(block, self.mirror_start, self.panel_start + self.row_start)


def _steps(keys: Keys, plan: TilePlan) -> Iterator[_Step]:
    """Yield the products of a panel with all keys, in ascending order of keys for each of its rows."""
    panel, start, stop = keys.panel, keys.start, keys.start + len(keys.panel)
    tiles = plan.tiles(0, len(panel))

    def outside(first: int, last: int) -> Iterator[_Step]:
        for key_start, key_stop in plan.tiles(first, last):
            block = keys.read(key_start, key_stop)
            for low, high in tiles:
                yield _Step(panel[low:high], block, low, key_start, start)

    # Ascending keys let a reservoir drop what equals its floor: ties go to the lower number.
    yield from outside(0, start)
    for number, (low, high) in enumerate(tiles):
        for first, last in tiles[number:]:
            yield _Step(panel[low:high], panel[first:last], low, start + first, start, first)
    yield from outside(stop, keys.n_rows)


def exact_neighbors(rows: UnitRows, rule: Rule, budget: int, device: torch.device, progress: Progress) -> Csr:
    """Return indptr, indices and similarities of the exact neighbours of every row.

    Rows are searched in panels. A panel's unit rows and candidates stay in memory while all keys are read in
    tiles; inside a panel each tile off the diagonal serves both of its sides, so that features that fit
    into one panel cost half of a full matrix product.
    """
    n = rows.n_rows
    plan = make_plan(n, rows.dim, rule, budget, device)
    parts = CsrParts()
    with progress.task("finding nearest neighbours", total=plan.count_products(n), unit="steps") as task:
        for start, stop in plan.panels(n):
            reservoir = Reservoir(stop - start, rule, device)  # per panel, so its memory is that of the plan
            search_panel(Keys(rows.read(start, stop), start, rows.read, n), reservoir, plan, task)
            _collect(reservoir, plan, stop - start, parts)
    return parts.join()


def neighbors_of(rows: UnitRows, chosen: NDArray[Any], rule: Rule, budget: int, device: torch.device) -> Csr:
    """Return the exact neighbours of chosen rows, among all, in the order of ``chosen``."""

    def read(start: int, stop: int) -> torch.Tensor:
        return rows.take(chosen[start:stop])

    return _search_for(read, chosen, rows, rule, budget, device)


def neighbors_among(rows: UnitRows, queries: UnitRows, rule: Rule, budget: int, device: torch.device) -> Csr:
    """Return the exact neighbours, among rows, of queries that are none of them."""
    return _search_for(queries.read, np.full(queries.n_rows, -1), rows, rule, budget, device)


def _search_for(
    read: Callable[[int, int], torch.Tensor],
    own_numbers: NDArray[Any],
    rows: UnitRows,
    rule: Rule,
    budget: int,
    device: torch.device,
) -> Csr:
    """Return the neighbours of queries, each of which leaves out the row of its own number."""
    plan = make_plan(rows.n_rows, rows.dim, rule, budget, device)
    parts = CsrParts()
    for start, stop in plan.panels(len(own_numbers)):
        part = own_numbers[start:stop]
        queries, numbers = read(start, stop), torch.from_numpy(part).to(device)
        reservoir = Reservoir(len(part), rule, device)
        with OverlappedProducts(plan.tile, device) as products:
            for key_start, key_stop in plan.tiles(0, rows.n_rows):
                keys = rows.read(key_start, key_stop)
                for low, high in plan.tiles(0, len(part)):
                    own = numbers[low:high] - key_start
                    products.multiply(
                        queries[low:high], keys, partial(_select_others, reservoir, own, low, key_start)
                    )
            products.finish()
        _collect(reservoir, plan, len(part), parts)
    return parts.join()


def _select_others(
    reservoir: Reservoir, own: torch.Tensor, row_start: int, key_start: int, block: torch.Tensor
) -> None:
    # A query's own number lies outside of most tiles, and −1 (no row) outside of all: then nothing matches.
    columns = torch.arange(block.shape[1], device=block.device)
    block.masked_fill_(columns[None, :] == own[:, None], -torch.inf)
    reservoir.offer(block, row_start, key_start)


def _collect(reservoir: Reservoir, plan: TilePlan, n_rows: int, parts: CsrParts) -> None:
    for low, high in plan.tiles(0, n_rows):
        best, _ = reservoir.best(low, high)
        parts.add_packed(best, (best != EMPTY).sum(dim=1))
