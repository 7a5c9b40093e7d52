"""Labels and figures per class: read from folders, tables, runs and what ``kinfold relabel`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.labels import ClassCounts, LabelFile, LabelTable


def read_folder_labels(source: str | Path) -> LabelTable:
    """Take the folder that every image of a source lies in for its label.

    Parameters
    ----------
    source : str or Path
        Anything with keys like ``train/n01440764/1.JPEG``: a folder, a zip, WebDataset shards. A first folder
        that is called train, val or test (or validation, …) is the split; a folder ``images`` right above the
        image is passed over, as Tiny-ImageNet has it. See :func:`kinfold.labels.label_by_folder`.

    Raises
    ------
    InputError
        There are no images, or none lies in a folder.
    """
    from kinfold.images import open_source

    keys = open_source(source).keys
    column = keys.to_arrow() if hasattr(keys, "to_arrow") else pa.array(keys, pa.large_string())
    return LabelTable.from_folders(column, str(source))


def read_label_table(path: str | Path) -> LabelTable:
    """Read labels by key.

    Parameters
    ----------
    path : str or Path
        A CSV, TSV or Parquet file with the columns ``key`` and ``label``, and perhaps ``split`` (without it a
        first folder of the key that is called train, val or test is the split); or a folder that
        ``kinfold relabel`` wrote, whose new classes are taken; or a run, whose groups are.

    Raises
    ------
    InputError
        It can't be read, lacks a column, has no label, or gives a key two labels.
    """
    from kinfold.run import Run, is_run

    path = Path(path)
    if is_run(path):
        rows = Run.open(path).assignments
        return LabelTable.from_columns(rows["key"], rows["cluster"], what=f"the groups of {path}")
    return LabelTable.read(path)


def read_counts(path: str | Path) -> ClassCounts:
    """Read a class histogram: a CSV, TSV or Parquet file with the columns ``class`` and ``count``.

    Raises
    ------
    InputError
        It can't be read, lacks a column, counts a class twice, or has counts that are no integers.
    """
    path = Path(path)
    table = _read_figures(path, "counts", "count")
    classes = table["class"].cast(pa.string()).to_pylist()
    if not classes:
        raise InputError(f"{path} counts no class: it has no rows")
    counts = _numbers(path, table["count"], "count")
    if (counts < 0).any() or (counts != np.floor(counts)).any():
        raise InputError(f"{path}: counts must be integers of at least 0")
    return ClassCounts(_class_names(path, classes), counts.astype(np.int64))


def read_accuracies(path: str | Path) -> dict[str, float]:
    """Read accuracies per class: a CSV, TSV or Parquet file with the columns ``class`` and ``accuracy``.

    Raises
    ------
    InputError
        It can't be read, lacks a column, names a class twice, or an accuracy is no number.
    """
    path = Path(path)
    table = _read_figures(path, "accuracies", "accuracy")
    classes = _class_names(path, table["class"].cast(pa.string()).to_pylist())
    if len(set(classes)) < len(classes):
        raise InputError(f"{path} names a class twice")
    values = _numbers(path, table["accuracy"], "accuracy")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: an accuracy is missing or not finite")
    return dict(zip(classes, values.tolist(), strict=True))


def _read_figures(path: Path, what: str, name: str) -> pa.Table:
    """Read a number per class: the columns ``class`` and ``name``; errors call the numbers ``what``."""
    file = LabelFile(path, what)
    file.require("class", name)
    return file.table("class", name)


def _class_names(path: Path, classes: list[str | None]) -> tuple[str, ...]:
    if any(not name for name in classes):
        raise InputError(
            f"{path}, row {[bool(name) for name in classes].index(False) + 1}: the class is empty"
        )
    return tuple(str(name) for name in classes)


def _numbers(path: Path, column: Any, name: str) -> NDArray[np.float64]:
    try:
        values = pc.fill_null(column.cast(pa.float64()), float("nan"))
        return np.asarray(values, dtype=np.float64)
    except pa.ArrowException as error:
        raise InputError(f"column {name!r} of {path} holds something else than numbers: {error}") from error
