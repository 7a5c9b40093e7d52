"""Extract features into a store, shard by shard, so that an interrupted extraction can be resumed."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.features._contents import FileHasher, Known, find_known, mend_contents
from kinfold.features._writing import ShardBuffer, StoreWriter
from kinfold.features.store import (
    CONTENTS_NAME,
    FOLDERS_BELOW,
    INDEX_NAME,
    MANIFEST_NAME,
    NEIGHBORS_NAME,
    RENEWED_NAME,
    VARIANTS_NAME,
    FeatureStore,
    StoreManifest,
    VariantRecord,
    is_feature_store,
)
from kinfold.images import ImageBatch, ImageLoader, ImageSource, UnusableImage, describe_range
from kinfold.locks import LOCK_NAME, lock_directory
from kinfold.progress import SILENT, Progress, ProgressTask
from kinfold.storage import PARTIAL_PREFIX, check_own, check_place
from kinfold.validation import Constraint, Either, Integer, Nothing, check

if TYPE_CHECKING:
    from kinfold.backbones import Backbone

logger = logging.getLogger(__name__)


_CONSTRAINTS: dict[str, Constraint] = {
    "batch_size": Either(Integer(), Nothing()),
    "shard_rows": Either(Integer(), Nothing()),
}
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
_BATCHES_OF_SPEED = 20  # batches that the speed is a mean of: steady, and yet soon right after a change


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
        found = _find_store(out, wanted, batch_size, shard_rows, source)
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
    out: Path, wanted: StoreManifest, batch_size: int | None, shard_rows: int | None, source: ImageSource
) -> FeatureStore | StoreWriter | None:
    """Return what is at ``out`` already: the finished store, one to resume, or None."""
    if not is_feature_store(out):
        return None
    try:
        _finish_renewal(out)  # what a killed process had ready
        there = StoreManifest.read(out)
        if not there.makes_the_same(wanted):
            return None
        if there.complete:
            store = FeatureStore.open(out)
            for name in store.variants:
                store.verify(name)  # so that embedding again mends a damaged store
            StoreWriter(out, there).remove_leftovers()
            mend_contents(store, source)
            return store
    except NewerFormatError:
        raise  # never overwrite what a newer version wrote
    except FormatError as error:
        logger.warning("extracting again: %s", error)
        return None
    # Batch size and engine may change the last bits of vectors, and shards have one size: else all anew.
    other_batch = batch_size not in (None, there.batch_size)
    other_shards = shard_rows is not None and _whole_batches(shard_rows, there.batch_size) != there.shard_rows
    other_engine = _engine_of(there) != _engine_of(wanted)
    return None if other_batch or other_shards or other_engine else StoreWriter(out, there)


def _engine_of(manifest: StoreManifest) -> str:
    """Return what ran the network; stores of before there was a choice, and descriptors, don't say."""
    return str(manifest.backbone.get("engine", "torch"))


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
    there = None
    try:
        there = StoreManifest.read(out)
        store = FeatureStore.open(out)
        store.verify()  # its vectors are kept
    except FormatError as error:
        if there is not None and not there.makes_the_same(wanted):  # else the caller has said so
            logger.warning("extracting again: %s", error)
        return None
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
        if isinstance(found := _find_store(out, wanted, None, None, source), FeatureStore):
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
    found = _find_store(place, wanted, there.batch_size, there.shard_rows, source)
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


def continue_store(
    source: ImageSource,
    backbone: Backbone | None,
    out: Path,
    known: Known,
    variant: str,
    *,
    n_workers: int | None = None,
    progress: Progress = SILENT,
) -> FeatureStore:
    """Write the store of rows that continue those of another one, which stays as it is, or finish it.

    Parameters
    ----------
    source : ImageSource
        The rows: a row whose image is gone is among them.
    backbone : Backbone or None
        What embeds new images; None where there are none.
    out : Path
        The new store.
    known : Known
        What the other store knows of the rows, see :meth:`Known.of_rows`.
    variant : str
        The vectors to keep.
    n_workers : int, optional
        Processes that decode.
    progress : Progress
        Shows images done.

    Raises
    ------
    InputError
        No row can be used, or ``out`` can't be written to.
    """
    there = known.store.manifest
    wanted = StoreManifest(
        source={"kind": source.kind, "uri": source.uri, "fingerprint": source.fingerprint()},
        backbone=there.backbone,
        backbone_fingerprint=there.backbone_fingerprint,
        n_rows=len(source),
        batch_size=there.batch_size,
        shard_rows=there.shard_rows,
        variants={variant: VariantRecord(there.variants[variant].dim)},
    )
    with lock_store(out), clear_write_errors(out):
        found = _find_store(out, wanted, there.batch_size, there.shard_rows, source)
        if isinstance(found, FeatureStore):
            return found
        writer = found or StoreWriter(out, wanted)
        if found is None:
            writer.begin()
        writer.remove_partials()
        _write_renewed(writer, source, backbone, known, n_workers, progress)
        _refuse_nothing(writer, source)
        writer.finish()
    return FeatureStore.open(out)


def _write_renewed(
    writer: StoreWriter,
    source: ImageSource,
    backbone: Backbone | None,
    known: Known,
    n_workers: int | None,
    progress: Progress,
) -> None:
    """Write the missing shards from known vectors, and embed the other rows."""
    manifest = writer.manifest
    matrices = {name: known.store.matrix(name) for name in manifest.variants}
    first = writer.first_missing() * manifest.shard_rows
    is_new = known.new
    n_new = int(is_new[first:].sum())
    with ExitStack() as opened:
        task = opened.enter_context(progress.task("embedding", total=n_new, unit="images"))
        loader = None
        if backbone is not None:
            loader = opened.enter_context(
                ImageLoader(source, backbone.transform, min_side=backbone.min_side, n_workers=n_workers)
            )
        speed = _Speed(task)
        for number in range(writer.first_missing(), manifest.n_shards()):
            start = number * manifest.shard_rows
            buffer = ShardBuffer(start, min(manifest.n_rows, start + manifest.shard_rows), tuple(matrices))
            lines = known.lines[buffer.start : buffer.stop]
            new = (buffer.start + np.flatnonzero(is_new[buffer.start : buffer.stop])).tolist()
            places = range(buffer.start, buffer.stop)
            buffer.skip([(row, known.reasons[row]) for row in places if row in known.reasons])
            if loader is not None and backbone is not None and new:
                with closing(_batches(loader, new, manifest.batch_size)) as batches:
                    for batch in batches:
                        _embed_batch(batch, backbone, buffer)
                        speed.advance(len(batch.rows) + len(batch.skipped))
            kept = lines[lines >= 0]
            buffer.insert(
                buffer.start + np.flatnonzero(lines >= 0),
                {name: np.asarray(matrix[kept], np.float32) for name, matrix in matrices.items()},
            )
            same = {} if new else known.find_shard(number, kept)
            contents = known.contents[buffer.start : buffer.stop]
            writer.write_shard(number, buffer, source.keys, contents, same)


def _finish_renewal(out: Path) -> None:
    """Let a renewed store that a killed process left take over, unless it is damaged."""
    renewed = out / RENEWED_NAME
    names = [VARIANTS_NAME, INDEX_NAME, MANIFEST_NAME]
    if is_feature_store(renewed) and all((renewed / name).exists() for name in names):
        # It has not begun to take over, so that the other store is still there to be kept.
        try:
            manifest = StoreManifest.read(renewed)
            if manifest.complete:
                FeatureStore.open(renewed).verify()
        except NewerFormatError:
            raise
        except FormatError as error:
            logger.warning("it is removed: %s", error)
            shutil.rmtree(renewed, ignore_errors=True)
    _take_over(out)


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
