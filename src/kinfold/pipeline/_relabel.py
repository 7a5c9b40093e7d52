"""Finer labels for labeled images: from images and labels to a folder that says what moved."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.backbones import Backbone
from kinfold.compute import Runtime
from kinfold.errors import InputError
from kinfold.features import Features, RowMatrix
from kinfold.images import ImageSource, KeyList, open_source
from kinfold.labels import JoinedLabels
from kinfold.language import (
    CLIP_LOGIT_SCALE,
    TEMPLATES,
    Calibration,
    Relabeling,
    RelabelReport,
    TextEncoder,
    WalkAccuracy,
    calibration,
    walk_accuracy,
)
from kinfold.language.relabel import CANDIDATES, RELABEL_RULES, RelabelRule
from kinfold.language.relabel import relabel as refine
from kinfold.locks import LOCK_NAME, lock_directory
from kinfold.paths import arrow_path
from kinfold.pipeline._classes import (
    LEMMA_RULES,
    WORDNET,
    Classes,
    LemmaRule,
    Names,
    TreeLike,
    embed_class_names,
    find_classes,
)
from kinfold.pipeline._embed import embed
from kinfold.pipeline._estimate import Estimate
from kinfold.pipeline._language import open_text_encoder_of
from kinfold.pipeline._source import (
    Source,
    SourceLike,
    as_backbone,
    as_spec,
    describe_backbone,
    resolve_source,
)
from kinfold.progress import SILENT, Progress
from kinfold.reading import reading
from kinfold.storage import (
    PARTIAL_PREFIX,
    atomic_file,
    check_folder,
    check_format_version,
    check_own,
    read_json,
    remove_partials,
    write_json,
)
from kinfold.validation import Choice, Constraint, Integer, check

FORMAT = "kinfold-relabeling"
FORMAT_VERSION = 1
REPORT_NAME = "report.json"
LABELS_NAME = "labels.parquet"
MOVES_NAME = "moves.csv"
CALIBRATION_NAME = "calibration.csv"
LEVELS_NAME = "levels.csv"
SHEET_NAME = "sheet.html"
FEATURES_NAME = "features"
TEXTS_NAME = "texts"
_FOLDERS_BELOW = 4  # levels of its folders: features/variants/NAME/00000.npy
_RESULTS = (LABELS_NAME, MOVES_NAME, CALIBRATION_NAME, LEVELS_NAME, SHEET_NAME)

LABELS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("confidence", pa.float32()),
        ("n_steps", pa.int32()),
    ]
)


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else than a relabelling, finished or not.

    Raises
    ------
    InputError
        There is something else.
    FormatError
        The relabelling there is damaged, or of a newer format.
    """
    check_own(out, depth=_FOLDERS_BELOW)
    if (out / REPORT_NAME).is_file():
        read_report(out)
        return
    try:
        check_folder(
            out,
            "a result of `kinfold relabel`",
            lambda name: name == LOCK_NAME or name.startswith(PARTIAL_PREFIX),
        )
    except InputError:
        if not (out / REPORT_NAME).is_file():  # another process may have begun between the two looks
            raise
        read_report(out)


def read_report(out: Path) -> dict[str, Any]:
    """Return what ``report.json`` says.

    Raises
    ------
    InputError
        It is the report of something else.
    FormatError
        It is damaged, or of a newer format.
    """
    path = out / REPORT_NAME
    check_own(out, depth=_FOLDERS_BELOW)
    if not path.is_file():
        raise InputError(f"there is no relabelling at {out}; {REPORT_NAME} is missing")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} was not written by `kinfold relabel`; choose another folder (out=, --out)")
    check_format_version(path, content.get("format_version"), FORMAT_VERSION)
    return content


def begin_folder(out: Path) -> None:
    """Mark the folder as a relabelling that isn't finished; earlier results go, features stay."""
    remove_partials(out)
    write_report(out, {}, complete=False)
    for name in _RESULTS:
        (out / name).unlink(missing_ok=True)


def write_report(out: Path, content: dict[str, Any], *, complete: bool = True) -> dict[str, Any]:
    """Write ``report.json`` and return what it says."""
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": complete, **content}
    write_json(out / REPORT_NAME, whole)
    return whole


def write_labels(
    path: Path,
    rows: NDArray[np.int64],
    keys: Any,
    before: NDArray[np.int32],
    found: Relabeling,
    ids: Sequence[str],
) -> None:
    """Write the class of every usable image before and after; nothing where it has none."""
    names = pa.array(ids, pa.string())
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    columns = [
        pa.array(rows, pa.int64()),
        keys.cast(pa.string()),
        names.take(pa.array(before, pa.int32(), mask=before < 0)),
        names.take(pa.array(found.labels, pa.int32(), mask=found.labels < 0)),
        pa.array(found.confidences, pa.float32(), mask=np.isnan(found.confidences)),
        pa.array(found.steps, pa.int32()),
    ]
    with atomic_file(path) as partial:
        table = pa.Table.from_arrays(columns, schema=LABELS_SCHEMA)
        pq.write_table(
            table, arrow_path(partial, "wb"), compression="zstd", row_group_size=1 << 17, store_schema=False
        )


def read_labels_table(path: Path) -> pa.Table:
    """Read ``labels.parquet`` back; :class:`FormatError` where it is missing or damaged."""
    with reading(path, "relabel again"):
        return pq.read_table(arrow_path(path)).select(LABELS_SCHEMA.names).cast(LABELS_SCHEMA)


def write_moves(path: Path, report: RelabelReport, ids: Sequence[str], names: Sequence[str]) -> None:
    """Write from which class to which how many images moved, most first."""
    moves = zip(report.before.tolist(), report.after.tolist(), report.counts.tolist(), strict=True)
    rows = ((ids[a], names[a], ids[b], names[b], count) for a, b, count in moves)
    _write_csv(path, ("before", "before_name", "after", "after_name", "count"), rows)


def write_calibration(path: Path, found: Sequence[Calibration]) -> None:
    """Write the curves: per choice of candidates and bin how many, how right, how sure."""
    rows = (
        (one.candidates, _number(low), _number(high), count, _number(right), _number(sure))
        for one in found
        for low, high, count, right, sure in zip(
            one.curve.edges[:-1].tolist(),
            one.curve.edges[1:].tolist(),
            one.curve.counts.tolist(),
            one.curve.accuracies.tolist(),
            one.curve.confidences.tolist(),
            strict=True,
        )
    )
    _write_csv(path, ("candidates", "above", "up_to", "count", "accuracy", "confidence"), rows)


def write_levels(path: Path, found: WalkAccuracy) -> None:
    """Write how often the choice at classes of each depth went towards the known label."""
    figures = zip(found.counts.tolist(), found.accuracies.tolist(), found.chances.tolist(), strict=True)
    rows = (
        (depth, count, _number(right), _number(chance))
        for depth, (count, right, chance) in enumerate(figures)
    )
    _write_csv(path, ("depth", "count", "accuracy", "chance"), rows)


def _number(value: float) -> str:
    return "" if value != value else f"{value:.6g}"


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


DEFAULT_JOINT_BACKBONE = "clip-vit-b32"  # the fastest CLIP of the catalogue
DEFAULT_CHECK_ROWS = 200_000  # a share of so many is known to about 0.1 %; more takes longer and says no more

logger = logging.getLogger(__name__)

_RULES: Mapping[str, Constraint] = {
    "rule": Choice(RELABEL_RULES),
    "lemmas": Choice(LEMMA_RULES),
    "check_rows": Integer(least=0),
}
_RULE_TITLES = {"leaf": "down to a leaf (leaf-HZR)", "parent": "as far as it fits (p-HZR)"}


@dataclass(frozen=True)
class RelabelResult:
    """A folder of refined labels.

    Attributes
    ----------
    path : Path
        The folder.
    report : dict
        What ``report.json`` says; see docs/formats.md.
    """

    path: Path
    report: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> RelabelResult:
        """Open what :func:`relabel` wrote.

        Raises
        ------
        InputError
            It is something else, or not finished.
        FormatError
            It is damaged, or of a newer format.
        """
        report = read_report(Path(path))
        if not report.get("complete"):
            raise InputError(f"{path} isn't finished; repeat the `kinfold relabel` command to go on")
        return cls(Path(path), report)

    @cached_property
    def labels(self) -> pa.Table:
        """The usable images in row order: row, key, before, after, confidence, n_steps."""
        return read_labels_table(self.path / LABELS_NAME)


def relabel(
    source: SourceLike,
    labels: str | Path | Mapping[Any, Any],
    out: str | Path,
    *,
    tree: TreeLike = WORDNET,
    rule: RelabelRule = "leaf",
    names: str | Path | Names | None = None,
    lemmas: LemmaRule = "vote",
    backbone: str | Path | Backbone = DEFAULT_JOINT_BACKBONE,
    text_model: str | Path | None = None,
    check_rows: int = DEFAULT_CHECK_ROWS,
    device: str = "auto",
    precision: str = "auto",
    n_workers: int | None = None,
    source_options: Mapping[str, Any] | None = None,
    on_estimate: Callable[[Estimate], None] | None = None,
    progress: Progress = SILENT,
) -> RelabelResult:
    """Refine labels to classes further down a class tree, by what images and class names have in common.

    Parameters
    ----------
    source : path, ImageSource or Features
        Labeled images; or their features in the joint space of a vision-language model.
    labels : path, "folder" or Mapping
        As for :func:`evaluate`: a CSV or Parquet file with the columns ``key`` and ``label``, ``"folder"``,
        or a mapping. Images without a label keep none.
    out : path
        The folder to write: new, empty, or an earlier result, which is replaced. An interrupted call is gone
        on with.
    tree : "wordnet", path or ClassTree, default "wordnet"
        Which classes lie below which: labels are synsets of WordNet 3.0 (``n02084071``), or a parent table.
    rule : {"leaf", "parent"}, default "leaf"
        Down to a leaf, or as far as the image fits the finer class better than the coarser one; see
        :func:`kinfold.language.relabel`.
    names : path or Mapping, optional
        Names of classes: a CSV file with the columns ``id`` and ``name``, several rows for several names of a
        class. By default synsets have their lemmas, other classes are called as their ids.
    lemmas : {"vote", "first"}, default "vote"
        Which name stands for a class of several: the one that most of its own images are closest to, or the
        first.
    backbone : str, path or Backbone, default "clip-vit-b32"
        What embeds images, into ``out``/features; it must have a text tower.
    text_model : str or path, optional
        Where the text tower is, if not in the backbone of the features; needed for ready features.
    check_rows : int, default 200,000
        Most labeled images that calibration and the accuracy of choices are measured on, drawn with a fixed
        seed; 0 measures nothing.
    device, precision : str, default "auto"
        Where and how exactly to compute.
    n_workers, source_options, on_estimate, progress
        As for :func:`embed`; for features in Parquet ``source_options`` takes ``column``.

    Returns
    -------
    RelabelResult

    Raises
    ------
    InputError
        Source, labels, tree, names or model can't be used or don't fit together, or ``out`` holds something
        else.
    """
    check(_RULES, rule=rule, lemmas=lemmas, check_rows=check_rows)
    out = Path(out)
    check_out(out)
    opened = resolve_source(source, source_options)
    runtime = Runtime.resolve(device, precision, n_workers=n_workers, progress=progress)
    loaded = as_backbone(backbone, runtime) if opened.images is not None else None
    encoder = open_text_encoder_of(opened, loaded, None, text_model, runtime)
    known = JoinedLabels(labels, _keys(opened), opened.uri)
    classes = find_classes(tree, names, known.distinct)
    numbers = classes.tree.numbers(known.distinct)  # before long work: one may not be in the tree
    with lock_directory(out, create=True):
        check_out(out)  # again: another process may have written here before the lock was ours
        begin_folder(out)
        features = opened.features
        if opened.images is not None and loaded is not None:
            features = embed(
                opened.images,
                out / FEATURES_NAME,
                backbone=loaded,
                n_workers=n_workers,
                on_estimate=on_estimate,
                progress=progress,
            )
        assert features is not None
        features.verify(features.choose_variant(None))
        before = known.of_rows(features.rows, numbers)
        work = RelabelWork(out, features, classes, before, encoder, runtime)
        result = work.refine(rule, lemmas)
        checks = work.check(check_rows)
        work.write(result, opened)
        content = {
            "source": {**opened.describe(features.choose_variant(None)), "n_usable": len(features.rows)},
            "backbone": describe_backbone(features, None if loaded is None else as_spec(backbone, loaded)),
            **work.describe(),
            "labels": known.describe(features.rows),
            "parameters": {"rule": rule, "lemmas": lemmas, "logit_scale": work.logit_scale},
            "relabeling": result.report.as_dict(classes.tree.ids),
            "checks": checks,
        }
        return RelabelResult(out, write_report(out, content))


def _keys(source: Source) -> pa.Array:
    if source.images is not None:
        keys = source.images.keys
        return keys.to_arrow() if isinstance(keys, KeyList) else pa.array(keys, pa.large_string())
    assert source.features is not None
    return source.features.keys.cast(pa.large_string())


class RelabelWork:
    """The steps of relabelling, once features are there.

    Parameters
    ----------
    out : Path
        The folder.
    features : Features
        Of the images, in the joint space.
    classes : Classes
        Tree and names.
    before : ndarray (n_usable,) int32
        Class of every usable image, −1 for none.
    encoder : TextEncoder
        What reads the names.
    runtime : Runtime
        Where to compute, and who is shown every step.

    Attributes
    ----------
    logit_scale : float
        Of the encoder, CLIP's where it has none.
    """

    def __init__(
        self,
        out: Path,
        features: Features,
        classes: Classes,
        before: NDArray[np.int32],
        encoder: TextEncoder,
        runtime: Runtime,
    ) -> None:
        self._out, self._features, self._classes, self._before = out, features, classes, before
        self._encoder, self._device, self._progress = encoder, str(runtime.device), runtime.progress
        self._matrix: RowMatrix = features.matrix()
        self._names: tuple[str, ...] = ()
        self._texts: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self.logit_scale = CLIP_LOGIT_SCALE if encoder.logit_scale is None else float(encoder.logit_scale)

    def refine(self, rule: RelabelRule, lemmas: LemmaRule) -> Relabeling:
        """Read the classes' names and walk down."""
        self._names, self._texts = embed_class_names(
            self._classes,
            self._encoder,
            lemmas,
            self._matrix,
            self._before,
            self._out / TEXTS_NAME,
            self._progress,
        )
        leaf = self._classes.tree.is_leaf()
        if leaf[self._before[self._before >= 0]].all():
            logger.warning("no label has a class below it in the tree, so none can move")
        return refine(
            self._matrix,
            self._before,
            self._classes.tree,
            self._texts,
            rule=rule,
            logit_scale=self.logit_scale,
            device=self._device,
            progress=self._progress,
        )

    def describe(self) -> dict[str, Any]:
        """Return what the report says of words and tree, JSON-ready."""
        return {
            "text_encoder": self._encoder.describe(),
            "prompts": list(TEMPLATES),
            "tree": self._classes.describe(),
        }

    def check(self, most_rows: int) -> dict[str, Any]:
        """Measure choices against the labels as they were, on some of the rows, and write the tables."""
        labeled = np.flatnonzero(self._before >= 0)
        if not most_rows or not len(labeled):
            return {"n_rows": 0}
        if len(labeled) > most_rows:
            labeled = np.random.default_rng(0).choice(labeled, most_rows, replace=False)
        some = np.full(len(self._before), -1, np.int32)
        some[labeled] = self._before[labeled]
        asked = (self._matrix, some, self._classes.tree, self._texts)
        shared: dict[str, Any] = {"device": self._device, "progress": self._progress}
        curves = [calibration(*asked, name, logit_scale=self.logit_scale, **shared) for name in CANDIDATES]
        levels = walk_accuracy(*asked, **shared)
        write_calibration(self._out / CALIBRATION_NAME, curves)
        write_levels(self._out / LEVELS_NAME, levels)
        return {
            "n_rows": len(labeled),
            "calibration": {one.candidates: _describe_calibration(one) for one in curves},
            "choices": _describe_levels(levels),
        }

    def write(self, found: Relabeling, source: Source) -> None:
        """Write labels, moves and the sheet."""
        from kinfold.gallery import Moves, write_sheet

        ids, report, features = self._classes.tree.ids, found.report, self._features
        keys = features.keys.take(pa.array(features.rows))
        write_labels(self._out / LABELS_NAME, features.rows, keys, self._before, found, ids)
        write_moves(self._out / MOVES_NAME, report, ids, self._names)
        moves = Moves(
            rows=features.rows,
            keys=keys,
            before=self._before,
            after=found.labels,
            confidences=found.confidences,
            names=self._names,
            ids=ids,
            title=f"{report.n_moved:,} of {report.n_labeled:,} labels refined",
            words=(Path(source.uri).name, _RULE_TITLES[report.rule], f"with {self._encoder.name}"),
            figures={
                "could move": f"{report.n_inner:,}",
                "moved of these": f"{100 * report.share_of_inner_moved:.1f} %",
                "classes before": f"{report.n_classes_before:,}",
                "classes after": f"{report.n_classes_after:,}",
                "vanished": f"{len(report.vanished):,}",
                "appeared": f"{len(report.appeared):,}",
            },
        )
        images = _find_images(source, features)
        write_sheet(moves, images, self._out / SHEET_NAME, progress=self._progress)


def _find_images(source: Source, features: Features) -> ImageSource | None:
    """Open the images of features where they were; None, with a warning, if they are gone or other ones."""
    if source.images is not None or features.source_uri is None:
        return source.images
    try:
        images = open_source(features.source_uri)
    except InputError as error:
        logger.warning("the sheet will show no pictures: %s", error)
        return None
    some = np.unique(np.linspace(0, features.n_rows - 1, 100).astype(np.int64)).tolist()
    if len(images) == features.n_rows and all(images.keys[i] == features.keys[i].as_py() for i in some):
        return images
    logger.warning("the sheet will show no pictures: %s holds other images by now", features.source_uri)
    return None


def _describe_calibration(found: Calibration) -> dict[str, float]:
    return {
        "accuracy": found.accuracy,
        "mean_confidence": found.mean_confidence,
        "expected_calibration_error": found.error,
    }


def _describe_levels(found: WalkAccuracy) -> Sequence[dict[str, Any]]:
    return [
        {"depth": depth, "count": int(count), "accuracy": float(right), "chance": float(chance)}
        for depth, (count, right, chance) in enumerate(
            zip(found.counts, found.accuracies, found.chances, strict=True)
        )
        if count
    ]
