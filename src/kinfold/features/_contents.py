"""Hashes of image files, by which vectors are kept when files are touched, moved, added or removed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.features._writing import write_contents
from kinfold.features.store import CONTENTS_NAME, FeatureStore, ShardRecord, StoreManifest, shard_path
from kinfold.images import ImageSource, UnusableImage

logger = logging.getLogger(__name__)

_THREADS = 4  # hashing lets other threads run, and reading waits for the disk
_DIGEST_BYTES = 16  # 2^64 files until two different ones are likely to share a hash
# Of whole sources, which one command asks for several times; like a source's fingerprint, taken once.
_KNOWN: WeakKeyDictionary[ImageSource, list[bytes | None]] = WeakKeyDictionary()
_PIECE = 256  # files that are handed to the threads together


class FileHasher:
    """Hashes the files of a source beside other work; a source of another kind has no hashes.

    Parameters
    ----------
    source : ImageSource
        Where the images are.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        # What lies in an archive or a table changes with it, and can't be read by several threads.
        self._has_files = any(source.path(row) is not None for row in range(min(len(source), 100)))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kinfold-hash")

    def __enter__(self) -> FileHasher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def begin(self, rows: Sequence[int]) -> Callable[[], list[bytes | None]]:
        """Start with some rows; what is returned waits for their hashes, None for what can't be read."""
        if not self._has_files:
            return lambda: [None] * len(rows)
        pieces = [rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE)]
        waiting = [self._threads.submit(self._hash_rows, piece) for piece in pieces]
        return lambda: [content for future in waiting for content in future.result()]

    def _hash_rows(self, rows: Iterable[int]) -> list[bytes | None]:
        return [self._hash(row) for row in rows]

    def _hash(self, row: int) -> bytes | None:
        source = self._source
        if source.path(row) is None:
            return None
        try:
            data = source.reader().read(source.locate(row))
        except (UnusableImage, MemoryError):
            return None
        return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def hash_files(source: ImageSource) -> list[bytes | None]:
    """Return a hash of the content of every row's file; None where there is no file, or none to be read."""
    if source not in _KNOWN:
        with FileHasher(source) as hasher:
            _KNOWN[source] = hasher.begin(range(len(source)))()
    return _KNOWN[source]


def mend_contents(store: FeatureStore, source: ImageSource) -> None:
    """Write the hashes of the image files anew where they are damaged or gone: the vectors are whole."""
    if store.manifest.contents_sha256 is None or store.contents() is not None:
        return
    if os.access(store.path, os.W_OK):  # they only spare work, and others can do without
        logger.warning("%s is damaged or missing; it is written anew", store.path / CONTENTS_NAME)
        store.manifest.contents_sha256 = write_contents(store.path, pa.array(hash_files(source), pa.binary()))
        store.manifest.write(store.path)


@dataclass(frozen=True)
class Known:
    """What a store of the same images, before some of their files changed, tells of them now.

    Attributes
    ----------
    store : FeatureStore
        The store.
    contents : list of bytes or None
        Hash of every row's file in the source as it is now.
    lines : NDArray of int64
        For every row of the source its line in the store's matrices; −1 where it must be embedded.
    unchanged : bool
        Whether all rows, keys and contents are those of the store.
    reasons : mapping of int to str
        Rows without a line that can't be used, as is known already.
    """

    store: FeatureStore
    contents: list[bytes | None]
    lines: NDArray[np.int64]
    unchanged: bool
    reasons: Mapping[int, str] = field(default_factory=dict)

    @property
    def new(self) -> NDArray[np.bool_]:
        """Whether each row must be embedded."""
        found = self.lines < 0
        found[list(self.reasons)] = False
        return found

    def find_shard(self, number: int, lines: NDArray[np.int64]) -> dict[str, tuple[Path, ShardRecord]]:
        """Return the files of a shard of the store, where it holds just these lines."""
        found = {}
        for name, variant in self.store.manifest.variants.items():
            start = sum(shard.rows for shard in variant.shards[:number])
            shard = variant.shards[number] if number < len(variant.shards) else None
            if shard is None or not len(lines) or variant.dtype != "float32":
                continue
            if np.array_equal(lines, np.arange(start, start + shard.rows)):
                found[name] = (shard_path(self.store.path, name, number), shard)
        return found

    @classmethod
    def of_rows(
        cls,
        store: FeatureStore,
        kept: NDArray[np.int64],
        contents: list[bytes | None],
        gone: Mapping[int, str],
    ) -> Known:
        """Return what a store knows of rows that continue its own.

        Parameters
        ----------
        store : FeatureStore
            The store.
        kept : ndarray (N,) int64
            For every row the row of the store that it continues; −1 for a new one, which gets the vector of a
            file of the same content where there is one.
        contents : list of bytes or None
            Hash of every row's file.
        gone : mapping of int to str
            Rows that have no vector any more, each with the reason.
        """
        own = np.full(store.n_rows, -1, np.int64)
        own[store.rows] = np.arange(len(store.rows))
        ready = store.contents()
        before = [] if ready is None else ready.to_pylist()
        line_of: dict[bytes | None, int] = {}
        for line, row in enumerate(store.rows.tolist()):
            if before:
                line_of.setdefault(before[row], line)
        lines = np.where(kept >= 0, own[kept], -1)
        skipped = store.skipped
        known = dict(zip(skipped["row"].to_pylist(), skipped["reason"].to_pylist(), strict=True))
        reasons = dict(gone)
        for row in np.flatnonzero(lines < 0).tolist():
            former = int(kept[row])
            if row in reasons:
                continue
            if former in known:
                reasons[row] = known[former]
            elif contents[row] is not None:
                lines[row] = line_of.get(contents[row], -1)
        lines[list(gone)] = -1
        return cls(store, contents, lines, unchanged=False, reasons=reasons)


def find_known(store: FeatureStore, wanted: StoreManifest, source: ImageSource) -> Known | None:
    """Return what a store knows of a source; None if that is nothing, or it was made in another way."""
    there = store.manifest
    same_making = there.backbone_fingerprint == wanted.backbone_fingerprint and (
        set(there.variants) == set(wanted.variants)
    )
    if not same_making or (before := store.contents()) is None:
        return None
    contents, ready = hash_files(source), before.to_pylist()
    line_of: dict[bytes, int] = {}
    for line, row in enumerate(store.rows.tolist()):
        if (content := ready[row]) is not None:
            line_of.setdefault(content, line)
    lines = np.array([line_of.get(content, -1) if content else -1 for content in contents], np.int64)
    same = contents == ready and store.keys.to_pylist() == list(source.keys)
    return Known(store, contents, lines, same) if same or (lines >= 0).any() else None
