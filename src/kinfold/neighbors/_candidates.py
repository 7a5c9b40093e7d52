"""Which neighbours a row keeps, and the running best candidates of many rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.rows.ragged import starts_of

EMPTY = torch.iinfo(torch.int64).min
"""Marks a place without a neighbour; below every neighbour."""
_LAST = 0x7FFFFFFF
_MANY = 2
_MASK_AND_COPY, _PER_HIT, _PER_BEST = 5, 56, 16


@dataclass(frozen=True)
class Rule:
    """How many neighbours a row keeps, by their similarities.

    ``at_least`` most similar ones always; with a ``threshold``, all that reach it, up to ``at_most``.
    """

    at_least: int
    at_most: int
    threshold: float | None = None

    @classmethod
    def fixed(cls, n_neighbors: int) -> Rule:
        """Keep the ``n_neighbors`` most similar."""
        return cls(n_neighbors, n_neighbors)

    def degrees(self, similarities: NDArray[Any]) -> NDArray[Any]:
        """Return how many of the descending similarities ``(rows, width)`` each row keeps."""
        width = similarities.shape[1]
        if self.threshold is None:
            return np.full(len(similarities), min(self.at_least, width), dtype=np.int64)
        reached = np.count_nonzero(similarities >= np.float32(self.threshold), axis=1)
        degrees: NDArray[Any] = np.minimum(np.clip(reached, self.at_least, self.at_most), width)
        return degrees

    def describe(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        cap = None if self.threshold is None else self.at_most
        return {"n_neighbors": self.at_least, "threshold": self.threshold, "max_neighbors": cap}


def threshold_for_degree(
    similarities: NDArray[Any], at_least: int, at_most: int, target_degree: float
) -> float:
    """Return the threshold whose mean degree over sampled rows comes closest to a target.

    Parameters
    ----------
    similarities : float32 array of shape (rows, width)
        The ``at_most`` highest similarities of every sampled row, descending.
    at_least, at_most : int
        The rule's floor and cap; they are part of the mean degree.
    target_degree : float
        The mean degree wished for.

    Notes
    -----
    The mean degree falls as the threshold rises, by steps at the similarities themselves, so a bisection
    over the sorted similarities finds the last one that still reaches the target.
    """
    candidates = np.unique(similarities)
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        degrees = Rule(at_least, at_most, float(candidates[middle])).degrees(similarities)
        if degrees.mean() >= target_degree:
            low = middle
        else:
            high = middle - 1
    return float(candidates[low])


def pack(values: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return int64s of float32 similarities, at most 1, and of row numbers.

    The similarity's bits stand in the upper half, the reversed row number in the lower: so ties go to the
    lower row number, and the outcome does not depend on how a sort treats equals.
    """
    # Adding zero turns −0 into 0; rounding may push a similarity over 1.
    bits = (values.clamp(max=1.0) + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _LAST)
    return (ordered.to(torch.int64) << 32) | (_LAST - numbers)


def values_of(packed: torch.Tensor) -> torch.Tensor:
    """Return the float32 similarities of packed neighbours, −inf where there is none."""
    ordered = (packed >> 32).to(torch.int32)
    values = (ordered ^ ((ordered >> 31) & _LAST)).view(torch.float32)
    return torch.where(packed == EMPTY, -torch.inf, values)


def numbers_of(packed: torch.Tensor) -> torch.Tensor:
    """Return the int64 row numbers of packed neighbours; meaningless where there is none."""
    return _LAST - (packed & _LAST)


Csr = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""indptr int64, indices int32, similarities float32."""


class CsrParts:
    """Collects consecutive rows, and lets go of them when they are joined."""

    def __init__(self) -> None:
        self._degrees: list[NDArray[Any]] = []
        self._indices: list[NDArray[Any]] = []
        self._similarities: list[NDArray[Any]] = []

    def add(self, degrees: NDArray[Any], indices: NDArray[Any], similarities: NDArray[Any]) -> None:
        """Add rows by their degrees, and their neighbours one row after another."""
        self._degrees.append(degrees)
        self._indices.append(indices.astype(np.int32, copy=False))
        self._similarities.append(similarities)

    def add_packed(self, best: torch.Tensor, degrees: torch.Tensor) -> None:
        """Add rows by their packed neighbours (rows, width), best first, of which ``degrees`` are kept."""
        kept = best[torch.arange(best.shape[1], device=best.device)[None, :] < degrees[:, None]]
        self.add(degrees.cpu().numpy(), numbers_of(kept).cpu().numpy(), values_of(kept).cpu().numpy())

    def join(self) -> Csr:
        """Return indptr, indices and similarities of all rows."""
        return starts_of(_join(self._degrees)), _join(self._indices), _join(self._similarities)


def replace_rows(whole: Csr, rows: NDArray[Any], part: Csr) -> Csr:
    """Return ``whole`` with the neighbours of some ``rows``, ascending, taken from ``part``."""
    degrees = np.diff(whole[0])
    degrees[rows] = np.diff(part[0])
    indptr = starts_of(degrees)
    from_part = np.zeros(len(degrees), dtype=bool)
    from_part[rows] = True
    places, old = np.repeat(from_part, degrees), np.repeat(from_part, np.diff(whole[0]))
    joined = []
    for ours, theirs in zip(whole[1:], part[1:], strict=True):
        array = np.empty(int(indptr[-1]), dtype=ours.dtype)
        array[places], array[~places] = theirs, ours[~old]
        joined.append(array)
    return indptr, joined[0], joined[1]


def spread_rows(part: Csr, rows: NDArray[Any], n_rows: int) -> Csr:
    """Return a graph of ``n_rows`` in which ``rows``, ascending, have the neighbours that ``part`` tells.

    ``part`` counts these rows alone; the others have no neighbours.
    """
    degrees = np.zeros(n_rows, dtype=np.int64)
    degrees[rows] = np.diff(part[0])
    return starts_of(degrees), rows[part[1]].astype(np.int32), part[2]


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    joined: NDArray[Any] = np.concatenate(parts)
    parts.clear()
    return joined


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


class TopReservoir:
    """Candidates of a range of rows, merged by selections whose shapes are known beforehand.

    Nothing is read back to the host while blocks come by, so that a GPU's products and selections queue up.
    Every row keeps its ``rule.at_most`` best; the rest of the rule is the caller's. Which of several entries
    that equal a row's floor are kept is open. Takes blocks as ``Reservoir`` does.

    Parameters
    ----------
    n_rows : int
        Rows that are searched for.
    rule : Rule
        How many each keeps.
    device : torch.device
        Where the blocks are.
    """

    def __init__(self, n_rows: int, rule: Rule, device: torch.device) -> None:
        self._keys = torch.full((n_rows, rule.at_most), EMPTY, dtype=torch.int64, device=device)

    def offer(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (rows, keys) of rows from ``row_start`` with keys from ``key_start``."""
        room = self._keys[row_start : row_start + len(block)]
        width = room.shape[1]
        values, columns = block.topk(min(width, block.shape[1]), dim=1, sorted=False)
        packed = torch.where(values == -torch.inf, EMPTY, pack(values, columns + key_start))
        room.copy_(torch.cat([room, packed], dim=1).topk(width, dim=1).values)

    def offer_transposed(self, block: torch.Tensor, row_start: int, key_start: int) -> None:
        """Offer similarities (keys, rows): the same block, seen from its columns."""
        self.offer(block.T.contiguous(), row_start, key_start)

    def best(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the packed candidates of a range of rows, best first, and their floors.

        Nothing that a row saw and that isn't among its candidates is above its floor. The candidates
        (rows, ``rule.at_most``) are the reservoir's own memory.
        """
        keys = self._keys[start:stop]
        return keys, values_of(keys[:, -1])
