"""Original images and thumbnails, with a cache of thumbnails beside the run."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import tempfile
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kinfold.errors import KinfoldError
from kinfold.gallery.explore._errors import NotFoundError
from kinfold.images import ImageSource, Thumbnail, ThumbnailMaker, UnusableImage, describe_image
from kinfold.run import Run

_log = logging.getLogger(__name__)

CACHE_NAME = "thumbnails.sqlite"
FORMAT_VERSION = 1  # part of the cache's base: raise it when thumbnails are made in another way


_BATCH = 64  # thumbnails of one transaction: readers see them soon, and room is made in small steps
_PAGE = 4096  # bytes of a page of SQLite; the last page of a thumbnail is filled in part
_PAUSE_SECONDS = 0.3  # between two writes, so that thumbnails made meanwhile share a transaction
_TRIMMED = 0.9  # of the limit: old thumbnails are removed down to this, not one by one
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS thumbnails (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS uses (id INTEGER PRIMARY KEY, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS oldest ON uses (used);
"""


SIDES = (128, 256)
LARGE_SIDE = 3072
"""Originals in formats that browsers don't show are re-encoded within a square of this side in pixels."""

_READERS = 4  # threads that read the cache; a page asks for many thumbnails at once
_REFUSED_SECONDS = 20.0  # before an unreadable image is tried again
_MOST_REFUSED = 10_000  # reasons kept in memory


class Originals:
    """The images that a run was made from, as far as they still exist.

    A thread lists them, because that takes a while for a large folder, and the page can start without.

    Parameters
    ----------
    run : Run
        The run.
    images : ImageSource or path, optional
        The images, or where they are now, if they were moved.
    """

    def __init__(self, run: Run, images: ImageSource | str | Path | None = None) -> None:
        self._run = run
        self._opened: Future[ImageSource | None] = Future()
        self.trouble = ""
        if isinstance(images, ImageSource):
            self._opened.set_result(images)
        elif images is None and run.manifest.source.get("images") is None:
            self.trouble = "this run was made from ready features: it has no images"
            self._opened.set_result(None)
        else:
            threading.Thread(target=self._open, args=(images,), name="kinfold-listing", daemon=True).start()

    @property
    def are_there(self) -> bool:
        """Tell whether there are images to show; True until the source is listed."""
        return not self._opened.done() or self._opened.result() is not None

    def source(self) -> ImageSource:
        """Return the source, once it is listed; :class:`NotFoundError` if it can't be opened."""
        source = self._opened.result()
        if source is None:
            raise NotFoundError(self.trouble)
        return source

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row; :class:`NotFoundError` with the reason if it can't be read."""
        try:
            return self.source().read(row)
        except UnusableImage as error:
            raise NotFoundError(str(error)) from error

    def describe(self, row: int) -> dict[str, Any]:
        """Return facts of an image's file; ``missing`` holds the reason where it can't be read."""
        facts: dict[str, Any] = {
            "path": None,
            "width": None,
            "height": None,
            "n_bytes": None,
            "format": None,
            "metadata": {},
            "missing": None,
        }
        try:
            source = self.source()
            path = source.path(row)
            facts["path"] = str(path) if path is not None else None
            data = source.read(row)
            facts["n_bytes"] = len(data)
            found = describe_image(data)
        except (UnusableImage, NotFoundError) as error:
            return {**facts, "missing": str(error)}
        return {
            **facts,
            "width": found.width,
            "height": found.height,
            "format": found.format,
            "metadata": dict(found.metadata),
        }

    def _open(self, images: str | Path | None) -> None:
        try:
            source = self._run.images(images)
        except (KinfoldError, OSError) as error:
            self.trouble, source = str(error), None
            _log.warning("no pictures: %s", error)
        self._opened.set_result(source)


class ThumbnailCache:
    """Cache of thumbnails by row and side, in one SQLite file. All threads may share one.

    The least recently used thumbnails are removed first. Reading never waits for writing: a thread writes.
    Errors of reading and writing only mean that a thumbnail is made again, so the file may be lost at any
    time.

    Parameters
    ----------
    folder : Path or None
        Where ``thumbnails.sqlite`` is kept. For None, or a folder without write permission, it is a temporary
        file that is removed with the cache.
    base : str
        Identifier of the images; thumbnails of others are removed.
    limit : int
        Largest size of the file in bytes.

    Raises
    ------
    sqlite3.Error
        The file can't be created in the folder.
    """

    def __init__(self, folder: Path | None, base: str, limit: int) -> None:
        self._limit = limit
        self._base = f"{FORMAT_VERSION}:{base}"
        self._home: tempfile.TemporaryDirectory[str] | None = None
        if folder is None or not os.access(folder, os.W_OK):
            self._home = tempfile.TemporaryDirectory(prefix="kinfold-thumbnails-")
            folder = Path(self._home.name)
        self.path = folder / CACHE_NAME
        self._local = threading.local()
        self._guard = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._fresh: dict[int, bytes] = {}
        self._used: set[int] = set()
        self._queue: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closed = False
        self._prepare()
        self._writer = threading.Thread(target=self._write, name="kinfold-thumbnail-cache", daemon=True)
        self._writer.start()

    def get(self, row: int, side: int) -> bytes | None:
        """Return a thumbnail; None where it isn't kept."""
        number = _thumbnail_id(row, side)
        with self._guard:
            fresh = self._fresh.get(number)
        if fresh is not None:
            return fresh
        try:
            found = self._connect().execute("SELECT data FROM thumbnails WHERE id = ?", (number,)).fetchone()
        except sqlite3.Error as error:
            _log.warning("%s can't be read: %s", self.path, error)
            return None
        if found is None:
            return None
        with self._guard:
            self._used.add(number)
        return bytes(found[0])

    def put(self, row: int, side: int, data: bytes) -> None:
        """Keep a thumbnail; it can be read at once, and is written to disk a little later."""
        with self._guard:
            if self._closed:
                return
            first = not self._fresh
            self._fresh[_thumbnail_id(row, side)] = data
        if first:
            self._queue.put(True)

    def close(self) -> None:
        """Write pending thumbnails, and close the file."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        self._queue.put(False)
        self._writer.join(10)
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        if self._home is not None:
            self._home.cleanup()

    def _prepare(self) -> None:
        """Open the file; a damaged one is replaced, and thumbnails of other images are removed."""
        for attempt in range(2):
            try:
                connection = self._connect()
                connection.executescript(_TABLES)
                found = connection.execute("SELECT value FROM meta WHERE name = 'base'").fetchone()
                if found is None or found[0] != self._base:
                    with connection:
                        connection.execute("DELETE FROM thumbnails")
                        connection.execute("DELETE FROM uses")
                        connection.execute("INSERT OR REPLACE INTO meta VALUES ('base', ?)", (self._base,))
                self._make_room(connection)
                return
            except sqlite3.DatabaseError as error:
                if attempt or isinstance(
                    error, sqlite3.OperationalError
                ):  # locked or disk full: the file isn't damaged
                    raise
                _log.warning("%s is damaged and is made again: %s", self.path, error)
                self._forget_file()

    def _forget_file(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()
        for ending in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
            for pragma in (
                "auto_vacuum=INCREMENTAL",
                "journal_mode=WAL",
                "synchronous=OFF",
                "cache_size=-2000",
            ):
                connection.execute(f"PRAGMA {pragma}")
            self._local.connection = connection
            with self._guard:
                self._connections.append(connection)
        return connection

    def _write(self) -> None:
        going = True
        while going:
            going = self._queue.get()
            if going:
                time.sleep(_PAUSE_SECONDS)
            with self._guard:
                fresh, used = dict(self._fresh), list(self._used)
                self._used.clear()
            try:
                self._store(fresh, used)
            except sqlite3.Error as error:
                _log.warning("%s can't be written: %s", self.path, error)
            with self._guard:
                for number in fresh:
                    self._fresh.pop(number, None)
                if self._fresh:
                    self._queue.put(True)

    def _store(self, fresh: dict[int, bytes], used: list[int]) -> None:
        connection, now = self._connect(), time.time_ns()
        with connection:
            connection.executemany("UPDATE uses SET used = ? WHERE id = ?", ((now, one) for one in used))
        items = list(fresh.items())
        for start in range(0, len(items), _BATCH):
            some = items[start : start + _BATCH]
            self._make_room(connection, sum(len(data) + _PAGE for _, data in some))
            with connection:
                connection.executemany("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", some)
                uses = ((one, now) for one, _ in some)
                connection.executemany("INSERT OR REPLACE INTO uses VALUES (?, ?)", uses)

    def _make_room(self, connection: sqlite3.Connection, needed: int = 0) -> None:
        """Remove the least recently used thumbnails until ``needed`` more bytes fit into the limit."""
        while (size := self._size(connection) + needed) > self._limit:
            (count,) = connection.execute("SELECT count(*) FROM uses").fetchone()
            number = max(1, int(count * (1 - _TRIMMED * self._limit / size)))
            with connection:
                gone = connection.execute(
                    "SELECT id FROM uses ORDER BY used, id LIMIT ?", (number,)
                ).fetchall()
                if not gone:
                    return
                connection.executemany("DELETE FROM thumbnails WHERE id = ?", gone)
                connection.executemany("DELETE FROM uses WHERE id = ?", gone)
            connection.executescript(
                "PRAGMA incremental_vacuum"
            )  # execute() would stop after freeing one page

    @staticmethod
    def _size(connection: sqlite3.Connection) -> int:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def _thumbnail_id(row: int, side: int) -> int:
    return row * 2 + (side > 128)


class Thumbnails:
    """Thumbnails for the page: from the cache, or made by worker processes.

    Parameters
    ----------
    originals : Originals
        The images.
    folder : Path or None
        Folder of the cache; None keeps thumbnails only while the server runs.
    base : str
        Identifier of the images.
    limit : int
        Largest size of the cache in bytes.
    n_workers : int, optional
        Number of processes that make them.
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
        """Return a thumbnail as WebP; cancelling the call removes it from the queue.

        Raises
        ------
        NotFoundError
            The image can't be read; the message is the reason.
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
        """Return an original re-encoded as WebP, which isn't cached; raises as :meth:`get` does."""
        await self._open()
        return await self._make(row, LARGE_SIDE)

    def close(self) -> None:
        """Stop the processes and close the cache."""
        self._readers.shutdown(wait=False, cancel_futures=True)  # one may still be listing a large folder
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
        """Open cache and workers once, in a thread: listing the source would block the event loop."""
        if self._maker is not None:
            return
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening = loop.run_in_executor(self._readers, self._open_now)
        opening = self._opening
        try:
            # a client that goes away must not cancel what the others wait for too
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
