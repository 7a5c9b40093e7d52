"""Thumbnails as files, made in worker processes when somebody waits for them: the last asked for first."""

from __future__ import annotations

import io
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinfold.errors import KinfoldError
from kinfold.images._decode import PIXEL_LIMIT, decode_image
from kinfold.images._loader import count_workers
from kinfold.images._pool import WorkerPool
from kinfold.images._source import ImageSource, Locator, Reader, SkipReason, UnusableImage
from kinfold.images._worker import Item, Outcome, Recipe, Task

_log = logging.getLogger(__name__)

_AHEAD = 2  # thumbnails at each worker: one in work, one waiting for it
_QUALITY = 80
_METHOD = 2  # WebP's effort, 0 to 6

Key = tuple[int, int]


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail, or why there is none.

    Attributes
    ----------
    data : bytes
        A WebP file; empty where there is none.
    reason : str
        Why there is none; empty where there is one.
    """

    data: bytes
    reason: str = ""


@dataclass(frozen=True)
class ThumbnailRecipe(Recipe):
    """How bytes become a thumbnail; a locator comes with the side that is wanted."""

    def prepare(self, locator: Locator) -> NDArray[np.uint8] | str:
        """Return the bytes of a WebP file, or the reason why there are none; raises nothing."""
        side, where = locator
        try:
            image = decode_image(self.reader.read(where), min_side=side, pixel_limit=self.pixel_limit)
            image.thumbnail((side, side), Image.Resampling.LANCZOS)
            stream = io.BytesIO()
            image.save(stream, format="WEBP", quality=_QUALITY, method=_METHOD)
        except UnusableImage as found:
            return str(found)
        except MemoryError:
            return str(UnusableImage(SkipReason.UNREADABLE, "there isn't enough memory to read it"))
        except Exception as error:
            return str(UnusableImage(SkipReason.UNREADABLE, f"{type(error).__name__}: {error}"[:200]))
        return np.frombuffer(stream.getvalue(), np.uint8)

    @classmethod
    def of(cls, reader: Reader, pixel_limit: int) -> ThumbnailRecipe:
        """Return the recipe for the images that ``reader`` reads."""
        return cls(reader, np.asarray, None, pixel_limit)


@dataclass
class _Job:
    futures: list[Future[Thumbnail]] = field(default_factory=list)
    begun: bool = False

    @property
    def is_wanted(self) -> bool:
        return any(not future.cancelled() for future in self.futures)


class ThumbnailMaker:
    """Makes thumbnails of a source's images in worker processes, which start with the first one.

    Who scrolls on no longer waits for what was asked before: what was asked for last is made first, and what
    nobody waits for any more (all its futures were cancelled) is not made. The same thumbnail is made once
    however many ask for it at a time.

    Parameters
    ----------
    source : ImageSource
        Where the images are.
    n_workers : int, optional
        Processes; see :func:`count_workers`.
    pixel_limit : int
        Larger images have no thumbnail.
    timeout : float
        Seconds that one image may take.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        n_workers: int | None = None,
        pixel_limit: int = PIXEL_LIMIT,
        timeout: float = 60.0,
    ) -> None:
        self._source = source
        recipe = ThumbnailRecipe.of(source.reader(), pixel_limit)
        self.n_workers = max(1, count_workers(n_workers, len(source)))
        self._pool = WorkerPool(recipe, self.n_workers, niceness=10, timeout=timeout)
        self._guard = threading.Lock()
        self._jobs: dict[Key, _Job] = {}
        self._stack: list[Key] = []
        self._in_work: dict[int, Key] = {}
        self._next = 0
        self._collector: threading.Thread | None = None
        self._closed = False
        self._failure = ""
        self._finalizer = weakref.finalize(self, _shut_down, self._pool, os.getpid())

    def make(self, row: int, side: int) -> Future[Thumbnail]:
        """Ask for the thumbnail of a row that fits into a square of ``side`` pixels.

        Returns
        -------
        Future
            Gives a :class:`Thumbnail`; cancel it when nobody waits for it any more.
        """
        future: Future[Thumbnail] = Future()
        with self._guard:
            if self._closed or self._failure:
                future.set_result(Thumbnail(b"", self._failure or "the server is closing"))
                return future
            job = self._jobs.setdefault((row, side), _Job())
            job.futures.append(future)
            if not job.begun:
                self._stack.append((row, side))
            self._start_collector()
            done = self._feed()
        _finish(done)
        return future

    def close(self) -> None:
        """End the processes; what is waited for has no thumbnail."""
        with self._guard:
            self._closed = True
            waiting = self._take_all("the server is closing")
        self._finalizer()
        self._pool.wake()
        _finish(waiting)
        if self._collector is not None:
            self._collector.join(10)

    def _feed(self) -> list[tuple[_Job, Thumbnail]]:
        """Give workers what they can take; return what needs none of them."""
        done = []
        while self._stack and len(self._in_work) < _AHEAD * self.n_workers:
            key = self._stack.pop()
            job = self._jobs.get(key)
            if job is None or job.begun:
                continue
            if not job.is_wanted:
                del self._jobs[key]
                continue
            try:
                locator = self._source.locate(key[0])
            except UnusableImage as found:
                done.append((self._jobs.pop(key), Thumbnail(b"", str(found))))
                continue
            job.begun = True
            self._in_work[self._next] = key
            self._pool.submit(Task((Item(self._next, (key[1], locator), None),), None))
            self._next += 1
        return done

    def _start_collector(self) -> None:
        if self._collector is None:
            this = weakref.ref(self)  # a maker that nobody closes is closed when it is forgotten
            collect = self._pool.collect
            self._collector = threading.Thread(
                target=_collect, args=(this, collect), name="kinfold-thumbnails", daemon=True
            )
            self._collector.start()

    def _receive(self, found: list[tuple[Item, Outcome]]) -> bool:
        """Hand out what was made; False when that was the last."""
        with self._guard:
            done = []
            for item, outcome in found:
                key = self._in_work.pop(item.number, None)
                job = self._jobs.pop(key, None) if key is not None else None
                if job is not None:
                    done.append((job, _as_thumbnail(outcome)))
            done += self._feed() if not self._closed else []
            closed = self._closed
        _finish(done)
        return not closed

    def _fail(self, reason: str) -> None:
        with self._guard:
            self._failure = reason
            waiting = self._take_all(reason)
        _finish(waiting)

    def _take_all(self, reason: str) -> list[tuple[_Job, Thumbnail]]:
        waiting = [(job, Thumbnail(b"", reason)) for job in self._jobs.values()]
        self._jobs.clear()
        self._stack.clear()
        self._in_work.clear()
        return waiting


def _collect(this: weakref.ref[ThumbnailMaker], collect: Callable[[], list[tuple[Item, Outcome]]]) -> None:
    going = True
    while going:
        try:
            found = collect()
        except KinfoldError as error:
            _log.warning("no thumbnails can be made: %s", error)
            if (maker := this()) is not None:
                maker._fail(str(error))
            return
        maker = this()
        going = maker is not None and maker._receive(found)
        del maker


def _finish(done: list[tuple[_Job, Thumbnail]]) -> None:
    for job, thumbnail in done:
        for future in job.futures:
            if future.set_running_or_notify_cancel():
                future.set_result(thumbnail)


def _as_thumbnail(outcome: Outcome) -> Thumbnail:
    return Thumbnail(b"", outcome) if isinstance(outcome, str) else Thumbnail(outcome.tobytes())


def _shut_down(pool: WorkerPool, owner: int) -> None:
    if os.getpid() == owner:  # in a fork of this process the workers aren't ours
        pool.close()
        pool.wake()
