"""Thumbnails for the page: from the cache, or made by worker processes while the page waits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kinfold.gallery.explore._cache import ThumbnailCache
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.gallery.explore._originals import Originals
from kinfold.images import Thumbnail, ThumbnailMaker

_log = logging.getLogger(__name__)

SIDES = (128, 256)
LARGE_SIDE = 3072
"""Originals in formats that browsers don't show are re-encoded to fit into a square of this side."""

_READERS = 4
_REFUSED_SECONDS = 20.0  # so long an image that can't be had isn't tried again
_MOST_REFUSED = 10_000


class Thumbnails:
    """What ``/thumb`` gives.

    Parameters
    ----------
    originals : Originals
        The images.
    folder : Path or None
        Where thumbnails are kept; None keeps them only while the server runs.
    base : str
        Which images these are.
    limit : int
        Bytes that kept thumbnails may take.
    n_workers : int, optional
        Processes that make them.
    """

    def __init__(
        self, originals: Originals, folder: Path | None, base: str, limit: int, n_workers: int | None = None
    ) -> None:
        self._originals = originals
        self._place = (folder, base, limit)
        self._n_workers = n_workers
        self._cache: ThumbnailCache | None = None
        self._maker: ThumbnailMaker | None = None
        self._refused: OrderedDict[tuple[int, int], tuple[float, str]] = OrderedDict()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="kinfold-thumbs")
        self._opening: asyncio.Future[None] | None = None

    async def get(self, row: int, side: int) -> bytes:
        """Return a thumbnail as a WebP file; cancelling the call takes it out of the queue.

        Raises
        ------
        NotFoundError
            The image can't be had; the text is the reason.
        """
        self._check_refused((row, side))
        await self._open()
        assert self._cache is not None
        kept = await asyncio.get_running_loop().run_in_executor(self._readers, self._cache.get, row, side)
        if kept is not None:
            return kept
        made = await self._make(row, side)
        self._cache.put(row, side, made)
        return made

    async def get_large(self, row: int) -> bytes:
        """Return an original re-encoded as WebP; it isn't kept. Raises as :meth:`get` does."""
        await self._open()
        return await self._make(row, LARGE_SIDE)

    def close(self) -> None:
        """End the processes and close the cache."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        if self._maker is not None:
            self._maker.close()
        if self._cache is not None:
            self._cache.close()

    async def _make(self, row: int, side: int) -> bytes:
        assert self._maker is not None
        made: Thumbnail = await asyncio.wrap_future(self._maker.make(row, side))
        if not made.data:
            self._refuse((row, side), made.reason)
            raise NotFoundError(made.reason)
        return made.data

    async def _open(self) -> None:
        """Open cache and workers once, beside the event loop."""
        if self._maker is not None:
            return
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening = loop.run_in_executor(self._readers, self._open_now)
        opening = self._opening
        try:
            await asyncio.shield(opening)
        finally:
            if opening.done() and self._maker is None:
                self._opening = None

    def _open_now(self) -> None:
        source = self._originals.source()
        folder, base, limit = self._place
        try:
            self._cache = ThumbnailCache(folder, base, limit)
        except sqlite3.Error as error:
            _log.warning("thumbnails can't be kept in %s: %s", folder, error)
            self._cache = ThumbnailCache(None, base, limit)
        self._maker = ThumbnailMaker(source, n_workers=self._n_workers)

    def _check_refused(self, name: tuple[int, int]) -> None:
        refused = self._refused.get(name)
        if refused is None:
            return
        if time.monotonic() - refused[0] < _REFUSED_SECONDS:
            raise NotFoundError(refused[1])
        self._refused.pop(name, None)

    def _refuse(self, name: tuple[int, int], reason: str) -> None:
        self._refused[name] = (time.monotonic(), reason)
        while len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)
