"""Reading labels and class histograms: from folders, tables, runs and relabelled sets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.benchmark._labels import ClassCounts, LabelTable, split_name
from kinfold.errors import InputError, nearest_name

_RELABELED = "labels.parquet"
_LABEL_COLUMNS = ("label", "after")  # "after": what kinfold relabel writes
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_folder_labels(source: str | Path) -> LabelTable:
    """Take the folder that every image of a source lies in for its label.

    Parameters
    ----------
    source : str or Path
        Anything with keys like ``train/n01440764/1.JPEG``: a folder, a zip, WebDataset shards. A first folder
        that is called train, val or test (or validation, …) is the split; a folder ``images`` right above the
        image is passed over, as Tiny-ImageNet has it.

    Raises
    ------
    InputError
        There are no images, or none lies in a folder.
    """
    from kinfold.images import open_source

    keys = open_source(source).keys
    column = keys.to_arrow() if hasattr(keys, "to_arrow") else pa.array(keys, pa.large_string())
    return label_by_folder(column, str(source))


def label_by_folder(keys: Any, source: str) -> LabelTable:
    """Take the folder that every image lies in for its label, see :func:`read_folder_labels`."""
    column = keys.cast(pa.large_string())
    plain = pc.replace_substring_regex(column, r"/images/([^/]+)$", r"/\1")
    splits = _splits_of(plain)
    label = pc.replace_substring_regex(plain, r"^(?:(?:.*/)?([^/]*)/[^/]*|[^/]*)$", r"\1")
    alone = pc.and_(pc.is_valid(splits), pc.equal(pc.count_substring(plain, "/"), 1))
    labels = pc.if_else(alone, pa.scalar(None, pa.large_string()), label)
    if not pc.any(pc.greater(pc.utf8_length(pc.fill_null(labels, "")), 0)).as_py():
        raise InputError(f"no image of {source} lies in a folder that names its class")
    return LabelTable.from_columns(column, labels, splits, what=f"the folders of {source}")


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
    if (path / _RELABELED).is_file():
        path = path / _RELABELED
    table = _read_table(path, "labels", "a folder of `kinfold relabel`, or a run")
    name = next((one for one in _LABEL_COLUMNS if one in table.column_names), "label")
    _require(path, table.column_names, "key", name)
    if "split" in table.column_names:
        splits = _normalised_splits(table["split"])
    else:
        splits = _splits_of(table["key"].cast(pa.large_string()).combine_chunks())
    return LabelTable.from_columns(table["key"], table[name], splits, what=str(path))


def read_counts(path: str | Path) -> ClassCounts:
    """Read a class histogram: a CSV, TSV or Parquet file with the columns ``class`` and ``count``.

    Raises
    ------
    InputError
        It can't be read, lacks a column, counts a class twice, or has counts that are no whole numbers.
    """
    path = Path(path)
    table = _read_table(path, "counts", "")
    _require(path, table.column_names, "class", "count")
    classes = table["class"].cast(pa.string()).to_pylist()
    if not classes:
        raise InputError(f"{path} counts no class: it has no rows")
    counts = _numbers(path, table["count"], "count")
    if (counts < 0).any() or (counts != np.floor(counts)).any():
        raise InputError(f"{path}: counts must be whole numbers of 0 or more")
    return ClassCounts(_class_names(path, classes), counts.astype(np.int64))


def read_accuracies(path: str | Path) -> dict[str, float]:
    """Read accuracies per class: a CSV, TSV or Parquet file with the columns ``class`` and ``accuracy``.

    Raises
    ------
    InputError
        It can't be read, lacks a column, names a class twice, or an accuracy is none.
    """
    path = Path(path)
    table = _read_table(path, "accuracies", "")
    _require(path, table.column_names, "class", "accuracy")
    classes = _class_names(path, table["class"].cast(pa.string()).to_pylist())
    if len(set(classes)) < len(classes):
        raise InputError(f"{path} names a class twice")
    values = _numbers(path, table["accuracy"], "accuracy")
    if not np.isfinite(values).all():
        raise InputError(f"{path}: an accuracy is missing or not finite")
    return dict(zip(classes, values.tolist(), strict=True))


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


def _splits_of(keys: Any) -> Any:
    """Return the first folder of every key where its name is that of a split, else null."""
    encoded = pc.replace_substring_regex(keys, r"^(?:([^/]*)/.*|[^/]*)$", r"\1").dictionary_encode()
    known = [split_name(name) if name else None for name in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.large_string()).take(encoded.indices)


def _normalised_splits(column: Any) -> Any:
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    return pa.array([text and (split_name(text) or text) for text in texts], pa.large_string()).take(
        encoded.indices
    )


def _read_table(path: Path, what: str, other: str) -> Any:
    if not path.is_file():
        more = f", {other}" if other else ""
        raise InputError(f"there are no {what} at {path}; give a CSV, TSV or Parquet file{more}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pq.read_table(path)
        delimiter = _DELIMITERS.get(path.suffix.lower())
        if delimiter is None:
            raise InputError(f"{path} must end in .csv, .tsv or .parquet")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            names = next(csv.reader(stream, delimiter=delimiter), [])
        texts = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
        )
        parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        return pa_csv.read_csv(path, parse_options=parse, convert_options=texts)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read: {str(error).splitlines()[0]}") from error


def _require(path: Path, names: list[str], *wanted: str) -> None:
    for name in wanted:
        if name not in names:
            hint = nearest_name(name, names) or f"; it has {', '.join(names) or 'none'}"
            raise InputError(f"{path} has no column {name!r}{hint}")
