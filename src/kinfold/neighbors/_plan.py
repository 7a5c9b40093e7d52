"""How a search is cut into pieces that stay within a memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kinfold.errors import InputError
from kinfold.neighbors._overlap import count_buffers
from kinfold.neighbors._reservoir import offer_bytes, reservoir_width
from kinfold.neighbors._rule import Rule

TILE = {"cpu": 2048, "cuda": 8192}
SMALLEST_TILE = 64
READING_SHARE = 8  # the part of the memory budget that is for reading rows


@dataclass(frozen=True)
class Plan:
    """How the work is cut: panels of rows whose candidates are kept at once, tiles of one matrix product."""

    panel: int
    tile: int

    def panels(self, n: int) -> list[tuple[int, int]]:
        """Return the first and the past-the-last row of every panel of ``n`` rows."""
        return [(start, min(n, start + self.panel)) for start in range(0, n, self.panel)]

    def tiles(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the first and the past-the-last row of every tile between two rows."""
        return [(first, min(stop, first + self.tile)) for first in range(start, stop, self.tile)]

    def count_products(self, n: int) -> int:
        """Return the number of matrix products that a search of ``n`` rows among themselves takes."""
        total = 0
        for start, stop in self.panels(n):
            inside = len(self.tiles(0, stop - start))
            outside = len(self.tiles(0, start)) + len(self.tiles(stop, n))
            total += inside * outside + inside * (inside + 1) // 2
        return total


def make_plan(
    n: int, dim: int, rule: Rule, budget: int, device: torch.device, bytes_per_element: int = 4
) -> Plan:
    """Choose the panel and the tile so that the working memory stays within ``budget`` bytes.

    Parameters
    ----------
    n, dim : int
        Shape of the features.
    rule : Rule
        What a row keeps while it is searched for.
    budget : int
        Bytes.
    device : torch.device
        Where the search runs.
    bytes_per_element : int, default 4
        What a row of a panel takes, all its copies together: 6 with a rounded one.
    """
    per_row = bytes_per_element * dim + 8 * reservoir_width(rule) + 32
    budget -= budget // READING_SHARE
    tile = TILE.get(device.type, 2048)
    while tile > SMALLEST_TILE and _tile_bytes(tile, dim, rule, device) + tile * per_row > budget // 2:
        tile //= 2
    room = (budget - _tile_bytes(tile, dim, rule, device)) // per_row
    if room < min(n, tile):
        least = _tile_bytes(tile, dim, rule, device) + tile * per_row
        least += least // (READING_SHARE - 1) + READING_SHARE
        raise InputError(f"memory_budget is too small: these features need at least {least:,} bytes")
    if room >= n:
        return Plan(panel=n, tile=tile)
    panels = -(-n // (room // tile * tile))
    even = -(-n // panels)
    return Plan(panel=-(-even // tile) * tile, tile=tile)


def _tile_bytes(tile: int, dim: int, rule: Rule, device: torch.device) -> int:
    """Bytes of one step: the block, the keys it is made from, and what a reservoir makes of it."""
    blocks = 4 * tile * tile * count_buffers(device)
    # Twice, since the allocator keeps some of what a thread lets go of.
    return blocks + 2 * 4 * tile * dim + 2 * offer_bytes(tile, rule)
