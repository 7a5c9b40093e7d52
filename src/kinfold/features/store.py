"""Features, one vector per image: their interface, and the feature store that keeps them on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold._version import __version__
from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.paths import arrow_path
from kinfold.reading import check_fields, is_count, list_of, reading
from kinfold.rows import RowMatrix, ShardedMatrix
from kinfold.storage import (
    check_format_version,
    check_own,
    hash_file,
    hash_json,
    is_plain_name,
    read_json,
    write_json,
)

DEFAULT_VARIANT = "cls"
SKIPPED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])
FORMAT = "kinfold-features"  # tells a store from other folders that have a manifest.json
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
CONTENTS_NAME = (
    "contents.parquet"  # hashes of the image files, by which vectors are kept when a folder changes
)
RENEWED_NAME = "renewed"  # the store that is to take this one's place, while it is written
VARIANTS_NAME = "variants"
NEIGHBORS_NAME = "neighbors"
UNFINISHED_NAME = "unfinished"  # parts of the index, one per finished shard, while a store is written
OK, SKIPPED = "ok", "skipped"
_MEND = "embed the images again, or restore the file from a copy"
FOLDERS_BELOW = 4  # levels of a store's folders: renewed/variants/NAME/00000.npy
INDEX_SCHEMA = pa.schema(
    [("row", pa.int64()), ("key", pa.string()), ("status", pa.string()), ("reason", pa.string())]
)
_KINDS: dict[str, Any] = {
    "source": {"kind": str, "uri": (str, None), "fingerprint": str},
    "backbone": dict,
    "backbone_fingerprint": str,
    "n_rows": is_count,
    "batch_size": is_count,
    "shard_rows": lambda value: is_count(value) and value > 0,
    "complete": bool,
    "n_usable": (is_count, None),
    "index_sha256": (str, None),
    "contents_sha256?": (str, None),
    "variants": {
        "*": {
            "dim": is_count,
            "dtype": lambda value: value in ("float32", "float16"),
            "shards": list_of({"rows": is_count, "bytes": is_count, "sha256": str}),
        }
    },
}
_LATER = ("contents_sha256",)  # what manifests of older versions don't have
CONTENTS_SCHEMA = pa.schema([("content", pa.binary())])


class Features(ABC):
    """Features of the rows of a source.

    A row number is the place in the source and never changes: rows that can't be used keep theirs, are
    listed in ``skipped`` and are left out of the matrix.

    Attributes
    ----------
    path : Path
        The store or file.
    variants : tuple of str
        Names of the matrices that stand side by side, all with the same rows.
    source_uri : str or None
        Where the images are, if known; they may have moved since.
    neighbors_path : Path or None
        Folder where graphs of these features may be kept.
    """

    path: Path
    variants: tuple[str, ...]
    source_uri: str | None = None
    neighbors_path: Path | None = None

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Rows of the source, skipped ones counted."""

    @property
    @abstractmethod
    def keys(self) -> Any:
        """Key of every row of the source, as a string array of PyArrow."""

    @property
    @abstractmethod
    def rows(self) -> NDArray[np.int64]:
        """Row number of every line of the matrix, ascending."""

    @property
    @abstractmethod
    def skipped(self) -> Any:
        """PyArrow table of skipped rows: row int64, key string, reason string."""

    @abstractmethod
    def matrix(self, variant: str | None = None) -> RowMatrix:
        """Return the vectors of the usable rows, ``len(rows)`` × dim.

        Parameters
        ----------
        variant : str, optional
            Which vectors; by default ``cls``, or the first variant where there is no such.

        Raises
        ------
        InputError
            There is no such variant; the message lists those there are.
        """

    @abstractmethod
    def fingerprint(self, variant: str | None = None) -> str:
        """Return a SHA-256 that stands for the vectors of a variant, the keys and the skipped rows."""

    def verify(self, variant: str | None = None) -> None:  # noqa: B027 - most have no hashes
        """Read the files in full and compare them with their recorded hashes, where there are any.

        Parameters
        ----------
        variant : str, optional
            The only vectors to compare; by default all.

        Raises
        ------
        FormatError
            A file is missing or is not what was written; the message names it.
        """

    def choose_variant(self, variant: str | None) -> str:
        """Return the variant asked for, checked, or the default one."""
        if variant is None:
            return DEFAULT_VARIANT if DEFAULT_VARIANT in self.variants else self.variants[0]
        if variant not in self.variants:
            hint = nearest_name(variant, list(self.variants))
            offered = ", ".join(self.variants)
            raise InputError(f"{self.path} has no variant {variant!r}{hint}; it has: {offered}")
        return variant

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r}: {len(self.rows):,} of {self.n_rows:,} rows>"


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
    contents_sha256: str | None = None  # None where the images are no files, and in stores of older versions

    def n_shards(self) -> int:
        """Return into how many ranges the source rows are cut."""
        return -(-self.n_rows // self.shard_rows)

    def makes_the_same(self, other: StoreManifest) -> bool:
        """Tell whether another extraction would write the same bytes, batch size and shards apart."""
        # Batch size and shards don't change what the vectors mean, so a store of others is taken as it is.
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
        if file.is_symlink() or file.is_file():
            check_own(path, depth=FOLDERS_BELOW)
        if not file.is_file():
            raise FormatError(
                f"{path} is not a feature store: it has no {MANIFEST_NAME}; name the folder that kinfold "
                "embed wrote, or a run's features folder"
            )
        facts = read_json(file)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise FormatError(
                f"{file} does not describe a feature store; name the folder that kinfold embed wrote"
            )
        check_format_version(file, facts.get("format_version"), FORMAT_VERSION)
        check_fields(file, facts, _KINDS)
        with reading(file):
            known = {name: facts[name] for name in cls.__dataclass_fields__ if name not in _LATER}
            known |= {name: facts.get(name) for name in _LATER}
            known["variants"] = {
                name: VariantRecord(
                    int(record["dim"]), record["dtype"], [ShardRecord(**shard) for shard in record["shards"]]
                )
                for name, record in facts["variants"].items()
            }
            found = cls(**known)
            found._check()
            return found

    def _check(self) -> None:
        """Raise ``ValueError`` for what has the right types, and yet no extraction writes."""
        # A variant's name is that of its folder, and must not lead out of the store.
        if strange := [name for name in self.variants if not is_plain_name(name)]:
            raise ValueError(f"{strange[0]!r} is no name of a variant")
        if not self.variants:
            raise ValueError("there are no variants")


def shard_path(store: Path, variant: str, number: int) -> Path:
    """Return the file of one shard."""
    return store / VARIANTS_NAME / variant / f"{number:05d}.npy"


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

        Shards are checked by their size, and the index by its footer, which is quick; the index is compared
        with its hash when it is read, and :meth:`verify` reads everything.

        Raises
        ------
        FormatError
            The folder is no feature store, unfinished, of a newer format, or damaged; the message names the
            file.
        InputError
            There is a link or a pipe in it.
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
        _compare(file, self.manifest.index_sha256)
        with reading(file):
            table = pq.read_table(arrow_path(file))
        fits = table.schema.remove_metadata() == INDEX_SCHEMA and table.num_rows == self.n_rows
        if not fits or not np.array_equal(table["row"].to_numpy(), np.arange(self.n_rows)):
            raise FormatError(
                f"{file} is damaged: it does not list the {self.n_rows} rows of the manifest; {_MEND}"
            )
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

    def contents(self) -> pa.ChunkedArray | None:
        """Return a hash of every row's image file, null where there is none; None where none are known.

        They only spare work, so a damaged list counts as none.
        """
        file, sha256 = self.path / CONTENTS_NAME, self.manifest.contents_sha256
        try:
            if sha256 is None or hash_file(file) != sha256:
                return None
            table = pq.read_table(arrow_path(file))
        except (pa.ArrowException, OSError):
            return None
        whole = table.schema.remove_metadata() == CONTENTS_SCHEMA and table.num_rows == self.n_rows
        return table["content"] if whole else None

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
        # Of recorded hashes: the files themselves may be larger than memory, and verify() reads them.
        return hash_json([record.dim, record.dtype, shards, self.manifest.index_sha256])

    def verify(self, variant: str | None = None) -> None:
        """Read the files and compare them with their recorded hashes.

        Parameters
        ----------
        variant : str, optional
            The only vectors to compare; by default all.

        Raises
        ------
        FormatError
            A file is missing or is not what was written; the message names it.
        """
        self._check_files()
        for file, sha256 in self.hashes(variant).items():
            _compare(file, sha256)

    def hashes(self, variant: str | None = None) -> dict[Path, str | None]:
        """Return the recorded SHA-256 of each file: the index and all shards, or those of one variant."""
        found: dict[Path, str | None] = {self.path / INDEX_NAME: self.manifest.index_sha256}
        if variant is None and self.manifest.contents_sha256 is not None:
            found[self.path / CONTENTS_NAME] = self.manifest.contents_sha256
        for name in self.variants if variant is None else (self.choose_variant(variant),):
            shards = self.manifest.variants[name].shards
            found |= {shard_path(self.path, name, n): shard.sha256 for n, shard in enumerate(shards)}
        return found

    def _check_files(self) -> None:
        index = self.path / INDEX_NAME
        if not index.is_file():
            raise FormatError(f"{index} is missing; {_MEND}")
        try:
            n_listed = pq.read_metadata(arrow_path(index)).num_rows  # of the footer alone, at the file's end
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{index} is damaged: {error}; {_MEND}") from error
        if n_listed != self.n_rows:
            raise FormatError(
                f"{index} is damaged: it does not list the {self.n_rows} rows of the manifest; {_MEND}"
            )
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
        raise FormatError(f"{file} is missing; {_MEND}") from error
    if found != size:
        raise FormatError(f"{file} is damaged: it has {found:,} bytes, not {size:,}; {_MEND}")


def _compare(file: Path, sha256: str | None) -> None:
    """Compare a file with its recorded hash."""
    if not file.is_file():
        raise FormatError(f"{file} is missing; {_MEND}")
    if hash_file(file) != sha256:
        raise FormatError(f"{file} is damaged: its content does not match its hash; {_MEND}")
