"""Write a feature store: shards and their parts of the index first, the manifest last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError
from kinfold.features.store import (
    CONTENTS_NAME,
    CONTENTS_SCHEMA,
    INDEX_NAME,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    NEIGHBORS_NAME,
    OK,
    RENEWED_NAME,
    SKIPPED,
    UNFINISHED_NAME,
    VARIANTS_NAME,
    ShardRecord,
    StoreManifest,
    check_size,
    shard_path,
)
from kinfold.paths import arrow_path
from kinfold.rows import unusable_in_block
from kinfold.storage import atomic_file, hash_file, remove_partials, sync_folder, write_array

_SHARDS_FIELD = b"shards"  # in the metadata of a part of the index: the part then proves its shards
_PART_SCHEMA = pa.schema([*INDEX_SCHEMA, *CONTENTS_SCHEMA])


class ShardBuffer:
    """Vectors and skipped rows of one shard, a range of source rows, until it is written."""

    def __init__(self, start: int, stop: int, variants: Sequence[str]) -> None:
        self.start, self.stop, self.variants = start, stop, tuple(variants)
        self.rows: list[int] = []
        self.reasons: dict[int, str] = {}
        self._blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in variants}

    def add(self, rows: NDArray[np.int64], blocks: dict[str, NDArray[Any]]) -> None:
        """Take the vectors of a batch; rows that are all zero or not finite in any variant are skipped."""
        # Row for row the variants must stand side by side, so a row is out for all if it is for one.
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

    def insert(self, rows: NDArray[np.int64], blocks: dict[str, NDArray[Any]]) -> None:
        """Take vectors that are known already, and bring all in the order of their rows."""
        everything = np.concatenate([np.array(self.rows, np.int64), rows])
        order = np.argsort(everything, kind="stable")
        self.rows = everything[order].tolist()
        for name, block in blocks.items():
            self._blocks[name] = [np.concatenate([*self._blocks[name], block])[order]]

    def matrix(self, variant: str, dim: int) -> NDArray[np.float32]:
        """Return the vectors of a variant, one per usable row."""
        # With an empty block in front, as a shard may have no usable row.
        return np.concatenate([np.empty((0, dim), np.float32), *self._blocks[variant]])

    def index(self, keys: Sequence[str], contents: Sequence[bytes | None]) -> Any:
        """Return this shard's part of the index, with the hashes of its image files."""
        rows = range(self.start, self.stop)
        reasons = [self.reasons.get(row) for row in rows]
        status = [OK if reason is None else SKIPPED for reason in reasons]
        columns = [list(rows), [keys[row] for row in rows], status, reasons, list(contents)]
        return pa.table(columns, schema=_PART_SCHEMA)


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
        self.manifest.write(self.path)  # first, so that a killed process leaves a store and no stray files
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

    def write_shard(
        self,
        number: int,
        buffer: ShardBuffer,
        keys: Sequence[str],
        contents: Sequence[bytes | None],
        same: Mapping[str, tuple[Path, ShardRecord]] = MappingProxyType({}),
    ) -> None:
        """Write a shard's matrices, then its part of the index.

        ``same`` has files of another store that hold just these vectors: they are linked where that goes.
        """
        records = {}
        for name, variant in self.manifest.variants.items():
            file = shard_path(self.path, name, number)
            if name in same and _link(same[name][0], file):
                records[name] = asdict(same[name][1])
                continue
            matrix = buffer.matrix(name, variant.dim)
            with atomic_file(file) as partial, partial.open("wb") as stream:
                write_array(stream, matrix)
            records[name] = asdict(ShardRecord(len(matrix), file.stat().st_size, hash_file(file)))
        # Last, since its existence says that the shard is done.
        table = buffer.index(keys, contents).replace_schema_metadata({_SHARDS_FIELD: json.dumps(records)})
        with atomic_file(self._part(number)) as partial:
            pq.write_table(table, arrow_path(partial, "wb"))

    def finish(self) -> None:
        """Put the index together and complete the manifest."""
        numbers = range(self.manifest.n_shards())
        index = self.path / INDEX_NAME
        with (
            atomic_file(index) as partial,
            pq.ParquetWriter(arrow_path(partial, "wb"), INDEX_SCHEMA) as writer,
        ):
            for number in numbers:
                writer.write_table(self._read_part(number).select(INDEX_SCHEMA.names))
        self._write_contents(numbers)
        for number in numbers:
            for name, record in self._records(number).items():
                self.manifest.variants[name].shards.append(record)
        shards = next(iter(self.manifest.variants.values())).shards
        self.manifest.n_usable = sum(shard.rows for shard in shards)
        self.manifest.index_sha256 = hash_file(index)
        self.manifest.complete = True
        self.manifest.write(self.path)
        self.remove_leftovers()

    def _write_contents(self, numbers: range) -> None:
        """Put the hashes of the image files together, where there are any."""
        parts = [self._read_part(number) for number in numbers]
        # Parts that an older version left have none; their images are embedded again once the folder changes.
        known = [part["content"] for part in parts if "content" in part.column_names]
        if len(known) < len(parts) or all(column.null_count == len(column) for column in known):
            return
        self.manifest.contents_sha256 = write_contents(
            self.path, pa.chunked_array([chunk for column in known for chunk in column.chunks], pa.binary())
        )

    def remove_leftovers(self) -> None:
        """Remove the parts of a store that is complete, and one that was to take its place."""
        for folder in (self._parts, self.path / RENEWED_NAME):
            shutil.rmtree(folder, ignore_errors=True)

    def reasons(self) -> dict[str, int]:
        """Return how often each reason stands in the parts written so far."""
        counts: dict[str, int] = {}
        for number in range(self.manifest.n_shards()):
            for reason in self._read_part(number).column("reason").to_pylist():
                if reason is not None:
                    head = str(reason).split(":")[0]
                    counts[head] = counts.get(head, 0) + 1
        return counts

    def first_reason(self) -> tuple[str, str]:
        """Return key and whole reason of the first row that can't be used."""
        for number in range(self.manifest.n_shards()):
            part = self._read_part(number).select(["key", "reason"])
            for key, reason in zip(*(column.to_pylist() for column in part.columns), strict=True):
                if reason is not None:
                    return str(key), str(reason)
        return "", ""

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
        return pq.read_table(arrow_path(self._part(number))).replace_schema_metadata(None)

    def _records(self, number: int) -> dict[str, ShardRecord]:
        file = self._part(number)
        try:
            metadata = pq.read_schema(arrow_path(file)).metadata or {}
            found = {
                name: ShardRecord(**entry) for name, entry in json.loads(metadata[_SHARDS_FIELD]).items()
            }
            if found.keys() != self.manifest.variants.keys():
                raise ValueError("it is of other variants")
            return found
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{file} is damaged: {error}") from error


def _link(source: Path, target: Path) -> bool:
    """Make a file known under a second name; tell whether the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        return False
    sync_folder(target.parent)
    return True


def write_contents(path: Path, contents: Any) -> str:
    """Write the hashes of the image files of the store at ``path``, and return the hash of that file."""
    file = path / CONTENTS_NAME
    with atomic_file(file) as partial:
        pq.write_table(pa.table([contents], schema=CONTENTS_SCHEMA), arrow_path(partial, "wb"))
    return hash_file(file)


def clear_store(path: Path) -> None:
    """Remove the files of a store, and nothing else; the manifest goes last."""
    # While the manifest is there, what a killed process leaves is known to be a store and can be cleared.
    for name in (RENEWED_NAME, UNFINISHED_NAME, VARIANTS_NAME, NEIGHBORS_NAME):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in (CONTENTS_NAME, INDEX_NAME):
        (path / name).unlink(missing_ok=True)
    (path / MANIFEST_NAME).unlink(missing_ok=True)
