"""The feature store: vectors of images on disk, as they were extracted."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError
from kinfold.features._layout import (
    FORMAT,
    INDEX_NAME,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    NEIGHBORS_NAME,
    OK,
    SKIPPED,
    StoreManifest,
    shard_path,
)
from kinfold.features.base import SKIPPED_SCHEMA, Features
from kinfold.features.matrix import ShardedMatrix
from kinfold.storage import hash_file, hash_json, read_json


class FeatureStore(Features):
    """A folder of features: memory-mapped shards, an index of rows and keys, a manifest.

    Open one with :meth:`open`; :func:`~kinfold.features.extract_features` writes them. The format is
    described in ``docs/formats.md``.

    Attributes
    ----------
    manifest : StoreManifest
        Source, backbone, batch size, variants and hashes.
    """

    def __init__(self, path: Path, manifest: StoreManifest) -> None:
        self.path = path
        self.manifest = manifest
        self.variants = tuple(manifest.variants)
        self.source_uri = manifest.source["uri"]
        self.neighbors_path = path / NEIGHBORS_NAME

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a finished feature store.

        Shards are checked by their size, which is quick; :meth:`verify` reads everything.

        Raises
        ------
        FormatError
            The folder is no feature store, unfinished, of a newer format, or damaged; the message names the
            file.
        """
        path = Path(path)
        manifest = StoreManifest.read(path)
        if not manifest.complete:
            raise FormatError(f"{path} is an unfinished feature store; run the extraction again to finish it")
        store = cls(path, manifest)
        store._check_files()
        return store

    @property
    def n_rows(self) -> int:
        """Rows of the source, skipped ones counted."""
        return self.manifest.n_rows

    @property
    def backbone(self) -> dict[str, Any]:
        """What the backbone said of itself: card, preprocessing, precision, device."""
        return self.manifest.backbone

    @cached_property
    def _index(self) -> Any:
        file = self.path / INDEX_NAME
        try:
            table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise FormatError(f"{file} is damaged: {error}") from error
        if table.schema.remove_metadata() != INDEX_SCHEMA or table.num_rows != self.n_rows:
            raise FormatError(f"{file} is damaged: it does not list the {self.n_rows} rows of the manifest")
        return table

    @cached_property
    def keys(self) -> Any:
        """Key of every row of the source."""
        keys = self._index.column("key").combine_chunks()
        return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row number of every line of :meth:`matrix`, ascending."""
        usable = pc.equal(self._index.column("status"), OK)
        rows: NDArray[np.int64] = self._index.column("row").filter(usable).to_numpy()
        return rows

    @cached_property
    def skipped(self) -> Any:
        """Rows that could not be used: row, key, reason."""
        table = self._index.filter(pc.equal(self._index.column("status"), SKIPPED))
        return table.select(SKIPPED_SCHEMA.names).cast(SKIPPED_SCHEMA).combine_chunks()

    def matrix(self, variant: str | None = None) -> ShardedMatrix:
        """Return the vectors of the usable rows; shards are memory-mapped when they are read."""
        name = self.choose_variant(variant)
        record = self.manifest.variants[name]
        paths = [shard_path(self.path, name, number) for number in range(len(record.shards))]
        return ShardedMatrix(paths, [shard.rows for shard in record.shards], record.dim, record.dtype)

    def fingerprint(self, variant: str | None = None) -> str:
        """Return the SHA-256 over the recorded hashes of a variant's shards and of the index."""
        record = self.manifest.variants[self.choose_variant(variant)]
        shards = [[shard.rows, shard.sha256] for shard in record.shards]
        return hash_json([record.dim, record.dtype, shards, self.manifest.index_sha256])

    def verify(self) -> None:
        """Read every file and compare it with its recorded hash.

        Raises
        ------
        FormatError
            A file is missing or is not what was written; the message names it.
        """
        self._check_files()
        for name, record in self.manifest.variants.items():
            for number, shard in enumerate(record.shards):
                _compare(shard_path(self.path, name, number), shard.sha256)
        _compare(self.path / INDEX_NAME, str(self.manifest.index_sha256))

    def _check_files(self) -> None:
        if not (self.path / INDEX_NAME).is_file():
            raise FormatError(f"{self.path / INDEX_NAME} is missing")
        for name, record in self.manifest.variants.items():
            for number, shard in enumerate(record.shards):
                check_size(shard_path(self.path, name, number), shard.bytes)
            if sum(shard.rows for shard in record.shards) != self.manifest.n_usable:
                file = self.path / MANIFEST_NAME
                raise FormatError(f"{file} is damaged: the rows of {name!r} don't add up")


def is_feature_store(path: Path) -> bool:
    """Tell whether a folder is a feature store, finished or not."""
    file = path / MANIFEST_NAME
    try:
        facts = read_json(file) if file.is_file() else None
    except (FormatError, OSError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def check_size(file: Path, size: int) -> None:
    """Raise :class:`FormatError` if a file is missing or not ``size`` bytes long."""
    try:
        found = file.stat().st_size
    except FileNotFoundError as error:
        raise FormatError(f"{file} is missing") from error
    if found != size:
        raise FormatError(f"{file} is damaged: it has {found:,} bytes, not {size:,}")


def _compare(file: Path, sha256: str) -> None:
    if hash_file(file) != sha256:
        raise FormatError(f"{file} is damaged: its content does not match its hash")
