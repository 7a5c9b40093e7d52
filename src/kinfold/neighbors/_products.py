"""Blocked matrix products: how a search is cut to fit its memory, and how products and selections overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch
from threadpoolctl import threadpool_limits

from kinfold.errors import InputError
from kinfold.neighbors._candidates import Rule, offer_bytes, reservoir_width

Select = Callable[[torch.Tensor], None]
# Rows and keys of one product. Its block of float32 takes 16 MiB on a CPU and 256 MiB on a GPU: smaller ones
# multiply slower, larger ones take memory from the panels.
TILE = {"cpu": 2048, "cuda": 8192}
SMALLEST_TILE = 64  # below, the calls cost more than the products; a budget that needs less is refused
READING_SHARE = 8  # the part of the memory budget that is for reading rows


class OverlappedProducts:
    """Multiplies tiles and hands every block on to a selection, in order.

    On the CPU a selection runs while the next block is multiplied, on one core: its many small steps would
    otherwise each wait for all cores, which is slow on a machine that has other work. On other devices it
    runs at once, since the device queues the work by itself.

    Parameters
    ----------
    tile : int
        The most rows and keys of a product.
    device : torch.device
        Where products are made.
    dtype : torch.dtype, default float32
        Type of the rows and keys. A selection gets float32 always. Products of bfloat16 are rounded to
        bfloat16 on the way where :func:`is_output_rounded` says so.
    """

    def __init__(self, tile: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._in_float32 = dtype != torch.float32 and not is_output_rounded(device)
        n_buffers = 0 if self._in_float32 else count_buffers(device)
        self._buffers = deque(torch.empty(tile * tile, device=device, dtype=dtype) for _ in range(n_buffers))
        self._widened = torch.empty(tile * tile if n_buffers and dtype != torch.float32 else 0, device=device)
        self._pending: deque[Future[None]] = deque()
        overlapped = device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, initializer=_use_one_core) if overlapped else None

    def __enter__(self) -> OverlappedProducts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def multiply(self, rows: torch.Tensor, keys: torch.Tensor, select: Select) -> None:
        """Compute ``rows @ keys.T`` and hand it to ``select``, which may be called later."""
        if self._in_float32:
            select(torch.mm(rows, keys.T, out_dtype=torch.float32))
            return
        if len(self._pending) == len(self._buffers):
            self._pending.popleft().result()
        buffer = self._buffers[0]
        self._buffers.rotate(-1)
        block = buffer[: len(rows) * len(keys)].view(len(rows), len(keys))
        torch.mm(rows, keys.T, out=block)
        if self._thread is None:
            select(block)
        else:
            self._pending.append(self._thread.submit(self._select, select, block))

    def _select(self, select: Select, block: torch.Tensor) -> None:
        if block.dtype != torch.float32:  # one buffer will do, since there is one thread
            block = self._widened[: block.numel()].view(block.shape).copy_(block)
        select(block)

    def finish(self) -> None:
        """Wait until everything is selected."""
        while self._pending:
            self._pending.popleft().result()


def is_output_rounded(device: torch.device) -> bool:
    """Tell whether a product of bfloat16 comes out in bfloat16, and not in float32 as it is summed up."""
    return device.type == "cpu"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether products of bfloat16 can be made so that their error is bounded.

    On CUDA this needs PyTorch 2.8, which can leave the sums in float32.
    """
    if device.type == "cpu":
        return True
    # Tried rather than read off the version: builds without support raise as well.
    one = torch.ones((16, 16), dtype=torch.bfloat16, device=device)
    try:
        torch.mm(one, one, out_dtype=torch.float32)
    except (TypeError, RuntimeError):
        return False
    return True


def count_buffers(device: torch.device) -> int:
    """Return how many blocks are in memory at once."""
    # On the CPU one is selected from while the next one is multiplied.
    return 2 if device.type == "cpu" else 1


def _use_one_core() -> None:
    # OpenMP's limit belongs to the calling thread. PyTorch sets its own with a thread's first operation.
    torch.zeros(1 << 16).add_(1)
    threadpool_limits(limits=1, user_api="openmp")


@dataclass(frozen=True)
class TilePlan:
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
) -> TilePlan:
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
    # Panels get half of the memory at least: every panel reads all keys again, so few large panels save more
    # than large tiles do.
    tile = TILE.get(device.type, 2048)
    while tile > SMALLEST_TILE and _tile_bytes(tile, dim, rule, device) + tile * per_row > budget // 2:
        tile //= 2
    room = (budget - _tile_bytes(tile, dim, rule, device)) // per_row
    if room < min(n, tile):
        least = _tile_bytes(tile, dim, rule, device) + tile * per_row
        least += least // (READING_SHARE - 1) + READING_SHARE
        raise InputError(
            f"memory_budget is too small: these features need at least {least:,} bytes; raise it"
        )
    if room >= n:
        return TilePlan(panel=n, tile=tile)
    # Panels of even size, in whole tiles: a last panel of a few rows would read all keys for those alone.
    panels = -(-n // (room // tile * tile))
    even = -(-n // panels)
    return TilePlan(panel=-(-even // tile) * tile, tile=tile)


def _tile_bytes(tile: int, dim: int, rule: Rule, device: torch.device) -> int:
    """Bytes of one step: the block, the keys it is made from, and what a reservoir makes of it."""
    blocks = 4 * tile * tile * count_buffers(device)
    # Twice, since the allocator keeps some of what a thread has freed.
    return blocks + 2 * 4 * tile * dim + 2 * offer_bytes(tile, rule)
