"""A run takes in what became of its images: new, gone, renamed and replaced files; its groups stay."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_in
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.backbones import Backbone
from kinfold.bars import choose_progress
from kinfold.compute import Runtime
from kinfold.corrections import read_additions
from kinfold.errors import FormatError, InputError, count_of
from kinfold.features import FeatureStore, Known, continue_store, hash_files
from kinfold.images import ImageSource, SkipReason, UnusableImage, open_source
from kinfold.levels import PARTS_NAME, has_levels, write_parts
from kinfold.methods import diagnose
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.pipeline._report import run_report_stage
from kinfold.pipeline._source import choose_engine
from kinfold.pipeline._update_tables import UpdatedTables, compare_groups, find_bases, name_alike
from kinfold.progress import SILENT, Progress
from kinfold.run import (
    ASSIGNMENTS_NAME,
    GIVEN_PREFIX,
    GONE_DETAIL,
    SKIPPED_NAME,
    SPLITS_NAME,
    TYPICALITY_NAME,
    UPDATES_NAME,
    UPDATES_SCHEMA,
    JoinedPictures,
    KnownRows,
    Manifest,
    Matching,
    Run,
    Stages,
    locate_whole,
    match_rows,
    open_run_stages,
    read_table,
    remove_unnamed,
    write_skipped,
    write_table,
)
from kinfold.storage import hash_file
from kinfold.typicality import write_closeness

logger = logging.getLogger(__name__)

_FEWEST = 0.5  # share of a run's images that must be there: else it is rather another folder, or half a disk
_GONE = str(UnusableImage(SkipReason.GONE, GONE_DETAIL))
_MEND = "restore the file from a copy"
_KEPT_STAGES = ("levels", "typicality", "level", "name")
_FORMER_FILES = (ASSIGNMENTS_NAME, SKIPPED_NAME, PARTS_NAME, TYPICALITY_NAME)


@dataclass(frozen=True)
class Updated:
    """What an update did, or what taking one back did.

    Attributes
    ----------
    path : Path
        The run.
    number : int
        Number of the update; of the last one where nothing was done, 0 before the first.
    changed : bool
        False where all images are as they were, and nothing was written.
    source : str
        Where the images are.
    counts : mapping of str to int
        ``came`` (new images with a group), ``went``, ``moved`` (renamed), ``changed`` (other content under
        the same name: the image before went, the one now is new), ``returned`` (were gone before),
        ``unreadable`` (new files that can't be used), ``unread`` (images that can't be read now and stay as
        they are), ``embedded`` (vectors that were computed).
    groups : tuple of dict
        ``cluster``, ``name``, ``size``, ``came`` and ``went`` of every group, as corrected.
    """

    path: Path
    number: int
    changed: bool
    source: str
    counts: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {**vars(self), "path": str(self.path), "counts": dict(self.counts), "groups": [*self.groups]}


def update(
    run: Run | str | Path,
    source: str | Path | ImageSource | None = None,
    *,
    force: bool = False,
    source_options: Mapping[str, Any] | None = None,
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    engine: str = "auto",
    n_workers: int | None = None,
    verbose: bool = False,
    progress: Progress = SILENT,
) -> Updated:
    """Take in what became of a run's images: new ones get groups, those that are gone leave theirs.

    Files are told apart by their content: a renamed one keeps its row, its vector and what people said of it;
    one whose content was replaced is another image. Only new content is embedded, and put into the groups by
    the run's own model, at the level that it shows, as :func:`~kinfold.predict` does it. Groups, their
    numbers, names, locks and all corrections stay. Row numbers are for ever: new images get the next ones,
    those of images that are gone are not used again, unless the image comes back.

    Interrupted anywhere, the run is the old one or the new one; the same call goes on.

    Parameters
    ----------
    run : Run or path
        A finished run of a folder, a pattern or a table of image files, or of a feature store of one. Open it
        again afterwards.
    source : path or ImageSource, optional
        The images as they are now; by default those that the run was made from.
    force : bool, default False
        Also where fewer than half of the run's images are there.
    source_options : Mapping, optional
        For tables: ``path_column``, ``image_column``, ``key_column``; by default as recorded.
    backbone : str, path or Backbone, optional
        Where the run's backbone is now, if it was moved; it is loaded only if something must be embedded.
    device : str, default "auto"
        Where to compute.
    engine : {"auto", "torch", "onnxruntime", "openvino"}, default "auto"
        What runs the network on a CPU, as for :func:`~kinfold.cluster`.
    n_workers : int, optional
        Processes that decode; by default as many as there are cores.
    verbose : bool, default False
        Show bars, in a terminal or a notebook.
    progress : Progress
        Shows the work; wins over ``verbose``.

    Returns
    -------
    Updated
        What came, went, moved and changed. ``Run.open(run).manifest.updates`` has the history, and
        ``updates.parquet`` in the run every row of it.

    Raises
    ------
    InputError
        The images or the features aren't there, too few of the run's images are, none can be used, the run
        was made from features of unknown images or from an archive, or another process writes into it.
    FormatError
        Files of the run are damaged; nothing was changed.

    Examples
    --------
    >>> import kinfold
    >>> kinfold.update("photos.kinfold").counts["came"]  # doctest: +SKIP
    12
    """
    path = run.path if isinstance(run, Run) else Path(run)
    Run.open(path)  # refuses what isn't finished
    runtime = Runtime.resolve(
        device, n_workers=n_workers, progress=choose_progress(progress, verbose), engine=engine
    )
    with open_run_stages(path) as stages:
        run = Run(path, stages.manifest)
        state = _RowsBefore.of(run)
        images = _open_images(run, source, source_options)
        matching = state.match(images)
        if matching.is_same:
            _note_place(stages, images, source)
            return Updated(path, state.number, False, images.uri, {"unread": len(matching.unread)})
        state.check_enough(matching, images, force=force)
        work = _Update(run, state, images, matching, runtime, state.number + 1)
        done = work.write(stages, backbone)
        remove_unnamed(path, stages.manifest)
        if Run(path, stages.manifest).report_path.exists():
            run_report_stage(stages, runtime.progress)
    return done


def undo_update(run: Run | str | Path, *, progress: Progress = SILENT) -> Updated:
    """Take the last update of a run back: images, rows and groups are those before it.

    Corrections stay, also those made since; what they say of images that only the update brought is without
    effect until these come again, with the same rows.

    Parameters
    ----------
    run : Run or path
        The run.
    progress : Progress
        Shows the work.

    Raises
    ------
    InputError
        There is nothing to take back, what was kept for it was deleted, or the run shows another level since.
    FormatError
        Files are damaged; nothing was changed.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    Run.open(path)
    with open_run_stages(path) as stages:
        run = Run(path, stages.manifest)
        updates = dict(stages.manifest.updates or {})
        former = updates.get("former")
        if not former:
            raise InputError(f"{path} has no update that can be taken back: only the last one can")
        done = _take_back(stages, run, updates, former)
        remove_unnamed(path, stages.manifest)
        if Run(path, stages.manifest).report_path.exists():
            run_report_stage(stages, progress)
    return done


def why_other_images(run: Run, images: ImageSource) -> str | None:
    """Return how the images of an updated run differ from what is there now; None if they don't."""
    if images.fingerprint() == (run.manifest.updates or {})["source"]["fingerprint"]:
        return None
    matching = _RowsBefore.of(run).match(images)
    if matching.is_same:
        return None
    told = [f"{len(rows):,} {what}" for what, rows in matching.what.items() if rows]
    return f"the images have changed ({', '.join(told)})" if told else "images can be read that couldn't be"


def _open_images(
    run: Run, source: str | Path | ImageSource | None, options: Mapping[str, Any] | None
) -> ImageSource:
    if isinstance(source, ImageSource):
        return source
    if source is not None and not isinstance(source, str | os.PathLike):
        raise InputError(
            f"source is a {type(source).__name__}; give the folder or the table of the images as they are now"
        )
    recorded = run.manifest.source
    where = source if source is not None else recorded.get("images")
    if where is None:
        raise InputError(f"where the images of {run.path} are isn't known; say so (source=, SOURCE)")
    if source is None and (own := run.path / Path(where).name).name.startswith(GIVEN_PREFIX) and own.exists():
        where = own
    if options is None and (source is None or (recorded.get("kind") == "table" and Path(where).is_file())):
        options = recorded.get("options") if recorded.get("kind") != "features" else None
    options = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return open_source(where, **options)
    except InputError as error:
        raise InputError(
            f"{run.path} was left as it is: its images can't be opened at {where} ({error}); if they were "
            "moved, say where they are now (source=, SOURCE)"
        ) from error


def _note_place(stages: Stages, images: ImageSource, source: object) -> None:
    """Record where the images are now, if they were named at another place and nothing else changed."""
    recorded = stages.manifest.source
    if source is not None and recorded.get("images") != images.uri:
        section = {**recorded, "images": images.uri}
        if recorded.get("kind") != "features":
            section |= {"uri": images.uri, "fingerprint": images.fingerprint()}
        updates = stages.manifest.updates
        if updates is not None:
            stages.manifest.updates = {**updates, "source": _describe(images)}
        stages.declare(source=section)


def _describe(images: ImageSource) -> dict[str, str]:
    return {"uri": images.uri, "fingerprint": images.fingerprint()}


@dataclass(frozen=True)
class _RowsBefore:
    """The rows of a run before an update.

    Attributes
    ----------
    run : Run
        The run.
    store : FeatureStore
        Its features.
    known : KnownRows
        All rows that it ever had.
    """

    run: Run
    store: FeatureStore
    known: KnownRows

    @classmethod
    def of(cls, run: Run) -> _RowsBefore:
        """Read them."""
        if not run.manifest.backbone:
            raise InputError(
                f"{run.path} was made from ready features, so how to embed its images isn't known, and it "
                "can't be updated; `kinfold predict` puts features of new images into its groups"
            )
        try:
            store = run.features()
        except InputError as error:
            mend = (
                "" if run.manifest.updates else ", or repeat the `kinfold cluster` command, which embeds anew"
            )
            raise InputError(
                f"an update keeps the vectors that there are, but {error}. Put them back from a copy{mend}"
            ) from error
        contents = store.contents() if isinstance(store, FeatureStore) else None
        if not isinstance(store, FeatureStore) or contents is None:
            raise InputError(
                f"{run.path} can't be updated, since its features don't tell images by their content: they "
                "lie in an archive or inside a table, or were embedded by an earlier version. "
                "`kinfold predict` puts new images into its groups; images that are unpacked into a folder "
                "and clustered from there can be updated"
            )
        keys, hashes = [str(key) for key in store.keys.to_pylist()], contents.to_pylist()
        earlier = _read_updates(run)
        n_rows = max(len(keys), 1 + (pc.max(earlier["row"]).as_py() if len(earlier) else -1))
        # Rows of an update that was taken back: no other image may have them.
        others = earlier.filter(pc.greater_equal(earlier["row"], len(keys)))
        later = {line["row"]: line for line in others.to_pylist()}
        for row in range(len(keys), n_rows):
            line = later.get(row, {"key": "", "content": None})
            keys.append(line["key"])
            hashes.append(line["content"])
        gone, usable = np.zeros(n_rows, bool), np.zeros(n_rows, bool)
        gone[run.gone["row"].to_numpy()] = True
        gone[store.n_rows :] = True
        usable[run.assignments["row"].to_numpy()] = True
        return cls(run, store, KnownRows(keys, hashes, gone, usable))

    @property
    def number(self) -> int:
        """Number of the last update."""
        return int((self.run.manifest.updates or {}).get("number", 0))

    def match(self, images: ImageSource) -> Matching:
        """Find the row of every image."""
        contents = hash_files(images)
        if all(content is None for content in contents):
            raise InputError(
                f"none of the {count_of(len(images), 'image')} in {images.uri} is a file that can be read: "
                "what lies in an archive or inside a table can't be told by its content. "
                f"{self.run.path} was left as it is; unpack the images, or put them into its groups with "
                "`kinfold predict`"
            )
        return match_rows(self.known, images.keys, contents)

    def check_enough(self, matching: Matching, images: ImageSource, *, force: bool) -> None:
        """Refuse what is rather another folder, or one whose disk isn't there."""
        before = np.flatnonzero(self.known.usable)
        n_there = int((matching.places[before] >= 0).sum())
        if n_there < _FEWEST * len(before) and not force:
            raise InputError(
                f"only {n_there:,} of the {count_of(len(before), 'image')} of {self.run.path} "
                f"{'is' if n_there == 1 else 'are'} in {images.uri}, so it was left as it is: say where its "
                "images are now (source=, SOURCE), or that so many are gone (force=True, --force)"
            )


@dataclass(frozen=True)
class _Update:
    """One update, as far as it is planned."""

    run: Run
    before: _RowsBefore
    images: ImageSource
    matching: Matching
    runtime: Runtime
    number: int

    @cached_property
    def gone(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.matching.places < 0
        return found

    @cached_property
    def keys(self) -> list[str]:
        known, images = self.before.known.keys, self.images.keys
        places = self.matching.places.tolist()
        return [images[place] if place >= 0 else known[row] for row, place in enumerate(places)]

    @cached_property
    def contents(self) -> list[bytes | None]:
        """Hash of every row's file; of one that is gone, or can't be read now, the last one."""
        now, known = hash_files(self.images), self.before.known.contents
        found = []
        for row, place in enumerate(self.matching.places.tolist()):
            content = now[place] if place >= 0 else None
            found.append(content if content is not None or row >= len(known) else known[row])
        return found

    def write(self, stages: Stages, backbone: str | Path | Backbone | None) -> Updated:
        """Embed what is new, and put all into the run at one moment."""
        started = time.monotonic()
        features, n_embedded = self._embed(backbone)
        groups = CorrectedGroups.of(self.run)
        tables = UpdatedTables.of(
            self.run, pa.array(self.keys, pa.string()), self.gone, features, self.runtime
        )
        counts = self._count(tables, n_embedded)
        self._keep(stages, features, tables, counts, started)
        done = Updated(self.run.path, self.number, True, self.images.uri, counts)
        return replace_in(done, groups=compare_groups(groups, Run(self.run.path, stages.manifest)))

    def _embed(self, backbone: str | Path | Backbone | None) -> tuple[FeatureStore, int]:
        store, manifest = self.before.store, self.run.manifest
        variant = manifest.features["variant"]
        store.verify(variant)  # its vectors are kept
        rows = JoinedPictures(self.images, self.keys, self.matching.places, self.gone)
        kept = np.where(np.arange(len(rows)) < store.n_rows, np.arange(len(rows)), -1)
        kept[[*self.matching.what["returned"], *self.matching.mended]] = -1
        gone = dict.fromkeys(np.flatnonzero(self.gone).tolist(), _GONE)
        known = Known.of_rows(store, kept, self.contents, gone)
        n_new = int(known.new.sum())
        loaded = None
        if n_new:
            engine = choose_engine(self.runtime.engine, n_new)
            loaded = self.run.backbone(backbone, device=str(self.runtime.device), engine=engine)
        features = continue_store(
            rows,
            loaded,
            self.run.path / f"features-{self.number}",
            known,
            variant,
            n_workers=self.runtime.n_workers,
            progress=self.runtime.progress,
        )
        return features, n_new

    def _count(self, tables: UpdatedTables, n_embedded: int) -> dict[str, int]:
        what = self.matching.what
        usable = set(tables.fresh.tolist())
        expected = [*what["came"], *what["changed"], *what["returned"], *self.matching.mended]
        return {
            "came": sum(row in usable for row in (*what["came"], *self.matching.mended)),
            "went": len(what["went"]) - len(self.matching.replaced),
            "moved": len(what["moved"]),
            "changed": len(what["changed"]),
            "returned": sum(row in usable for row in what["returned"]),
            "unreadable": sum(row not in usable for row in expected),
            "unread": len(self.matching.unread),
            "embedded": n_embedded,
        }

    def _history(self) -> pa.Table:
        """Return the lines of ``updates.parquet`` of this update behind the earlier ones."""
        lines = []
        known = self.before.known.keys
        for what, rows in self.matching.what.items():
            for row in rows:
                former = known[row] if what in ("moved", "returned") else None
                lines.append((self.number, row, self.keys[row], what, former, self.contents[row]))
        columns = zip(*sorted(lines), strict=True) if lines else ([] for _ in UPDATES_SCHEMA)
        new = pa.table([list(column) for column in columns], schema=UPDATES_SCHEMA)
        return pa.concat_tables([_read_updates(self.run), new])

    def _keep(
        self,
        stages: Stages,
        features: FeatureStore,
        tables: UpdatedTables,
        counts: dict[str, int],
        started: float,
    ) -> None:
        manifest = stages.manifest
        folder = f"former-{self.number}"
        former = {
            "folder": folder,
            "source": dict(manifest.source),
            "features": dict(manifest.features),
            "diagnosis": dict(manifest.diagnosis),
            "neighbors": manifest.neighbors,
            "level": self.run.level,
            "files": {name: manifest.hash_of(name) for name in _FORMER_FILES},
        }
        _keep_former(self.run, self.run.path / folder)
        variant = manifest.features["variant"]
        own = self.images
        n_gone = int(self.gone.sum())
        source = {
            **manifest.source,
            "images": own.uri,
            "n_rows": features.n_rows,
            "n_usable": len(features.rows),
            "n_skipped": features.n_rows - len(features.rows) - n_gone,
            "n_gone": n_gone,
        }
        if manifest.source.get("kind") != "features":
            source |= {"kind": own.kind, "uri": own.uri, "fingerprint": own.fingerprint()}
        fingerprint = features.fingerprint(variant)
        entry = {"number": self.number, "time": _now(), "source": own.uri, "counts": counts, "undone": None}
        updates = {
            "number": self.number,
            "fitted": _fitted(self.run),
            "source": _describe(own),
            "bases": tables.bases,
            "history": [*(manifest.updates or {}).get("history", []), entry],
            "former": former,
        }
        writers: dict[str, Callable[[Path], None]] = {
            ASSIGNMENTS_NAME: partial(write_table, table=tables.assignments),
            SKIPPED_NAME: partial(write_skipped, skipped=features.skipped),
            UPDATES_NAME: partial(write_table, table=self._history()),
            SPLITS_NAME: partial(write_table, table=tables.splits),
        }
        if tables.parts is not None:
            keys = tables.assignments["key"]
            writers[PARTS_NAME] = partial(write_parts, rows=features.rows, keys=keys, parts=tables.parts)
            if tables.closeness is not None and tables.clusters is not None:
                writers[TYPICALITY_NAME] = partial(
                    write_closeness,
                    rows=features.rows,
                    keys=keys,
                    closeness=tables.closeness,
                    labels=tables.clusters,
                )
        diagnosis = diagnose(tables.assignments["cluster"].to_numpy(), self.run.n_clusters).as_dict()
        _switch(
            stages,
            {"update": self.number, "features": fingerprint},
            writers,
            started,
            source=source,
            features={
                **manifest.features,
                "path": features.path.name,
                "column": None,
                "fingerprint": fingerprint,
            },
            diagnosis=diagnosis,
            neighbors=None,  # the graph is one of other rows
            updates=updates,
        )


def _switch(
    stages: Stages,
    inputs: Mapping[str, Any],
    writers: Mapping[str, Callable[[Path], None]],
    started: float,
    **sections: Any,
) -> None:
    """Put other rows into a run, all at one moment; the stages that speak of groups alone hold."""
    manifest = stages.manifest
    kept = {name: dict(manifest.stages[name]) for name in _KEPT_STAGES if name in manifest.stages}
    if manifest.metrics:
        logger.warning("what the evaluation found is of other images and is dropped: evaluate again")
    stages.replace("assign", inputs, writers, started, kept=kept, metrics={}, **sections)


def _fitted(run: Run) -> dict[str, Any]:
    """Return what the model was fitted on, which later updates don't change."""
    if run.manifest.updates:
        return dict(run.manifest.updates["fitted"])
    return {"features": run.manifest.features["fingerprint"], "n_rows": len(run.labels)}


def _keep_former(run: Run, folder: Path) -> None:
    """Keep the files that an update replaces."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in _FORMER_FILES:
        if (file := run.path / name).exists():
            try:
                os.link(file, folder / name)  # they are only ever replaced, never written into
            except OSError:
                shutil.copyfile(file, folder / name)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _read_updates(run: Run) -> pa.Table:
    if run.manifest.hash_of(UPDATES_NAME) is None:
        return UPDATES_SCHEMA.empty_table()
    return read_table(locate_whole(run.path, run.manifest, UPDATES_NAME, _MEND), UPDATES_SCHEMA, _MEND)


def _take_back(stages: Stages, run: Run, updates: dict[str, Any], former: dict[str, Any]) -> Updated:
    """Put the files of before an update back, with the names of now."""
    started = time.monotonic()
    number, folder = int(updates["number"]), run.path / former["folder"]
    place = run.path / former["features"]["path"]
    recorded = {name: sha256 for name, sha256 in former["files"].items() if sha256 is not None}
    for needed in (*(folder / name for name in recorded), place):
        if not needed.exists():
            raise InputError(f"update {number} can't be taken back: {needed} was deleted")
    for name, sha256 in recorded.items():
        if hash_file(folder / name) != sha256:
            raise FormatError(f"{folder / name} is damaged (its content isn't what was written); {_MEND}")
    before = Run(run.path, Manifest.of({**run.manifest, **{k: former[k] for k in ("source", "features")}}))
    before.features().verify(former["features"]["variant"])
    table = read_table(folder / ASSIGNMENTS_NAME, run.assignments.schema, _MEND)
    if former.get("level") != run.level:
        shown = "fit" if former.get("level") is None else former["level"]
        raise InputError(
            f"update {number} can't be taken back while the run shows another level: "
            f"`kinfold level {run.path} -k {shown}` first"
        )
    groups = CorrectedGroups.of(run)
    place_of_name = table.schema.get_field_index("name")
    table = name_alike(table.set_column(place_of_name, "name", pa.nulls(len(table), pa.string())), run)
    history = [
        {**entry, "undone": _now()} if entry["number"] == number else entry for entry in updates["history"]
    ]
    writers: dict[str, Callable[[Path], None]] = {
        ASSIGNMENTS_NAME: partial(write_table, table=table),
        SKIPPED_NAME: partial(_copy, folder / SKIPPED_NAME),
        UPDATES_NAME: partial(write_table, table=_read_updates(run)),
        SPLITS_NAME: partial(write_table, table=read_additions(run)),
    }
    if has_levels(run):
        writers[PARTS_NAME] = partial(_copy, folder / PARTS_NAME)
    if TYPICALITY_NAME in recorded and run.manifest.hash_of(TYPICALITY_NAME) is not None:
        writers[TYPICALITY_NAME] = partial(_copy, folder / TYPICALITY_NAME)
    source = {"uri": str(former["source"].get("images")), "fingerprint": ""}
    _switch(
        stages,
        {"undone": number, "features": former["features"]["fingerprint"]},
        writers,
        started,
        source=former["source"],
        features=former["features"],
        diagnosis=former["diagnosis"],
        neighbors=former.get("neighbors"),
        updates={
            **updates,
            "source": source,
            "bases": find_bases(run),
            "history": history,
            "former": None,
        },
    )
    done = Updated(run.path, number, True, source["uri"])
    return replace_in(done, groups=compare_groups(groups, Run(run.path, stages.manifest)))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
