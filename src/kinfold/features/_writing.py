"""Writing a feature store shard by shard, so that it can be gone on with after any interruption."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError
from kinfold.features._layout import (
    INDEX_NAME,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    NEIGHBORS_NAME,
    OK,
    SKIPPED,
    UNFINISHED_NAME,
    VARIANTS_NAME,
    ShardRecord,
    StoreManifest,
    shard_path,
)
from kinfold.features.matrix import unusable_in_block
from kinfold.features.store import check_size
from kinfold.storage import atomic_file, hash_file, remove_partials, write_array

_SHARDS_FIELD = b"shards"
_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_RIGHTS = (errno.EROFS, errno.EACCES, errno.EPERM)


class ShardBuffer:
    """What is known so far of one shard: a range of source rows."""

    def __init__(self, start: int, stop: int, variants: Sequence[str]) -> None:
        self.start, self.stop, self.variants = start, stop, tuple(variants)
        self.rows: list[int] = []
        self.reasons: dict[int, str] = {}
        self._blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in variants}

    def add(self, rows: NDArray[np.int64], blocks: dict[str, NDArray[Any]]) -> None:
        """Take the vectors of a batch; rows that any variant gives no direction are skipped."""
        unusable: dict[int, str] = {}
        for block in blocks.values():
            unusable = {**unusable_in_block(block), **unusable}
        usable = np.ones(len(rows), dtype=bool)
        usable[list(unusable)] = False
        self.reasons.update({int(rows[line]): reason for line, reason in unusable.items()})
        self.rows += rows[usable].tolist()
        for name, block in blocks.items():
            self._blocks[name].append(np.ascontiguousarray(block[usable], dtype=np.float32))

    def skip(self, skipped: Sequence[tuple[int, str]]) -> None:
        """Take rows that the loader could not use."""
        self.reasons.update(skipped)

    def matrix(self, variant: str, dim: int) -> NDArray[np.float32]:
        """Return the vectors of a variant, one per usable row."""
        return np.concatenate([np.empty((0, dim), np.float32), *self._blocks[variant]])

    def index(self, keys: Sequence[str]) -> Any:
        """Return this shard's part of the index."""
        rows = range(self.start, self.stop)
        reasons = [self.reasons.get(row) for row in rows]
        status = [OK if reason is None else SKIPPED for reason in reasons]
        return pa.table([list(rows), [keys[row] for row in rows], status, reasons], schema=INDEX_SCHEMA)


class StoreWriter:
    """Writes the files of one store.

    A shard is done when its part of the index exists, which is written after its matrices and holds their
    hashes. When all are done, the parts become the index and the manifest is completed.

    Parameters
    ----------
    path : Path
        The store.
    manifest : StoreManifest
        What is being written; not complete yet.
    """

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._parts = path / UNFINISHED_NAME

    def begin(self) -> None:
        """Clear what another extraction left, and write the manifest of the unfinished store first."""
        clear_store(self.path)
        self.manifest.write(self.path)
        self._parts.mkdir(parents=True, exist_ok=True)

    def remove_partials(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (
            self.path,
            self._parts,
            *(self.path / VARIANTS_NAME / name for name in self.manifest.variants),
        ):
            remove_partials(folder)

    def first_missing(self) -> int:
        """Return the first shard that isn't there in full; the number of shards if all are."""
        n_shards = self.manifest.n_shards()
        return next((number for number in range(n_shards) if not self._is_done(number)), n_shards)

    def write_shard(self, number: int, buffer: ShardBuffer, keys: Sequence[str]) -> None:
        """Write a shard's matrices, then its part of the index."""
        records = {}
        for name, variant in self.manifest.variants.items():
            matrix = buffer.matrix(name, variant.dim)
            file = shard_path(self.path, name, number)
            with atomic_file(file) as partial, partial.open("wb") as stream:
                write_array(stream, matrix)
            records[name] = asdict(ShardRecord(len(matrix), file.stat().st_size, hash_file(file)))
        table = buffer.index(keys).replace_schema_metadata({_SHARDS_FIELD: json.dumps(records)})
        with atomic_file(self._part(number)) as partial:
            pq.write_table(table, partial)

    def finish(self) -> None:
        """Put the index together and complete the manifest."""
        numbers = range(self.manifest.n_shards())
        index = self.path / INDEX_NAME
        with atomic_file(index) as partial, pq.ParquetWriter(partial, INDEX_SCHEMA) as writer:
            for number in numbers:
                writer.write_table(self._read_part(number))
        for number in numbers:
            for name, record in self._records(number).items():
                self.manifest.variants[name].shards.append(record)
        shards = next(iter(self.manifest.variants.values())).shards
        self.manifest.n_usable = sum(shard.rows for shard in shards)
        self.manifest.index_sha256 = hash_file(index)
        self.manifest.complete = True
        self.manifest.write(self.path)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove the parts of a store that is complete."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def reasons(self) -> dict[str, int]:
        """Return how often each reason stands in the parts written so far."""
        counts: dict[str, int] = {}
        for number in range(self.manifest.n_shards()):
            for reason in self._read_part(number).column("reason").to_pylist():
                if reason is not None:
                    head = str(reason).split(":")[0]
                    counts[head] = counts.get(head, 0) + 1
        return counts

    def n_usable(self) -> int:
        """Return the usable rows of all shards."""
        first = next(iter(self.manifest.variants))
        return sum(self._records(number)[first].rows for number in range(self.manifest.n_shards()))

    def _is_done(self, number: int) -> bool:
        try:
            for name, shard in self._records(number).items():
                check_size(shard_path(self.path, name, number), shard.bytes)
        except (FormatError, FileNotFoundError):
            return False
        return True

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:05d}.parquet"

    def _read_part(self, number: int) -> Any:
        return pq.read_table(self._part(number)).replace_schema_metadata(None)

    def _records(self, number: int) -> dict[str, ShardRecord]:
        file = self._part(number)
        try:
            metadata = pq.read_schema(file).metadata or {}
            return {name: ShardRecord(**entry) for name, entry in json.loads(metadata[_SHARDS_FIELD]).items()}
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{file} is damaged: {error}") from error


def clear_store(path: Path) -> None:
    """Remove the files of a store, and nothing else; the manifest goes last."""
    for name in (UNFINISHED_NAME, VARIANTS_NAME, NEIGHBORS_NAME):
        shutil.rmtree(path / name, ignore_errors=True)
    (path / INDEX_NAME).unlink(missing_ok=True)
    (path / MANIFEST_NAME).unlink(missing_ok=True)


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Say in plain words that a disk is full or can't be written to."""
    try:
        yield
    except OSError as error:
        if error.errno in _SPACE:
            raise InputError(
                f"the disk is full: features can't be written to {path}. Free some space and run the same "
                "command again; what is done is kept"
            ) from error
        if error.errno in _RIGHTS:
            raise InputError(f"{error.filename or path} can't be written to: {error.strerror}") from error
        raise
