"""Finer labels for labeled images: from images and labels to a folder that says what moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from kinfold.backbones import Backbone
from kinfold.compute import resolve_device
from kinfold.errors import InputError, nearest_name
from kinfold.images import KeyList
from kinfold.labels import JoinedLabels
from kinfold.language.relabel import RELABEL_RULES, RelabelRule
from kinfold.locks import lock_directory
from kinfold.pipeline import _relabel_files as files
from kinfold.pipeline._backbone import as_backbone, as_spec, describe_backbone
from kinfold.pipeline._classes import LEMMA_RULES, WORDNET, LemmaRule, Names, TreeLike, find_classes
from kinfold.pipeline._embed import embed
from kinfold.pipeline._estimate import Estimate
from kinfold.pipeline._relabel_work import RelabelWork
from kinfold.pipeline._source import Source, SourceLike, resolve_source
from kinfold.pipeline._text import open_text_encoder_of
from kinfold.progress import SILENT, Progress

DEFAULT_JOINT_BACKBONE = "clip-vit-b32"
DEFAULT_CHECK_ROWS = 200_000


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
        report = files.read_report(Path(path))
        if not report.get("complete"):
            raise InputError(f"{path} isn't finished; repeat the `kinfold relabel` command to go on")
        return cls(Path(path), report)

    @cached_property
    def labels(self) -> pa.Table:
        """The usable images in row order: row, key, before, after, confidence, n_steps."""
        return files.read_labels_table(self.path / files.LABELS_NAME)


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
    _check(rule, lemmas, check_rows)
    out = Path(out)
    files.check_folder(out)
    opened = resolve_source(source, source_options)
    loaded = as_backbone(backbone, device, precision) if opened.images is not None else None
    encoder = open_text_encoder_of(opened, loaded, None, text_model, device=device, precision=precision)
    known = JoinedLabels(labels, _keys(opened), opened.uri)
    classes = find_classes(tree, names, known.distinct)
    numbers = classes.tree.numbers(known.distinct)  # before long work: one may not be in the tree
    out.mkdir(parents=True, exist_ok=True)
    with lock_directory(out):
        files.begin_folder(out)
        features = opened.features
        if opened.images is not None and loaded is not None:
            features = embed(
                opened.images,
                out / files.FEATURES_NAME,
                backbone=loaded,
                n_workers=n_workers,
                on_estimate=on_estimate,
                progress=progress,
            )
        assert features is not None
        before = known.of_rows(features.rows, numbers)
        work = RelabelWork(out, features, classes, before, encoder, resolve_device(device).type, progress)
        result = work.refine(rule, lemmas)
        checks = work.check(check_rows)
        work.write(result, opened)
        content = {
            "source": {**opened.describe(features.choose_variant(None)), "n_usable": len(features.rows)},
            "backbone": describe_backbone(features, None if loaded is None else as_spec(backbone)),
            **work.describe(),
            "labels": known.describe(features.rows),
            "parameters": {"rule": rule, "lemmas": lemmas, "logit_scale": work.logit_scale},
            "relabeling": result.report.as_dict(classes.tree.ids),
            "checks": checks,
        }
        return RelabelResult(out, files.write_report(out, content))


def _check(rule: str, lemmas: str, check_rows: int) -> None:
    for name, value, known in (("rule", rule, RELABEL_RULES), ("lemmas", lemmas, LEMMA_RULES)):
        if value not in known:
            hint = nearest_name(str(value), list(known))
            raise InputError(f"{name} must be one of {', '.join(known)}, not {value!r}{hint}")
    if isinstance(check_rows, bool) or not isinstance(check_rows, int) or check_rows < 0:
        raise InputError(f"check_rows must be a whole number of 0 or more, not {check_rows!r}")


def _keys(source: Source) -> pa.Array:
    if source.images is not None:
        keys = source.images.keys
        return keys.to_arrow() if isinstance(keys, KeyList) else pa.array(keys, pa.large_string())
    assert source.features is not None
    return source.features.keys.cast(pa.large_string())
