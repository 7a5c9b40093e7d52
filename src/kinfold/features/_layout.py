"""Where things lie in a feature store, and what its manifest says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold._version import __version__
from kinfold.errors import FormatError
from kinfold.storage import check_format_version, read_json, write_json

FORMAT = "kinfold-features"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
VARIANTS_NAME = "variants"
NEIGHBORS_NAME = "neighbors"
UNFINISHED_NAME = "unfinished"
OK, SKIPPED = "ok", "skipped"
INDEX_SCHEMA = pa.schema(
    [("row", pa.int64()), ("key", pa.string()), ("status", pa.string()), ("reason", pa.string())]
)


@dataclass(frozen=True)
class ShardRecord:
    """One ``.npy`` file: rows, size in bytes, SHA-256."""

    rows: int
    bytes: int
    sha256: str


@dataclass
class VariantRecord:
    """One matrix: its columns, its type, its shards in order."""

    dim: int
    dtype: str = "float32"
    shards: list[ShardRecord] = field(default_factory=list)


@dataclass
class StoreManifest:
    """What ``manifest.json`` of a feature store says."""

    source: dict[str, Any]
    backbone: dict[str, Any]
    backbone_fingerprint: str
    n_rows: int
    batch_size: int
    shard_rows: int
    variants: dict[str, VariantRecord]
    complete: bool = False
    n_usable: int | None = None
    index_sha256: str | None = None

    def n_shards(self) -> int:
        """Return into how many ranges the source rows are cut."""
        return -(-self.n_rows // self.shard_rows)

    def makes_the_same(self, other: StoreManifest) -> bool:
        """Tell whether another extraction would write the same bytes, batch size and shards apart."""
        mine, others = (
            (store.source["fingerprint"], store.backbone_fingerprint, store.n_rows, set(store.variants))
            for store in (self, other)
        )
        return bool(mine == others)

    def write(self, path: Path) -> None:
        """Write the manifest of the store at ``path``, atomically."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "kinfold_version": __version__}
        write_json(path / MANIFEST_NAME, {**head, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> StoreManifest:
        """Read the manifest of the store at ``path``.

        Raises
        ------
        FormatError
            It is missing, damaged, foreign, or of a newer format.
        """
        file = path / MANIFEST_NAME
        if not file.is_file():
            raise FormatError(f"{path} is not a feature store: it has no {MANIFEST_NAME}")
        facts = read_json(file)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise FormatError(f"{file} does not describe a feature store")
        check_format_version(file, facts.get("format_version"), FORMAT_VERSION)
        try:
            known = {name: facts[name] for name in cls.__dataclass_fields__}
            known["variants"] = {
                name: VariantRecord(
                    int(record["dim"]), record["dtype"], [ShardRecord(**shard) for shard in record["shards"]]
                )
                for name, record in facts["variants"].items()
            }
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{file} is damaged: {error!r} does not fit its format") from error


def shard_path(store: Path, variant: str, number: int) -> Path:
    """Return the file of one shard."""
    return store / VARIANTS_NAME / variant / f"{number:05d}.npy"
