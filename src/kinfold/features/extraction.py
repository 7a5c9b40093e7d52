"""Extract features into a store, shard by shard, so that an interrupted extraction can be resumed."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.features._contents import FileHasher, Known, find_known
from kinfold.features.store import (
    CONTENTS_NAME,
    CONTENTS_SCHEMA,
    FOLDERS_BELOW,
    INDEX_NAME,
    INDEX_SCHEMA,
    MANIFEST_NAME,
    NEIGHBORS_NAME,
    OK,
    RENEWED_NAME,
    SKIPPED,
    UNFINISHED_NAME,
    VARIANTS_NAME,
    FeatureStore,
    ShardRecord,
    StoreManifest,
    VariantRecord,
    check_size,
    is_feature_store,
    shard_path,
)
from kinfold.images import ImageBatch, ImageLoader, ImageSource, UnusableImage, describe_range
from kinfold.locks import LOCK_NAME, lock_directory
from kinfold.paths import arrow_path
from kinfold.progress import SILENT, Progress, ProgressTask
from kinfold.rows import unusable_in_block
from kinfold.storage import (
    PARTIAL_PREFIX,
    atomic_file,
    check_own,
    check_place,
    hash_file,
    remove_partials,
    write_array,
)
from kinfold.validation import Constraint, Either, Integer, Nothing, check

if TYPE_CHECKING:
    from kinfold.backbones import Backbone

logger = logging.getLogger(__name__)


_CONSTRAINTS: dict[str, Constraint] = {
    "batch_size": Either(Integer(), Nothing()),
    "shard_rows": Either(Integer(), Nothing()),
}
_SHARDS_FIELD = b"shards"  # in the metadata of a part of the index: the part then proves its shards
# Groups of system errors that a user can mend.
_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_RIGHTS = (errno.EROFS, errno.EACCES, errno.EPERM)
# A shard is the most work that an interruption costs, and a file to open and to check: a 256th of the images,
# but at least 1,024, and no more than 16,384 (64 MiB at 1,024 columns).
_FEWEST_SHARD_ROWS = 1024
_MOST_SHARD_ROWS = 16_384
_SHARDS_WISHED = 256
_LOOKED_AT = 16  # images that are looked at for what is white in them
_DEEP_SUFFIXES = frozenset([".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".pfm"])
_PART_SCHEMA = pa.schema([*INDEX_SCHEMA, *CONTENTS_SCHEMA])
_BATCHES_OF_SPEED = 20  # batches that the speed is a mean of: steady, and yet soon right after a change


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
        self, number: int, buffer: ShardBuffer, keys: Sequence[str], contents: Sequence[bytes | None]
    ) -> None:
        """Write a shard's matrices, then its part of the index."""
        records = {}
        for name, variant in self.manifest.variants.items():
            matrix = buffer.matrix(name, variant.dim)
            file = shard_path(self.path, name, number)
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
        file = self.path / CONTENTS_NAME
        with atomic_file(file) as partial:
            table = pa.concat_tables([pa.table([column], schema=CONTENTS_SCHEMA) for column in known])
            pq.write_table(table, arrow_path(partial, "wb"))
        self.manifest.contents_sha256 = hash_file(file)

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


def clear_store(path: Path) -> None:
    """Remove the files of a store, and nothing else; the manifest goes last."""
    # While the manifest is there, what a killed process leaves is known to be a store and can be cleared.
    for name in (RENEWED_NAME, UNFINISHED_NAME, VARIANTS_NAME, NEIGHBORS_NAME):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in (CONTENTS_NAME, INDEX_NAME):
        (path / name).unlink(missing_ok=True)
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


@contextmanager
def lock_store(out: Path) -> Iterator[None]:
    """Hold the place of a feature store for this thread alone, unless it can't be written to anyway.

    Raises
    ------
    InputError
        Another process writes there, or there is something else than a feature store.
    """
    _check_place(out)
    read_only = out.is_dir() and not os.access(out, os.W_OK)
    with ExitStack() as held:
        with clear_write_errors(out):
            if not read_only:
                held.enter_context(lock_directory(out, create=True, again=True))
        _check_place(out)  # again: another process may have written here before the lock was ours
        yield


def _check_place(out: Path) -> None:
    check_place(out)
    foreign = out.exists() and not is_feature_store(out) and (not out.is_dir() or _has_foreign_files(out))
    if foreign and not is_feature_store(out):  # another process may have begun a store between the two looks
        raise InputError(f"{out} holds something else than a feature store; choose a new or empty place")
    check_own(out, depth=FOLDERS_BELOW)


def extract_features(
    source: ImageSource,
    backbone: Backbone,
    out: str | Path,
    *,
    variants: Sequence[str] = ("cls",),
    batch_size: int | None = None,
    shard_rows: int | None = None,
    n_workers: int | None = None,
    progress: Progress = SILENT,
) -> FeatureStore:
    """Embed the images of a source into a feature store, or finish one.

    Interrupted at any moment and called again, the work goes on at the first missing shard with the recorded
    batch size, and the files end up the same to the byte. A store that is complete is opened as it is. Where
    the files of the source have changed since, those whose content is the same keep their vectors, wherever
    they are now, and only the others are embedded. A store of another backbone or set of variants, or of
    images that are no files, is replaced from the start, so that nothing stale is left.

    Parameters
    ----------
    source : ImageSource
        Images; every row keeps its number, also where it can't be used.
    backbone : Backbone
        What embeds them. Vectors that aren't finite or are all zero are skipped with that reason.
    out : path
        The store: new, empty, or a feature store.
    variants : sequence of str, default ("cls",)
        The vectors to keep; all come from one pass.
    batch_size : int, optional
        Images per batch. By default the recorded one, else what the backbone finds. One that differs from
        that of an unfinished store starts it over.
    shard_rows : int, optional
        Source rows per shard, rounded up to whole batches; the most work that an interruption costs. By
        default a 256th of the rows, at least 1,024 and at most 16,384.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores. It doesn't change the result.
    progress : Progress, default silent
        Shows images done and images per second.

    Returns
    -------
    FeatureStore

    Raises
    ------
    InputError
        There are no images or none can be used, ``out`` holds something else or is being written by another
        process, the disk is full or can't be written to, or a parameter is out of range.
    """
    out = Path(out)
    _check(source, backbone, variants, batch_size, shard_rows)
    wanted = _wish(source, backbone, variants, batch_size, shard_rows)
    with lock_store(out), clear_write_errors(out):
        found = _find_store(out, wanted, batch_size, shard_rows)
        if found is None and (known := _find_known(out, wanted, batch_size, shard_rows, source)) is not None:
            return _renew(out, wanted, source, backbone, known, n_workers, progress)
        if isinstance(found, FeatureStore):
            return found
        writer = found or _begin(out, wanted, backbone)
        writer.remove_partials()
        _warn_of_ranges(source)
        _write_missing(writer, source, backbone, n_workers, progress)
        _refuse_nothing(writer, source)
        writer.finish()
    return FeatureStore.open(out)


def _wish(
    source: ImageSource,
    backbone: Backbone,
    variants: Sequence[str],
    batch_size: int | None,
    shard_rows: int | None,
) -> StoreManifest:
    """Return the manifest of the store to write, as far as it is known before."""
    return StoreManifest(
        source={"kind": source.kind, "uri": source.uri, "fingerprint": source.fingerprint()},
        backbone=backbone.describe(),
        backbone_fingerprint=backbone.fingerprint(),
        n_rows=len(source),
        batch_size=batch_size or 0,
        shard_rows=shard_rows or 0,
        variants={name: VariantRecord(int(backbone.variants[name])) for name in variants},
    )


def _check(
    source: ImageSource,
    backbone: Backbone,
    variants: Sequence[str],
    batch_size: int | None,
    shard_rows: int | None,
) -> None:
    if isinstance(variants, str) or not variants or len(set(variants)) != len(variants):
        raise InputError(f"variants must be a list of different names, not {variants!r}")
    backbone.check_variants(variants)
    check(_CONSTRAINTS, batch_size=batch_size, shard_rows=shard_rows)
    if not len(source):
        raise InputError(f"there are no images in {source.uri}")


def _has_foreign_files(out: Path) -> bool:
    """Tell whether a folder holds more than a process that was killed at its very start leaves."""
    return any(
        not entry.name.startswith(PARTIAL_PREFIX) and entry.name != LOCK_NAME for entry in out.iterdir()
    )


def _find_store(
    out: Path, wanted: StoreManifest, batch_size: int | None, shard_rows: int | None
) -> FeatureStore | StoreWriter | None:
    """Return what is at ``out`` already: the finished store, one to resume, or None."""
    if not is_feature_store(out):
        return None
    try:
        _take_over(out)  # what a killed process had ready
        there = StoreManifest.read(out)
        if not there.makes_the_same(wanted):
            return None
        if there.complete:
            store = FeatureStore.open(out)
            store.verify()  # so that embedding again mends a damaged store
            StoreWriter(out, there).remove_leftovers()
            return store
    except NewerFormatError:
        raise  # never overwrite what a newer version wrote
    except FormatError as error:
        logger.warning("extracting again: %s", error)
        return None
    # The batch size may change the last bits of vectors, and shards must have one size: either starts over.
    other_batch = batch_size not in (None, there.batch_size)
    other_shards = shard_rows is not None and _whole_batches(shard_rows, there.batch_size) != there.shard_rows
    return None if other_batch or other_shards else StoreWriter(out, there)


def _begin(out: Path, wanted: StoreManifest, backbone: Backbone) -> StoreWriter:
    wanted.batch_size = wanted.batch_size or backbone.find_batch_size()
    default = min(max(wanted.n_rows // _SHARDS_WISHED, _FEWEST_SHARD_ROWS), _MOST_SHARD_ROWS)
    rows = wanted.shard_rows or default
    wanted.shard_rows = _whole_batches(rows, wanted.batch_size)
    writer = StoreWriter(out, wanted)
    writer.begin()
    return writer


def _whole_batches(shard_rows: int, batch_size: int) -> int:
    return -(-shard_rows // batch_size) * batch_size


def _find_known(
    out: Path, wanted: StoreManifest, batch_size: int | None, shard_rows: int | None, source: ImageSource
) -> Known | None:
    """Return what the store at ``out`` knows of a source, unless its batches or shards are to be others."""
    if not is_feature_store(out):
        return None
    try:
        store = FeatureStore.open(out)
        store.verify()  # its vectors are kept
    except FormatError:
        return None  # unfinished or damaged; the caller has said so
    there = store.manifest
    other_batch = batch_size not in (None, there.batch_size)
    other_shards = shard_rows is not None and _whole_batches(shard_rows, there.batch_size) != there.shard_rows
    known = None if other_batch or other_shards else find_known(store, wanted, source)
    if known is None:
        logger.warning("%s holds features of another source or backbone; they are replaced", out)
    return known


def adopt_unchanged(
    source: ImageSource, backbone: Backbone, out: Path, variants: Sequence[str] = ("cls",)
) -> FeatureStore | None:
    """Return the store at ``out`` if it holds what an extraction would write; None if one has to be made.

    Files that were only touched or copied are the same by their content; the store then says so from now on.
    """
    if not is_feature_store(out):
        return None
    wanted = _wish(source, backbone, variants, None, None)
    with lock_store(out):
        if isinstance(found := _find_store(out, wanted, None, None), FeatureStore):
            return found
        known = None if found is not None else _find_known(out, wanted, None, None, source)
        return _adopt(out, wanted, known) if known is not None and known.unchanged else None


def _adopt(out: Path, wanted: StoreManifest, known: Known) -> FeatureStore:
    """Record that a store is one of the source as it is now."""
    known.store.manifest.source = wanted.source
    known.store.manifest.write(out)
    return FeatureStore.open(out)


def _renew(
    out: Path,
    wanted: StoreManifest,
    source: ImageSource,
    backbone: Backbone,
    known: Known,
    n_workers: int | None,
    progress: Progress,
) -> FeatureStore:
    """Write the store anew from what is known, embedding the rest, and let it take the other's place."""
    if known.unchanged:
        return _adopt(out, wanted, known)
    there = known.store.manifest
    wanted.batch_size, wanted.shard_rows = there.batch_size, there.shard_rows
    place = out / RENEWED_NAME
    found = _find_store(place, wanted, there.batch_size, there.shard_rows)
    writer = found if isinstance(found, StoreWriter) else StoreWriter(place, wanted)
    if found is None:
        writer.begin()
    writer.remove_partials()
    n_known = int((known.lines >= 0).sum())
    logger.info("%s: %d of %d images are known by their content", out, n_known, wanted.n_rows)
    if not isinstance(found, FeatureStore):
        _write_renewed(writer, source, backbone, known, n_workers, progress)
        writer.finish()
    _take_over(out)
    return FeatureStore.open(out)


def _write_renewed(
    writer: StoreWriter,
    source: ImageSource,
    backbone: Backbone,
    known: Known,
    n_workers: int | None,
    progress: Progress,
) -> None:
    """Write the missing shards from known vectors, and embed the other rows."""
    manifest = writer.manifest
    matrices = {name: known.store.matrix(name) for name in manifest.variants}
    first = writer.first_missing() * manifest.shard_rows
    n_new = int((known.lines[first:] < 0).sum())
    with (
        progress.task("embedding", total=n_new, unit="images") as task,
        ImageLoader(source, backbone.transform, min_side=backbone.min_side, n_workers=n_workers) as loader,
    ):
        speed = _Speed(task)
        for number in range(writer.first_missing(), manifest.n_shards()):
            start = number * manifest.shard_rows
            buffer = ShardBuffer(start, min(manifest.n_rows, start + manifest.shard_rows), tuple(matrices))
            lines = known.lines[buffer.start : buffer.stop]
            new = (buffer.start + np.flatnonzero(lines < 0)).tolist()
            with closing(_batches(loader, new, manifest.batch_size)) as batches:
                for batch in batches:
                    _embed_batch(batch, backbone, buffer)
                    speed.advance(len(batch.rows) + len(batch.skipped))
            kept = lines[lines >= 0]
            buffer.insert(
                buffer.start + np.flatnonzero(lines >= 0),
                {name: np.asarray(matrix[kept], np.float32) for name, matrix in matrices.items()},
            )
            writer.write_shard(number, buffer, source.keys, known.contents[buffer.start : buffer.stop])


def _take_over(out: Path) -> None:
    """Put a renewed store in the place of the one that it lies in, if there is one and it is complete.

    A process that is killed meanwhile leaves the renewed manifest, which goes last, where it was, and the
    next call goes on.
    """
    renewed = out / RENEWED_NAME
    if not is_feature_store(renewed) or not StoreManifest.read(renewed).complete:
        return
    shutil.rmtree(out / NEIGHBORS_NAME, ignore_errors=True)
    for name in (VARIANTS_NAME, INDEX_NAME, CONTENTS_NAME, MANIFEST_NAME):
        if not (renewed / name).exists():
            continue
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        os.replace(renewed / name, out / name)
    shutil.rmtree(renewed, ignore_errors=True)


def _write_missing(
    writer: StoreWriter, source: ImageSource, backbone: Backbone, n_workers: int | None, progress: Progress
) -> None:
    """Extract from the first shard that isn't there; the loader decodes ahead over the shards' borders."""
    manifest = writer.manifest
    first = writer.first_missing()
    if first == manifest.n_shards():
        return
    n, size = manifest.n_rows, manifest.shard_rows
    rows = range(first * size, n)
    with (
        progress.task("computing features", total=n, unit="images") as task,
        ImageLoader(source, backbone.transform, min_side=backbone.min_side, n_workers=n_workers) as loader,
        closing(_batches(loader, rows, manifest.batch_size)) as batches,
        FileHasher(source) as hasher,
    ):
        task.advance(rows.start)
        speed = _Speed(task)
        for number in range(first, manifest.n_shards()):
            buffer = ShardBuffer(number * size, min(n, (number + 1) * size), tuple(manifest.variants))
            contents = hasher.begin(range(buffer.start, buffer.stop))
            for start in range(buffer.start, buffer.stop, manifest.batch_size):
                _embed_batch(next(batches), backbone, buffer)
                speed.advance(min(manifest.batch_size, buffer.stop - start))
            writer.write_shard(number, buffer, source.keys, contents())


def _batches(loader: ImageLoader, rows: Sequence[int], batch_size: int) -> Generator[ImageBatch, None, None]:
    yield from loader.batches(rows, batch_size)


def _embed_batch(batch: ImageBatch, backbone: Backbone, buffer: ShardBuffer) -> None:
    buffer.skip(batch.skipped)
    if len(batch.rows):
        buffer.add(batch.rows, backbone.embed(batch.images, buffer.variants))


class _Speed:
    """Shows images per second, over the last seconds."""

    def __init__(self, task: ProgressTask) -> None:
        self._task = task
        self._recent = deque([(time.monotonic(), 0)], maxlen=_BATCHES_OF_SPEED)
        self._done = 0

    def advance(self, n: int) -> None:
        now = time.monotonic()
        self._done += n
        # Over the last batches: a mean over all would hide that decoding has become slow.
        since, before = self._recent[0]
        self._recent.append((now, self._done))
        rate = (self._done - before) / max(now - since, 1e-9)
        self._task.advance(n, **{"images/s": round(rate, 1)})


def _refuse_nothing(writer: StoreWriter, source: ImageSource) -> None:
    if writer.n_usable():
        return
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in writer.reasons().items())
    key, detail = writer.first_reason()
    raise InputError(
        f"none of the {len(source):,} images in {source.uri} can be used: {reasons}; "
        f"the first is {key}: {detail}"
    )


def _warn_of_ranges(source: ImageSource) -> None:
    """Say how the range of images with more than eight bits was guessed, by looking at a few of them."""
    notes: dict[str, str] = {}
    rows = np.unique(np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(np.int64))
    for row in rows.tolist():
        key = source.keys[row]
        if os.path.splitext(key)[1].lower() in _DEEP_SUFFIXES:
            with suppress(UnusableImage):
                if note := describe_range(source.read(row)):
                    notes[key] = note
    if notes:
        key, note = next(iter(notes.items()))
        logger.warning(
            "%d of %d images looked at don't say what is white in them; of %s %s. Where that is wrong, save "
            "them with 8 bits, or with a range that the file names (sBIT of PNG, MaxSampleValue of TIFF)",
            len(notes),
            len(rows),
            key,
            note,
        )
