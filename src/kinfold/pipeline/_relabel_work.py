"""What relabelling does once features are there: names, walk, checks, files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.features import Features, RowMatrix
from kinfold.images import ImageSource, open_source
from kinfold.language import (
    CLIP_LOGIT_SCALE,
    TEMPLATES,
    Calibration,
    Relabeling,
    TextEncoder,
    WalkAccuracy,
    calibration,
    walk_accuracy,
)
from kinfold.language.relabel import CANDIDATES, RelabelRule
from kinfold.language.relabel import relabel as refine
from kinfold.pipeline import _relabel_files as files
from kinfold.pipeline._classes import Classes, LemmaRule, embed_class_names
from kinfold.pipeline._source import Source
from kinfold.progress import Progress

logger = logging.getLogger(__name__)

RULE_TITLES = {"leaf": "down to a leaf (leaf-HZR)", "parent": "as far as it fits (p-HZR)"}


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
    device : str
        Where to compute.
    progress : Progress
        Shows every step.

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
        device: str,
        progress: Progress,
    ) -> None:
        self._out, self._features, self._classes, self._before = out, features, classes, before
        self._encoder, self._device, self._progress = encoder, device, progress
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
            self._out / files.TEXTS_NAME,
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
        files.write_calibration(self._out / files.CALIBRATION_NAME, curves)
        files.write_levels(self._out / files.LEVELS_NAME, levels)
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
        files.write_labels(self._out / files.LABELS_NAME, features.rows, keys, self._before, found, ids)
        files.write_moves(self._out / files.MOVES_NAME, report, ids, self._names)
        moves = Moves(
            rows=features.rows,
            keys=keys,
            before=self._before,
            after=found.labels,
            confidences=found.confidences,
            names=self._names,
            ids=ids,
            title=f"{report.n_moved:,} of {report.n_labeled:,} labels refined",
            words=(Path(source.uri).name, RULE_TITLES[report.rule], f"with {self._encoder.name}"),
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
        write_sheet(moves, images, self._out / files.SHEET_NAME, progress=self._progress)


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
