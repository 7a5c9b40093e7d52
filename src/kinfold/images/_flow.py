"""A bounded stream of images through the workers: sent ahead, finished in any order, handed out in theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from kinfold.images._pool import WorkerPool
from kinfold.images._reasons import UnusableImage
from kinfold.images._slots import Slots, SlotShape
from kinfold.images._source import ImageSource
from kinfold.images._worker import Item, Outcome, Task

_PER_TASK = 16  # images in one message at most
_BATCHES_AHEAD = 2
_BYTES_AHEAD = 512 << 20


class WorkerFlow:
    """Sends rows to a pool and puts what comes back in order.

    At most two batches or 512 MiB of decoded images are on their way at a time.

    Parameters
    ----------
    pool : WorkerPool
        The workers.
    source : ImageSource
        Tells where each row lies.
    """

    def __init__(self, pool: WorkerPool, source: ImageSource) -> None:
        self.pool = pool
        self._source = source
        self._slots = None if pool.shared is None else Slots(pool.shared)
        self._spec: SlotShape | None = None
        self._free: deque[int] = deque()
        self._n_slots = 0
        self._next = 0

    def outcomes(
        self, rows: Sequence[int], batch_size: int
    ) -> Generator[np.ndarray[Any, Any] | str, None, None]:
        """Yield an array, or the reason why there is none, for each row in order.

        An array may lie in shared memory and is valid until the next one is asked for.
        """
        per_task = max(1, min(_PER_TASK, batch_size // (2 * self.pool.n_workers)))
        base, sent = self._next, 0
        self._next += len(rows)
        ready: dict[int, tuple[Item, Outcome]] = {}
        try:
            for position in range(len(rows)):
                window = self._window(batch_size, per_task)
                while sent < len(rows) and sent - position < window:
                    stop = min(sent + per_task, len(rows))
                    self._send(rows[sent:stop], base + sent, ready)
                    sent = stop
                while base + position not in ready:
                    self._receive(base, ready)
                item, outcome = ready.pop(base + position)
                yield self._view(item) if outcome is None else outcome
                self._release(item)
        finally:
            for item in [*self.pool.clear(), *(item for item, _ in ready.values())]:
                self._release(item)

    def _window(self, batch_size: int, per_task: int) -> int:
        least = 2 * per_task * self.pool.n_workers
        if self._spec is None:
            return least
        window = max(least, min(_BATCHES_AHEAD * batch_size, _BYTES_AHEAD // self._spec.stride))
        if self._slots is not None and self._n_slots < window + per_task:
            self._slots.reserve(self._spec, window + per_task)
            self._free.extend(range(self._n_slots, window + per_task))
            self._n_slots = window + per_task
        return window

    def _send(self, rows: Sequence[int], number: int, ready: dict[int, tuple[Item, Outcome]]) -> None:
        items = []
        for row in rows:
            try:
                locator = self._source.locate(int(row))
            except UnusableImage as found:
                ready[number] = Item(number, None, None), str(found)
            else:
                slot = self._free.popleft() if self._free else None
                items.append(Item(number, locator, slot))
            number += 1
        if items:
            self.pool.submit(Task(tuple(items), self._spec))

    def _receive(self, base: int, ready: dict[int, tuple[Item, Outcome]]) -> None:
        for item, outcome in self.pool.collect():
            if item.number < base:  # of an iterator that was left early
                self._release(item)
                continue
            if isinstance(outcome, np.ndarray) and self._spec is None:
                self._spec = SlotShape(outcome.shape, outcome.dtype.str)
            ready[item.number] = item, outcome

    def _view(self, item: Item) -> np.ndarray[Any, Any]:
        assert self._slots is not None
        assert self._spec is not None
        assert item.slot is not None
        return self._slots(self._spec, item.slot)

    def _release(self, item: Item) -> None:
        if item.slot is not None:
            self._free.append(item.slot)
