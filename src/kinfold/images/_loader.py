"""Images as batches of arrays: decoded and transformed in worker processes, always in order."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.compute import cpu_count
from kinfold.errors import InputError
from kinfold.images._decode import PIXEL_LIMIT
from kinfold.images._pool import WorkerPool
from kinfold.images._source import ImageSource, UnusableImage
from kinfold.images._worker import Item, Outcome, Recipe, Slots, SlotShape, Task
from kinfold.validation import check_integer

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


_MOST_WORKERS = 32  # where no number is asked for
_WORKERS_PER_CORE = 4


@dataclass(frozen=True)
class ImageBatch:
    """Some consecutive rows.

    Attributes
    ----------
    rows : ndarray of int64, shape (B,)
        Row numbers of the images.
    images : ndarray, shape (B, …)
        What the transform returned; shape (0,) if no image could be used so far.
    skipped : list of (int, str)
        Row and reason of those that can't be used, in order.
    """

    rows: NDArray[np.int64]
    images: NDArray[Any]
    skipped: list[tuple[int, str]]


class ImageLoader:
    """Reads, decodes and transforms the images of a source in worker processes that are kept over many calls.

    What comes out doesn't depend on the number of workers. A worker that dies is replaced; the image that
    kills it whenever it is tried is skipped as ``unreadable: the decoder process died``. No worker outlives
    the loader's process, however that ends.

    Parameters
    ----------
    source : ImageSource
        Where the images are.
    transform : callable
        From an upright RGB ``PIL.Image.Image`` to an array, of one shape and dtype for all images. With
        workers it must be picklable, and importable from a module.
    min_side : int, optional
        For JPEG draft scaling, see :func:`decode_image`.
    n_workers : int, optional
        Processes; 0 works in this one, without protection from decoders that crash or hang. Default: one for
        each core that this process may use, at most 32. Cut as :func:`count_workers` says.
    pixel_limit : int
        Larger images are skipped.
    niceness : int
        How much the workers' priority is lowered, so that the matrix products of this process keep their
        cores; 0 leaves it.
    timeout : float or None
        Seconds after which an image that is still being decoded is skipped; None waits for ever.

    Examples
    --------
    >>> with ImageLoader(source, transform) as loader:  # doctest: +SKIP
    ...     for batch in loader.batches(range(len(source)), 64):
    ...         print(batch.images.shape, batch.skipped)
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Image.Image], np.ndarray[Any, Any]],
        *,
        min_side: int | None = None,
        n_workers: int | None = None,
        pixel_limit: int = PIXEL_LIMIT,
        niceness: int = 10,
        timeout: float | None = 300.0,
    ) -> None:
        self.n_workers = count_workers(n_workers, len(source))
        self._source = source
        self._recipe = Recipe(source.reader(), transform, min_side, pixel_limit)
        self._spec: SlotShape | None = None
        self._flow: WorkerFlow | None = None
        self._busy = False
        if self.n_workers:
            pool = WorkerPool(self._recipe, self.n_workers, niceness=niceness, timeout=timeout)
            self._flow = WorkerFlow(pool, source)
            self._finalizer = weakref.finalize(self, _shut_down, pool, os.getpid())

    def __enter__(self) -> ImageLoader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; the loader can't be used any more."""
        if self._flow is not None:
            self._finalizer()

    def batches(self, rows: Sequence[int], batch_size: int) -> Iterator[ImageBatch]:
        """Yield ``rows`` in batches of ``batch_size`` consecutive members, less what can't be used.

        Parameters
        ----------
        rows : sequence of int
            Row numbers in any order; rows may occur twice.
        batch_size : int
            Members of ``rows`` per batch; the last batch may have fewer.

        Yields
        ------
        ImageBatch
            In order. Batches of which no image can be used come too.

        Raises
        ------
        InputError
            Images come out of the transform in different shapes, or it can't be sent to a worker.
        RuntimeError
            Another iterator of this loader is still in use.
        """
        check_integer(batch_size=batch_size)
        if self._flow is not None and not self._finalizer.alive:
            raise RuntimeError("the loader is closed")
        if self._busy:
            raise RuntimeError("this loader's last batches() is still in use; finish or close it first")
        self._busy = True
        outcomes = self._here(rows) if self._flow is None else self._flow.outcomes(rows, batch_size)
        try:
            for start in range(0, len(rows), batch_size):
                yield self._collect(rows[start : start + batch_size], outcomes)
        finally:
            outcomes.close()
            self._busy = False

    def _collect(self, rows: Sequence[int], outcomes: Iterator[np.ndarray[Any, Any] | str]) -> ImageBatch:
        usable: list[int] = []
        skipped: list[tuple[int, str]] = []
        images: np.ndarray[Any, Any] | None = None
        for row in rows:
            outcome = next(outcomes)
            if isinstance(outcome, str):
                skipped.append((int(row), outcome))
                continue
            self._check_shape(int(row), outcome)
            if images is None:
                images = np.empty((len(rows), *outcome.shape), outcome.dtype)
            images[len(usable)] = outcome
            usable.append(int(row))
        if images is None:
            images = (
                np.empty((0,), np.uint8)
                if self._spec is None
                else np.empty((0, *self._spec.shape), self._spec.dtype)
            )
        return ImageBatch(np.array(usable, dtype=np.int64), images[: len(usable)], skipped)

    def _check_shape(self, row: int, image: np.ndarray[Any, Any]) -> None:
        if self._spec is None:
            self._spec = SlotShape(image.shape, image.dtype.str)
        elif (image.shape, image.dtype.str) != (self._spec.shape, self._spec.dtype):
            raise InputError(
                f"the transform made {image.shape} {image.dtype} of row {row}, but {self._spec.shape} "
                f"{self._spec.dtype} of others; it must give all images one shape"
            )

    def _here(self, rows: Sequence[int]) -> Generator[np.ndarray[Any, Any] | str, None, None]:
        for row in rows:
            try:
                locator = self._source.locate(int(row))
            except UnusableImage as found:
                yield str(found)
            else:
                yield self._recipe.prepare(locator)


def count_workers(n_workers: int | None, n_images: int) -> int:
    """Return how many processes decode ``n_images``, when ``n_workers`` of them are asked for.

    By default there is one for each core that this process may use, at most 32. There are never more than
    four per core, nor more than images.

    Raises
    ------
    InputError
        ``n_workers`` is negative.
    """
    if n_workers is not None:
        check_integer(0, n_workers=n_workers)
    wanted = min(cpu_count(), _MOST_WORKERS) if n_workers is None else n_workers
    return min(wanted, _WORKERS_PER_CORE * cpu_count(), max(1, n_images))


def _shut_down(pool: WorkerPool, owner: int) -> None:
    if os.getpid() == owner:  # in a fork of the loader's process the workers aren't ours
        pool.close()
