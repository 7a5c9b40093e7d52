"""Labels of images, by key: read for evaluation and relabelling, never for clustering."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.pipeline._label_rows import LabelNumbers, LabelRows, Matching, show_examples, sort_labels

FOLDER = "folder"
LISTS = (list, set, frozenset, np.ndarray, tuple)
_PIECE = 1 << 16  # lines of a file at a time


class JoinedLabels:
    """One label by key, beside the rows of a source. Labels are texts here.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        As for :func:`read_labels`.
    keys : pyarrow.Array of large_string
        Key of every row.
    where : str
        What the rows are of, for messages.

    Attributes
    ----------
    distinct : tuple of str
        The different labels, sorted; also those of keys that no row has.

    Raises
    ------
    InputError
        The labels can't be read, there are none, or no row has one.
    """

    def __init__(self, labels: str | Path | Mapping[Any, Any], keys: pa.Array, where: str) -> None:
        self._source = "given" if isinstance(labels, Mapping) else str(labels)
        self._rows = read_labels(labels, keys)
        known = self._rows.one_each(name_source(labels))
        self._labeled = known >= 0
        if not self._labeled.any():
            raise InputError(
                f"there are no labels ({self._source}): there are no rows, or all labels are empty"
            )
        self._places = self._rows.places_of(keys)
        if not len(Matching.of(self._labeled, self._rows, self._places).rows):
            raise InputError(no_label_fits(self._rows, self._labeled, keys, where))
        texts = LabelNumbers()
        numbers = texts.of(map(str, self._rows.values), len(self._rows.values))
        used = np.zeros(len(texts.labels), dtype=bool)
        used[numbers[known[self._labeled]]] = True
        self.distinct, sorted_numbers = sort_labels(texts.labels, used)
        by_key = np.append(sorted_numbers[numbers], np.int32(-1))[known]  # −1 is the last
        self._codes = np.append(by_key, np.int32(-1))[self._places]

    def of_rows(self, rows: NDArray[np.int64], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the class of some rows, int32, −1 for none; ``numbers`` are the classes of ``distinct``."""
        padded = np.append(numbers, np.int32(-1)).astype(np.int32)  # −1 is the last
        found: NDArray[np.int32] = padded[self._codes[rows]]
        return found

    def describe(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return how well labels and rows fit one another, JSON-ready."""
        found = Matching.of(self._labeled, self._rows, self._places[rows])
        return {
            "source": self._source,
            "n_classes": len(self.distinct),
            "n_matched": len(found.rows),
            "n_without_label": found.n_without_label,
            "n_without_image": found.n_without_image,
            "labels_without_image": list(found.labels_without_image),
        }


def read_labels(labels: str | Path | Mapping[Any, Any], keys: pa.Array) -> LabelRows:
    """Read one or several labels by key, in the order of the file.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        A CSV or Parquet file with the columns ``key`` and ``label``; or ``"folder"``, the name of the folder
        that each key lies in; or a mapping from key to label.
    keys : pyarrow.Array of large_string
        Keys of the images; read for ``"folder"`` alone.

    Raises
    ------
    InputError
        The labels can't be read.
    """
    if isinstance(labels, Mapping):
        return _of_mapping(labels)
    if str(labels) == FOLDER:
        return _of_folders(keys)
    path = Path(labels)
    if not path.is_file():
        raise InputError(
            f"there are no labels at {path}; give a CSV or Parquet file with the columns key,label, "
            f"or {FOLDER!r} for the name of each image's folder"
        )
    return read_parquet(path, "label") if path.suffix == ".parquet" else _read_csv(path)


def name_source(labels: str | Path | Mapping[Any, Any]) -> str:
    """Return what a message calls the labels."""
    return "the mapping" if isinstance(labels, Mapping) else str(labels)


def no_label_fits(rows: LabelRows, labeled: NDArray[np.bool_], keys: pa.Array, where: str) -> str:
    """Return the message that keys of labels and of images have nothing in common."""
    known = show_examples(rows.keys.filter(pa.array(labeled)))
    return f"no label is about an image of {where}: labels are for {known}, images are {show_examples(keys)}"


def _of_mapping(labels: Mapping[Any, Any]) -> LabelRows:
    keys, numbers = _as_keys([str(key) for key in labels]), LabelNumbers()
    if not any(isinstance(some, LISTS) for some in labels.values()):
        codes = numbers.of(labels.values(), len(labels))
        return LabelRows.from_columns(keys, codes, numbers.labels)
    lists = [list(some) if isinstance(some, LISTS) else [some] for some in labels.values()]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    codes = numbers.of(chain.from_iterable(lists), int(counts.sum()))
    return LabelRows.from_columns(keys, codes, numbers.labels, counts)


def _as_keys(keys: list[str]) -> pa.Array:
    try:
        return pa.array(keys, pa.large_string())
    except UnicodeEncodeError as error:
        raise InputError(f"a key is no Unicode text: {error}") from error


def _of_folders(keys: pa.Array) -> LabelRows:
    above = pc.replace_substring_regex(keys, r"(?s)(^|/)[^/]*$", "").dictionary_encode()
    names = [PurePosixPath(folder).name for folder in above.dictionary.to_pylist()]
    if not any(names):
        raise InputError(f"labels='folder' needs images in folders, but keys are like {show_examples(keys)}")
    numbers = LabelNumbers()
    codes = numbers.of(names, len(names))[above.indices.to_numpy(zero_copy_only=False)]
    return LabelRows.from_columns(keys, codes, numbers.labels)


def _read_csv(path: Path) -> LabelRows:
    keys: list[pa.Array] = [pa.array([], pa.large_string())]
    codes: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    numbers = LabelNumbers()
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            names = next(reader, [])
            if not any(name.strip() for name in names):
                raise InputError(
                    f"{path} is empty; it needs a first line key,label and a line for each image"
                )
            _check_columns(path, names)
            for piece in _pairs(reader, names):
                keys.append(pa.array([key for key, _ in piece], pa.large_string()))
                codes.append(numbers.of((label for _, label in piece), len(piece)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error
    return LabelRows.from_columns(pa.chunked_array(keys), np.concatenate(codes), numbers.labels)


def _pairs(lines: Iterator[list[str]], names: list[str]) -> Iterator[list[tuple[str, str]]]:
    """Return keys and labels in pieces; what a line is too short for is empty, and blank lines are none."""
    place = {name: number for number, name in enumerate(names)}
    key, label = place["key"], place["label"]
    blank = [""] * len(names)
    while piece := list(islice(lines, _PIECE)):
        full = (line if len(line) >= len(names) else line + blank for line in piece if line)
        yield [(line[key], line[label]) for line in full]


def read_parquet(path: Path, column: str) -> LabelRows:
    """Read the labels, or the lists of labels, of one column of a Parquet file beside its column ``key``.

    Raises
    ------
    InputError
        The file or a column of it can't be read.
    """
    keys: list[pa.Array] = [pa.array([], pa.large_string())]
    codes, values, counts = _read_column(path, column, keys)
    return LabelRows.from_columns(pa.chunked_array(keys), codes, values, counts)


def read_more(rows: LabelRows, path: Path, column: str) -> LabelRows:
    """Read lists of labels that stand beside the one label of each row of ``rows``, in the same file."""
    codes, values, counts = _read_column(path, column, None)
    owners = rows.owners if counts is None else np.repeat(rows.owners, counts)
    return LabelRows(rows.keys, owners, codes, values)


def _read_column(
    path: Path, column: str, keys: list[pa.Array] | None
) -> tuple[NDArray[np.int32], tuple[Any, ...], NDArray[np.int64] | None]:
    """Return labels as numbers, what these stand for, and of lists how long each is; add keys to ``keys``.

    Piece by piece, since eleven million lists of texts take gigabytes, and their numbers don't.
    """
    counts: list[NDArray[np.int64]] = []
    codes: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    numbers = LabelNumbers()
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            names = [column] if keys is None else ["key", column]
            for batch in file.iter_batches(_PIECE, columns=names):
                labels = batch.column(column)
                if keys is not None:
                    keys.append(_as_texts(batch.column("key")))
                if is_list(labels.type):
                    lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False)
                    counts.append(lengths.astype(np.int64))
                    labels = labels.flatten()
                codes.append(numbers.of_column(labels))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    return np.concatenate(codes), numbers.labels, np.concatenate(counts) if counts else None


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds several values per row."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _as_texts(keys: pa.Array) -> pa.Array:
    kind = keys.type.value_type if pa.types.is_dictionary(keys.type) else keys.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return keys.cast(pa.large_string())
    return pa.array(map(str, keys.to_pylist()), pa.large_string())


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in ("key", "label") if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; "
            f"it needs key and label, and has {', '.join(map(repr, names)) or 'none'}"
        )
