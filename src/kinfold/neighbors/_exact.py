"""Exact cosine neighbours: blocked matrix products, each pair computed once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.neighbors._reservoir import Reservoir, offer_bytes, reservoir_width
from kinfold.neighbors._rows import READING_SHARE, UnitRows
from kinfold.neighbors._rule import Rule
from kinfold.progress import Progress

_TILE = {"cpu": 2048, "cuda": 8192}
_SMALLEST_TILE = 64

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
            for _ in _fill(reservoir, rows, plan, start, stop, device):
                task.advance()
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


def _fill(
    reservoir: Reservoir, rows: UnitRows, plan: _Plan, start: int, stop: int, device: torch.device
) -> Iterator[None]:
    """Bring all keys by in ascending order; yields after every tile."""
    panel = rows.read(start, stop)
    scratch = torch.empty(plan.tile * plan.tile, device=device)
    yield from _from_outside(reservoir, rows, panel, plan.tiles(0, start), plan, scratch)
    tiles = plan.tiles(0, stop - start)
    for number, (low, high) in enumerate(tiles):
        for first, last in tiles[number:]:
            block = _product(panel[low:high], panel[first:last], scratch)
            if first == low:
                block.fill_diagonal_(-torch.inf)
            reservoir.offer(block, low, start + first)
            if first != low:
                reservoir.offer_transposed(block, first, start + low)
            yield
    yield from _from_outside(reservoir, rows, panel, plan.tiles(stop, rows.n_rows), plan, scratch)


def _from_outside(
    reservoir: Reservoir,
    rows: UnitRows,
    panel: torch.Tensor,
    outside: list[tuple[int, int]],
    plan: _Plan,
    scratch: torch.Tensor,
) -> Iterator[None]:
    """Offer keys that are not of the panel."""
    for first, last in outside:
        keys = rows.read(first, last)
        for low, high in plan.tiles(0, len(panel)):
            reservoir.offer(_product(panel[low:high], keys, scratch), low, first)
            yield


def _product(rows: torch.Tensor, keys: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    out = scratch[: len(rows) * len(keys)].view(len(rows), len(keys))
    return torch.mm(rows, keys.T, out=out)


def _make_plan(n: int, dim: int, rule: Rule, budget: int, device: torch.device) -> _Plan:
    """Choose the panel and the tile so that the working memory stays within ``budget`` bytes."""
    per_row = 4 * dim + 8 * reservoir_width(rule) + 32
    budget -= budget // READING_SHARE
    tile = _TILE.get(device.type, 2048)
    while tile > _SMALLEST_TILE and _tile_bytes(tile, dim, rule) + tile * per_row > budget // 2:
        tile //= 2
    room = (budget - _tile_bytes(tile, dim, rule)) // per_row
    if room < min(n, tile):
        least = _tile_bytes(tile, dim, rule) + tile * per_row
        least += least // (READING_SHARE - 1) + READING_SHARE
        raise InputError(f"memory_budget is too small: these features need at least {least:,} bytes")
    if room >= n:
        return _Plan(panel=n, tile=tile)
    panels = -(-n // (room // tile * tile))
    even = -(-n // panels)
    return _Plan(panel=-(-even // tile) * tile, tile=tile)


def _tile_bytes(tile: int, dim: int, rule: Rule) -> int:
    """Bytes of one step: the block, the keys it is made from, and what a reservoir makes of it."""
    return 4 * tile * tile + 4 * tile * dim + offer_bytes(tile, rule)


def _n_tiles(plan: _Plan, n: int) -> int:
    total = 0
    for start, stop in plan.panels(n):
        inside = len(plan.tiles(0, stop - start))
        outside = len(plan.tiles(0, start)) + len(plan.tiles(stop, n))
        total += inside * outside + inside * (inside + 1) // 2
    return total
