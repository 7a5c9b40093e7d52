"""Exact cosine neighbours: blocked matrix products, each pair computed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._overlap import OverlappedProducts, count_buffers
from kinfold.neighbors._reservoir import Reservoir, offer_bytes, reservoir_width
from kinfold.neighbors._rule import Rule
from kinfold.progress import Progress

_TILE = {"cpu": 2048, "cuda": 8192}
_SMALLEST_TILE = 64
READING_SHARE = 8  # the part of the memory budget that is for reading rows

Csr = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class _Plan:
    """How the work is cut: panels of rows whose candidates are kept at once, tiles of one matrix product."""

    panel: int
    tile: int

    def panels(self, n: int) -> list[tuple[int, int]]:
        return [(start, min(n, start + self.panel)) for start in range(0, n, self.panel)]

    def tiles(self, start: int, stop: int) -> list[tuple[int, int]]:
        return [(first, min(stop, first + self.tile)) for first in range(start, stop, self.tile)]


def exact_neighbors(rows: UnitRows, rule: Rule, budget: int, device: torch.device, progress: Progress) -> Csr:
    """Return indptr, indices and similarities of the exact neighbours of every row.

    Rows are searched in panels. A panel's unit rows and candidates stay in memory while all keys come by in
    tiles; inside a panel each tile off the diagonal serves both of its sides, so that features that fit
    into one panel cost half of a full matrix product. Keys reach every row in ascending order.
    """
    n = rows.n_rows
    plan = _make_plan(n, rows.dim, rule, budget, device)
    degrees, indices, similarities = [], [], []
    with progress.task("neighbours", total=_n_tiles(plan, n), unit="tiles") as task:
        for start, stop in plan.panels(n):
            reservoir = Reservoir(stop - start, rule, device)
            with OverlappedProducts(plan.tile, device) as products:
                for step in _steps(rows, plan, start, stop):
                    products.multiply(step.rows, step.keys, partial(step.select, reservoir))
                    task.advance()
                products.finish()
            for first, last in plan.tiles(0, stop - start):
                part = reservoir.take(first, last)
                degrees.append(part[0])
                indices.append(part[1])
                similarities.append(part[2])
    indptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.concatenate(degrees), out=indptr[1:])
    return indptr, _join(indices), _join(similarities)


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join the parts and let go of them."""
    joined: NDArray[Any] = np.concatenate(parts)
    parts.clear()
    return joined


def best_similarities(
    rows: UnitRows, sample: NDArray[Any], width: int, budget: int, device: torch.device
) -> NDArray[Any]:
    """Return the ``width`` highest similarities of sampled rows to all others, float32 descending."""
    queries = rows.take(sample)
    numbers = torch.from_numpy(sample).to(device)
    best = torch.empty((len(sample), 0), device=device)
    tile = max(_SMALLEST_TILE, min(_TILE.get(device.type, 2048), budget // (32 * len(sample))))
    for start in range(0, rows.n_rows, tile):
        stop = min(rows.n_rows, start + tile)
        block = queries @ rows.read(start, stop).T
        inside = ((numbers >= start) & (numbers < stop)).nonzero().flatten()
        block[inside, numbers[inside] - start] = -torch.inf
        both = torch.cat([best, block], dim=1)
        best = both.topk(min(width, both.shape[1]), dim=1).values
    return best[:, : rows.n_rows - 1].clamp(max=1.0).cpu().numpy()


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

    def select(self, reservoir: Reservoir, block: torch.Tensor) -> None:
        """Offer the block to the rows, and to the keys where they are of the panel."""
        if self.mirror_start == self.row_start:
            block.fill_diagonal_(-torch.inf)  # a sample is not its own neighbour
        reservoir.offer(block, self.row_start, self.key_start)
        if self.mirror_start is not None and self.mirror_start != self.row_start:
            reservoir.offer_transposed(block, self.mirror_start, self.panel_start + self.row_start)


def _steps(rows: UnitRows, plan: _Plan, start: int, stop: int) -> Iterator[_Step]:
    """Bring all keys by a panel, in ascending order for each of its rows."""
    panel = rows.read(start, stop)
    tiles = plan.tiles(0, stop - start)

    def outside(first: int, last: int) -> Iterator[_Step]:
        for key_start, key_stop in plan.tiles(first, last):
            keys = rows.read(key_start, key_stop)
            for low, high in tiles:
                yield _Step(panel[low:high], keys, low, key_start, start)

    yield from outside(0, start)
    for number, (low, high) in enumerate(tiles):
        for first, last in tiles[number:]:
            yield _Step(panel[low:high], panel[first:last], low, start + first, start, first)
    yield from outside(stop, rows.n_rows)


def _make_plan(n: int, dim: int, rule: Rule, budget: int, device: torch.device) -> _Plan:
    """Choose the panel and the tile so that the working memory stays within ``budget`` bytes."""
    per_row = 4 * dim + 8 * reservoir_width(rule) + 32
    budget -= budget // READING_SHARE
    tile = _TILE.get(device.type, 2048)
    while tile > _SMALLEST_TILE and _tile_bytes(tile, dim, rule, device) + tile * per_row > budget // 2:
        tile //= 2
    room = (budget - _tile_bytes(tile, dim, rule, device)) // per_row
    if room < min(n, tile):
        least = _tile_bytes(tile, dim, rule, device) + tile * per_row
        least += least // (READING_SHARE - 1) + READING_SHARE
        raise InputError(f"memory_budget is too small: these features need at least {least:,} bytes")
    if room >= n:
        return _Plan(panel=n, tile=tile)
    panels = -(-n // (room // tile * tile))
    even = -(-n // panels)
    return _Plan(panel=-(-even // tile) * tile, tile=tile)


def _tile_bytes(tile: int, dim: int, rule: Rule, device: torch.device) -> int:
    """Bytes of one step: the block, the keys it is made from, and what a reservoir makes of it."""
    blocks = 4 * tile * tile * count_buffers(device)
    # Twice, since the allocator keeps some of what a thread lets go of.
    return blocks + 2 * 4 * tile * dim + 2 * offer_bytes(tile, rule)


def _n_tiles(plan: _Plan, n: int) -> int:
    total = 0
    for start, stop in plan.panels(n):
        inside = len(plan.tiles(0, stop - start))
        outside = len(plan.tiles(0, start)) + len(plan.tiles(stop, n))
        total += inside * outside + inside * (inside + 1) // 2
    return total
