"""One panel of rows against all keys, each pair inside the panel computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from kinfold.neighbors._overlap import OverlappedProducts
from kinfold.neighbors._plan import Plan
from kinfold.progress import ProgressTask


class Candidates(Protocol):
    """Takes blocks of similarities; see :class:`~kinfold.neighbors._reservoir.Reservoir`."""

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


def search_panel(keys: Keys, candidates: Candidates, plan: Plan, task: ProgressTask) -> None:
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


def _steps(keys: Keys, plan: Plan) -> Iterator[_Step]:
    """Bring all keys by a panel, in ascending order for each of its rows."""
    panel, start, stop = keys.panel, keys.start, keys.start + len(keys.panel)
    tiles = plan.tiles(0, len(panel))

    def outside(first: int, last: int) -> Iterator[_Step]:
        for key_start, key_stop in plan.tiles(first, last):
            block = keys.read(key_start, key_stop)
            for low, high in tiles:
                yield _Step(panel[low:high], block, low, key_start, start)

    yield from outside(0, start)
    for number, (low, high) in enumerate(tiles):
        for first, last in tiles[number:]:
            yield _Step(panel[low:high], panel[first:last], low, start + first, start, first)
    yield from outside(stop, keys.n_rows)
