"""Exact cosine neighbours: blocked matrix products, each pair computed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._csr import Csr, CsrParts
from kinfold.neighbors._overlap import OverlappedProducts
from kinfold.neighbors._packed import EMPTY
from kinfold.neighbors._panel import Keys, search_panel
from kinfold.neighbors._plan import Plan, make_plan
from kinfold.neighbors._reservoir import Reservoir
from kinfold.neighbors._rule import Rule
from kinfold.progress import Progress


def exact_neighbors(rows: UnitRows, rule: Rule, budget: int, device: torch.device, progress: Progress) -> Csr:
    """Return indptr, indices and similarities of the exact neighbours of every row.

    Rows are searched in panels. A panel's unit rows and candidates stay in memory while all keys come by in
    tiles; inside a panel each tile off the diagonal serves both of its sides, so that features that fit
    into one panel cost half of a full matrix product.
    """
    n = rows.n_rows
    plan = make_plan(n, rows.dim, rule, budget, device)
    parts = CsrParts()
    with progress.task("neighbours", total=plan.count_products(n), unit="tiles") as task:
        for start, stop in plan.panels(n):
            reservoir = Reservoir(stop - start, rule, device)
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
    columns = torch.arange(block.shape[1], device=block.device)
    block.masked_fill_(columns[None, :] == own[:, None], -torch.inf)
    reservoir.offer(block, row_start, key_start)


def _collect(reservoir: Reservoir, plan: Plan, n_rows: int, parts: CsrParts) -> None:
    for low, high in plan.tiles(0, n_rows):
        best, _ = reservoir.best(low, high)
        parts.add_packed(best, (best != EMPTY).sum(dim=1))
