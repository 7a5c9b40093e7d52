"""The running best neighbours of many rows while blocks of similarities come by."""

from __future__ import annotations

import numpy as np
import torch

from kinfold.neighbors._packed import EMPTY, pack, values_of
from kinfold.neighbors._rule import Rule

_MANY = 2
_MASK_AND_COPY, _PER_HIT, _PER_BEST = 5, 56, 16


def reservoir_width(rule: Rule) -> int:
    """Return how many candidates a row has room for: those it may keep, and as many newcomers again or so."""
    return rule.at_most + max(rule.at_most // 2, 128)


def offer_bytes(tile: int, rule: Rule) -> int:
    """Return the most bytes that a block of ``tile`` × ``tile`` takes on its way in, itself apart."""
    hits = min(tile, _MANY * rule.at_most)
    best = min(tile, rule.at_most)
    return tile * (_MASK_AND_COPY * tile + _PER_HIT * hits + _PER_BEST * best + 16 * reservoir_width(rule))


class Reservoir:
    """Candidates of a range of rows, each cut back to the best whenever its room runs out.

    Candidates are packed into one int64 each. Each row has a floor, always at or below what it will keep in
    the end; a block's entries at or below the floor are dropped unseen. Blocks must come with ascending key
    numbers for each row: then an entry that equals the floor loses its tie and may be dropped as well.

    Parameters
    ----------
    n_rows : int
        Rows that are searched for.
    rule : Rule
        What each keeps.
    device : torch.device
        Where the blocks are.
    """

    def __init__(self, n_rows: int, rule: Rule, device: torch.device) -> None:
        self._rule = rule
        self._width = reservoir_width(rule)
        self._keys = torch.full((n_rows, self._width), EMPTY, dtype=torch.int64, device=device)
        self._counts = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._kept = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._floor = torch.full((n_rows,), -torch.inf, device=device)
        self._mask = torch.empty(0, dtype=torch.bool, device=device)
        self._below = None if rule.threshold is None else _next_below(rule.threshold)

    def offer(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (rows, keys) of rows from ``row_start`` with keys from ``key_start``."""
        rows, keys = self._hits(block, row_start)
        self._put(block, row_start, key_start, rows, keys)

    def offer_transposed(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (keys, rows): the same block, seen from its columns."""
        n_rows = block.shape[1]
        mask = self._above(block, self._floor[row_start : row_start + n_rows][None, :])
        if _count(mask) > _MANY * n_rows * self._rule.at_most:
            self.offer(block.T.contiguous(), row_start, key_start)
            return
        keys, rows = _where(mask)
        rows, order = rows.sort(stable=True)
        self._put(block.T, row_start, key_start, rows, keys[order])

    def best(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the packed candidates of a range of rows, best first, and their floors.

        Nothing that a row saw and that isn't among its candidates is above its floor. The candidates
        (rows, at most ``rule.at_most``) are the reservoir's own memory.
        """
        self._cut(torch.arange(start, stop, device=self._counts.device))
        return self._keys[start:stop, : self._rule.at_most], self._floor[start:stop]

    def _hits(self, block: torch.Tensor, row_start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where the block is above the floors, lifting these first where too much is above them."""
        n_rows = len(block)
        floor = self._floor[row_start : row_start + n_rows]
        mask = self._above(block, floor[:, None])
        if _count(mask) > _MANY * n_rows * self._rule.at_most:
            torch.maximum(floor, self._floor_alone(block), out=floor)
            mask = self._above(block, floor[:, None])
        return _where(mask)

    def _above(self, block: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
        if self._mask.numel() < block.numel():
            self._mask = torch.empty(block.numel(), dtype=torch.bool, device=block.device)
        mask = self._mask[: block.numel()].view(block.shape)
        return torch.gt(block, floor, out=mask)

    def _floor_alone(self, block: torch.Tensor) -> torch.Tensor:
        """Return floors just below what this block alone would let its rows keep."""
        best = block.topk(min(self._rule.at_most, block.shape[1]), dim=1).values.clamp_(max=1.0)
        return torch.nextafter(self._floor_of(best), torch.tensor(-torch.inf, device=block.device))

    def _floor_of(self, best: torch.Tensor) -> torch.Tensor:
        """Return the floors that follow from the best values so far (rows, width), descending."""
        at_least, at_most = self._rule.at_least, self._rule.at_most
        width = best.shape[1]
        nothing = torch.full((len(best),), -torch.inf, device=best.device)
        floor = best[:, at_least - 1] if width >= at_least else nothing
        if self._below is not None:
            floor = floor.clamp(max=self._below)
            if width >= at_most:
                floor = torch.maximum(floor, best[:, at_most - 1])
        return floor

    def _put(
        self, block: torch.Tensor, row_start: int, key_start: int, rows: torch.Tensor, keys: torch.Tensor
    ) -> None:
        """Take the entries at ``rows`` and ``keys`` of the block, sorted by row and then by key."""
        if not len(rows):
            return
        n_rows = len(block)
        floor = self._floor[row_start : row_start + n_rows]
        values = block[rows, keys]
        full = self._overfull(row_start, n_rows, rows)
        if len(full):
            self._cut(full + row_start)
            floor[full] = torch.maximum(floor[full], self._floor_alone(block[full]))
            still = values > floor[rows]
            rows, keys, values = rows[still], keys[still], values[still]
            if len(self._overfull(row_start, n_rows, rows)):
                self._put_halves(block, row_start, key_start)
                return
        counts = self._counts[row_start : row_start + n_rows]
        new = torch.bincount(rows, minlength=n_rows)
        first = torch.cumsum(new, 0) - new
        slots = torch.arange(len(rows), device=rows.device) + (counts - first)[rows]
        self._keys[rows + row_start, slots] = pack(values, keys + key_start)
        counts += new
        kept = self._kept[row_start : row_start + n_rows]
        due = (counts - kept) * 4 >= kept.clamp(min=self._rule.at_least)
        self._cut(due.nonzero().flatten() + row_start)

    def _overfull(self, row_start: int, n_rows: int, rows: torch.Tensor) -> torch.Tensor:
        new = torch.bincount(rows, minlength=n_rows)
        return (self._counts[row_start : row_start + n_rows] + new > self._width).nonzero().flatten()

    def _put_halves(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer a block in two steps, where many entries tie and the floors can't tell them apart."""
        middle = block.shape[1] // 2
        self.offer(block[:, :middle].contiguous(), row_start, key_start)
        self.offer(block[:, middle:].contiguous(), row_start, key_start + middle)

    def _cut(self, rows: torch.Tensor) -> None:
        """Sort the candidates of some rows, keep what the rule keeps, and lift their floors."""
        if not len(rows):
            return
        filled = int(self._counts[rows].max())
        width = min(self._rule.at_most, filled)
        best = self._keys[rows, :filled].topk(width, dim=1).values
        values = values_of(best)
        kept = (best != EMPTY).sum(dim=1)
        if self._below is not None:
            reached = (values > self._below).sum(dim=1)
            kept = torch.minimum(kept, reached.clamp(min=self._rule.at_least))
        self._keys[rows] = EMPTY
        places = torch.arange(width, device=best.device)[None, :] < kept[:, None]
        self._keys[rows, :width] = torch.where(places, best, EMPTY)
        self._counts[rows] = kept
        self._kept[rows] = kept
        self._floor[rows] = torch.maximum(self._floor[rows], self._floor_of(values))


def _where(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of the true entries, row by row."""
    if mask.device.type == "cpu":
        flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    else:
        flat = mask.flatten().nonzero().flatten()
    rows = torch.div(flat, mask.shape[1], rounding_mode="floor")
    return rows, flat - rows * mask.shape[1]


def _count(mask: torch.Tensor) -> int:
    """Count the true entries; here as in :func:`_where` NumPy is several times as fast on the CPU."""
    if mask.device.type == "cpu":
        return int(np.count_nonzero(mask.numpy()))
    return int(torch.count_nonzero(mask))


def _next_below(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))
