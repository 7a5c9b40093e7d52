"""Labels by key: files of them, the classes that folders name, and a table with splits and class counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError, KinfoldError, count_of, nearest_name
from kinfold.paths import arrow_path, normalize_keys
from kinfold.reading import check_regular, reason_of
from kinfold.storage import hash_array, hash_json
from kinfold.tables import TextTable, as_strings, is_list, is_parquet, is_text, value_type

TRAIN = "train"
LABELS_NAME = "labels.parquet"  # in the folders of benchmarks and of `kinfold relabel`
LABEL_COLUMNS = ("label", "after")  # "after": what `kinfold relabel` writes

_PIECE = 1 << 16  # rows at a time: eleven million lists of strings take gigabytes, their numbers don't
_N_EXAMPLES = 3
_CONTAINERS = frozenset(["images"])  # Tiny-ImageNet: train/n01443537/images/n01443537_0.JPEG
_SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}


def split_name(name: str) -> str | None:
    """Return ``train``, ``val``, ``test`` or ``unlabeled`` for the usual names of these, else None."""
    return _SPLIT_NAMES.get(name.casefold())


def is_label(label: Any) -> bool:
    """Tell whether something names a class; None, NaN and blank strings don't."""
    return label is not None and bool(label == label) and bool(str(label).strip())


def show_examples(keys: pa.Array) -> str:
    """Return the first few keys for a message."""
    named = ", ".join(repr(key) for key in keys[:_N_EXAMPLES].to_pylist())
    return named + (", …" if len(keys) > _N_EXAMPLES else "")


def find_label_file(path: Path) -> Path:
    """Return the file of labels in a folder of a benchmark or of ``kinfold relabel``; else ``path``."""
    inside = path / LABELS_NAME
    return inside if inside.is_file() else path


class LabelFile:
    """Columns of a CSV, TSV or Parquet file, read in pieces.

    Files that end in ``.parquet`` or ``.pq`` are Parquet; all others are text in one of the dialects that
    :class:`~kinfold.tables.TextTable` knows. A column of text holds strings; what a line is too short for is
    empty, and what is too long is left out. Without a header the column of image names is ``key``.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it holds, for messages.
    advice : str
        What else could be given in place of a file, for messages.

    Attributes
    ----------
    names : tuple of str
        Its columns.
    lists : frozenset of str
        The columns that hold a list in each row.

    Raises
    ------
    InputError
        There is no file, or it can't be read.
    """

    def __init__(self, path: Path, what: str = "labels", advice: str = "") -> None:
        if not path.is_file():
            raise InputError(f"there are no {what} at {path}; give a CSV, TSV or Parquet file{advice}")
        self.path, self._what = path, what
        self._text: TextTable | None = None
        if is_parquet(path):
            with self._reading():
                schema = pq.read_schema(arrow_path(path))
            self.names = tuple(schema.names)
        else:
            self._text = TextTable.open(path)
            self.names = self._text.names
            if self._text.has_made_up_names:
                self.names = tuple("key" if name == "path" else name for name in self.names)
            schema = pa.schema([(name, pa.large_string()) for name in self.names])
        if not any(name.strip() for name in self.names):
            raise InputError(f"{path} is empty and can't be read; it needs a first line of column names")
        self.lists = frozenset(field.name for field in schema if is_list(field.type))
        self._schema = schema

    def require(self, *names: str) -> None:
        """Raise :class:`InputError` for columns that aren't there."""
        missing = [name for name in names if name not in self.names]
        if missing:
            hint = nearest_name(missing[0], list(self.names))
            raise InputError(
                f"{self.path} has no column {' and no column '.join(map(repr, missing))}{hint}; "
                f"it needs {' and '.join(names)}, and has {', '.join(map(repr, self.names))}"
            )

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some of the columns, piece by piece; views and dictionaries of strings as plain strings."""
        if self._text is not None:
            yield from self._parse(self._text.rows(), names)
            return
        with self._reading(), pq.ParquetFile(arrow_path(self.path)) as file:
            for batch in file.iter_batches(_PIECE, columns=list(names)):
                columns = [_as_plain(batch.column(name)) for name in names]
                yield pa.RecordBatch.from_arrays(columns, list(names))

    def table(self, *names: str) -> pa.Table:
        """Return some of the columns whole."""
        fields = [self._schema.field(self._schema.get_all_field_indices(name)[-1]) for name in names]
        schema = pa.schema([(field.name, _plain_type(field.type)) for field in fields])
        return pa.Table.from_batches(self.batches(names), schema)

    def _parse(self, rows: Iterator[list[str]], names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        place = {name: number for number, name in enumerate(self.names)}
        while piece := list(islice(rows, _PIECE)):
            columns = [pa.array([row[place[name]] for row in piece], pa.large_string()) for name in names]
            yield pa.RecordBatch.from_arrays(columns, list(names))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say which file is damaged, where a library finds that out."""
        check_regular(self.path)
        try:
            yield
        except KinfoldError:
            raise
        except Exception as error:
            kind = "Parquet file" if is_parquet(self.path) else "CSV or TSV"
            raise InputError(f"{self.path} can't be read: it is no {kind} ({reason_of(error)})") from error


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return pa.large_string() if is_text(kind) and str(kind) != "string" else kind


def _as_plain(column: pa.Array) -> pa.Array:
    return column.cast(_plain_type(column.type))


def label_by_folder(keys: pa.Array, where: str) -> tuple[pa.DictionaryArray, pa.DictionaryArray]:
    """Return the class that the folder above each image names, and its split.

    The class is the nearest folder above the image that isn't called ``images``: ``n01443537`` for
    ``train/n01443537/images/a.JPEG``, ``dog`` for ``dog/1.jpg``. A topmost folder that is called train, val
    or test (or validation, …) is the split, and images right inside it have no class. Where all folders hold
    images alone and some are no splits, ``dog/1.jpg`` beside ``train/2.jpg``, it is a class like them.

    Parameters
    ----------
    keys : pyarrow.Array of large_string
        Keys of the images, parts separated by ``/``.
    where : str
        What the images are of, for messages.

    Returns
    -------
    labels, splits : pyarrow.DictionaryArray of large_string
        The label is empty where there is none, the split null.

    Raises
    ------
    InputError
        No image lies in a folder that names its class.
    """
    # By folder, not by image: a million images lie in a thousand folders, and these are read in Python.
    above = pc.replace_substring_regex(keys, r"(?s)(^|/)[^/]*$", "").dictionary_encode()
    folders = [_folder_parts(folder) for folder in above.dictionary.to_pylist()]
    # train/, car/ and dog/ side by side are classes; train/ and val/ are splits, with folders inside or not.
    tops = [parts[0] for parts in folders if parts]
    flat = all(len(parts) < 2 for parts in folders) and not all(map(split_name, tops))
    splits = [split_name(parts[0]) if parts and not flat else None for parts in folders]
    labels = [
        "" if not parts or (split and len(parts) == 1) else parts[-1]
        for parts, split in zip(folders, splits, strict=True)
    ]
    if not any(labels):
        raise InputError(
            f"labels='folder' needs images in folders, but no image of {where} lies in a folder that names "
            f"its class: keys are like {show_examples(keys) or 'none'}; give a table of labels"
        )
    found = (pa.array(names, pa.large_string()) for names in (labels, splits))
    by_class, by_split = (pa.DictionaryArray.from_arrays(above.indices, names) for names in found)
    return by_class, by_split


def _folder_parts(folder: str) -> list[str]:
    """Return the names of the folders above an image, without a container right above it."""
    parts = [part for part in folder.split("/") if part]
    return parts[:-1] if len(parts) > 1 and parts[-1].casefold() in _CONTAINERS else parts


class LabelNumbers:
    """Numbers for labels in the order in which they are first seen."""

    def __init__(self) -> None:
        self._number_of: dict[Any, int] = {}

    def of(self, labels: Iterable[Any], n: int) -> NDArray[np.int32]:
        """Return the number of each of ``n`` labels, int32.

        Raises
        ------
        InputError
            A label is nothing that can be compared.
        """
        numbers = self._number_of
        try:
            return np.fromiter((numbers.setdefault(one, len(numbers)) for one in labels), np.int32, n)
        except TypeError as error:
            raise InputError(f"a label can't be compared, use strings or numbers: {error}") from error

    def of_column(self, column: pa.Array) -> NDArray[np.int32]:
        """Return the number of each value of a column; nulls and NaN are None."""
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode("encode")
        values = encoded.dictionary.to_pylist()
        numbers = self.of((one if one == one else None for one in (*values, None)), len(values) + 1)
        places: NDArray[np.int32] = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        return numbers[places]

    @property
    def labels(self) -> tuple[Any, ...]:
        """The labels that were seen, by number."""
        return tuple(self._number_of)


def sort_labels(
    values: tuple[Any, ...], used: NDArray[np.bool_]
) -> tuple[tuple[Any, ...], NDArray[np.int32]]:
    """Return those of the labels that are used, sorted, and the new number of each old one, −1 for none."""
    places = np.flatnonzero(used).tolist()
    try:
        places.sort(key=values.__getitem__)
    except TypeError:  # strings beside numbers have no order of their own
        places.sort(key=lambda place: (type(values[place]).__name__, str(values[place])))
    numbers = np.full(len(values), -1, dtype=np.int32)
    numbers[places] = np.arange(len(places))
    return tuple(values[place] for place in places), numbers


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """A class histogram.

    Attributes
    ----------
    classes : tuple of str
        The classes, none twice. Their order is that of class indices.
    counts : ndarray of int64, shape (n_classes,)
        Number of samples of each, 0 or more.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not self.classes:
            raise InputError("there is no class; a histogram needs one at least")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for place, name in enumerate(self.classes) if name in self.classes[:place])
            raise InputError(f"the class {twice!r} is counted twice")
        if self.counts.shape != (len(self.classes),) or self.counts.min() < 0:
            raise InputError("counts must be integers of at least 0, one per class")

    @property
    def n_samples(self) -> int:
        """Number of all samples."""
        return int(self.counts.sum())

    @property
    def n_empty(self) -> int:
        """Number of classes without samples."""
        return int((self.counts == 0).sum())

    def of(self, classes: Sequence[str]) -> ClassCounts:
        """Return the counts of some classes in their order; 0 for those that aren't counted here."""
        known = dict(zip(self.classes, self.counts.tolist(), strict=True))
        return ClassCounts(tuple(classes), np.array([known.get(name, 0) for name in classes], dtype=np.int64))

    def describe(self) -> dict[str, Any]:
        """Return it as JSON-ready data, without the classes."""
        return {
            "n_classes": len(self.classes),
            "n_empty": self.n_empty,
            "n_samples": self.n_samples,
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of classes and counts, in their order."""
        return hash_json([self.classes, self.counts.tolist()])


@dataclass(frozen=True, eq=False)
class LabelTable:
    """Labels by key, sorted by key, which makes everything made of them independent of the order of rows.

    Make one with :meth:`from_columns`, :meth:`from_folders` or :meth:`read`.

    Attributes
    ----------
    keys : pyarrow.Array of large_string, length n
        Keys of the images, ascending, none twice.
    classes : tuple of str
        The classes.
    labels : ndarray of int32, shape (n,)
        Number of every image's class.
    splits : tuple of str
        Names of the splits, sorted.
    split_codes : ndarray of int32, shape (n,)
        Number of every image's split, −1 for none.
    n_without_label : int
        Rows that were left out because they have no label.
    """

    keys: pa.Array
    classes: tuple[str, ...]
    labels: NDArray[np.int32]
    splits: tuple[str, ...]
    split_codes: NDArray[np.int32]
    n_without_label: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_columns(
        cls, keys: Any, labels: Any, splits: Any = None, *, what: str = "the labels"
    ) -> LabelTable:
        """Take columns: keys, labels (empty or null: none) and, where there are any, splits.

        Raises
        ------
        InputError
            No row has a label, or a key is there twice with different labels or splits.
        """
        columns = [_as_strings(column) for column in (keys, labels)]
        columns.append(
            pa.nulls(len(columns[0]), pa.large_string()) if splits is None else _as_strings(splits)
        )
        table = pa.table(dict(zip(("key", "label", "split"), columns, strict=True)))
        full = pc.and_(_is_there(table["key"]), _is_there(table["label"]))
        n_without = table.num_rows - int(pc.sum(full).as_py() or 0)
        if n_without == table.num_rows:
            raise InputError(
                f"{what} hold no label: there are no rows, or all labels are empty; give one row with a "
                "label, or more"
            )
        table = _without_repeats(table.filter(full), what)
        classes, codes = _encode(table["label"])
        named, split_codes = _encode(
            pc.if_else(_is_there(table["split"]), table["split"], pa.scalar(None, pa.large_string()))
        )
        return cls(table["key"].combine_chunks(), classes, codes, named, split_codes, n_without)

    @classmethod
    def from_folders(cls, keys: pa.Array, where: str) -> LabelTable:
        """Take classes and splits from the folders that images lie in, see :func:`label_by_folder`."""
        column = keys.cast(pa.large_string())
        labels, splits = label_by_folder(column, where)
        return cls.from_columns(column, labels, splits, what=f"the folders of {where}")

    @classmethod
    def read(cls, path: Path) -> LabelTable:
        """Read a CSV, TSV or Parquet file with the columns ``key`` and ``label``, and perhaps ``split``.

        Without a column ``split`` a first folder of the key that is called train, val or test is the split.
        A folder that ``kinfold relabel`` or a benchmark wrote stands for the ``labels.parquet`` in it.
        Keys are tidied, see :func:`~kinfold.paths.normalize_name`.

        Raises
        ------
        InputError
            It can't be read, lacks a column, has no label, or gives a key two labels.
        """
        path = find_label_file(path)
        file = LabelFile(path, advice=", a folder of `kinfold relabel`, or a run")
        name = next((one for one in LABEL_COLUMNS if one in file.names), LABEL_COLUMNS[0])
        file.require("key", name)
        names = [one for one in ("key", name, "split") if one in file.names]
        table = file.table(*names)
        keys = normalize_keys(_as_strings(table["key"]).combine_chunks())
        splits = _rename_splits(table["split"]) if "split" in names else _splits_of_keys(keys)
        return cls.from_columns(keys, table[name], splits, what=str(path))

    @cached_property
    def is_training(self) -> NDArray[np.bool_]:
        """Which rows count: those of the split train and of no split; all where there are none of these."""
        train = self.splits.index(TRAIN) if TRAIN in self.splits else -1
        found: NDArray[np.bool_] = (self.split_codes == train) | (self.split_codes < 0)
        return found if found.any() else np.ones(len(self), dtype=bool)

    def counts(self) -> ClassCounts:
        """Return the histogram of the training rows, see :attr:`is_training`."""
        counts = np.bincount(self.labels[self.is_training], minlength=len(self.classes))
        return ClassCounts(self.classes, counts.astype(np.int64))

    def within(self, classes: Sequence[str]) -> LabelTable:
        """Return the rows of some classes, which are then numbered as given; the other rows are left out.

        Raises
        ------
        InputError
            No row is of one of these classes.
        """
        place = {name: number for number, name in enumerate(classes)}
        numbers = np.array([place.get(name, -1) for name in self.classes], dtype=np.int32)[self.labels]
        kept = numbers >= 0
        if not kept.any():
            raise InputError(
                f"none of {count_of(len(self.classes), 'label')} (like {self.classes[0]!r}) is one of the "
                f"{len(classes):,} classes (like {classes[0]!r})"
            )
        return replace(self.take(kept), classes=tuple(classes), labels=numbers[kept])

    def take(self, kept: NDArray[np.bool_]) -> LabelTable:
        """Return some rows, with the same classes."""
        keys = self.keys.filter(pa.array(kept))
        return replace(self, keys=keys, labels=self.labels[kept], split_codes=self.split_codes[kept])

    def split_counts(self) -> dict[str, int]:
        """Return how many rows every split has; those of none under an empty name."""
        counts = np.bincount(self.split_codes + 1, minlength=len(self.splits) + 1).tolist()
        named = zip(("", *self.splits), counts, strict=True)
        return {name: count for name, count in named if count}

    def fingerprint(self) -> str:
        """Return the SHA-256 of keys, labels and splits."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _PIECE):
            digest.update("\0".join(self.keys[start : start + _PIECE].to_pylist()).encode() + b"\n")
        codes = [hash_array(numbers.astype(np.int32)) for numbers in (self.labels, self.split_codes)]
        return hash_json([digest.hexdigest(), self.classes, self.splits, *codes])


def _as_strings(column: Any) -> Any:
    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        return pa.array([None if value is None else str(value) for value in column], pa.large_string())
    kind = value_type(column.type)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(f"keys, labels and splits must be strings or integers, not {kind}")
    return as_strings(column)


def _is_there(column: Any) -> Any:
    """Tell which strings are neither null nor blank."""
    return pc.fill_null(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0), False)


def _without_repeats(table: Any, what: str) -> Any:
    """Sort by key and leave out rows that are there twice; one key with two labels is refused."""
    table = table.take(pc.sort_indices(table["key"])).combine_chunks()
    alike = pc.equal(table["key"][1:], table["key"][:-1])
    if not pc.any(alike).as_py():
        return table
    for name in ("label", "split"):
        values = pc.fill_null(table[name], "")
        differ = pc.and_(alike, pc.not_equal(values[1:], values[:-1]))
        if pc.any(differ).as_py():
            row = pc.index(differ, True).as_py()
            two = " and ".join(repr(values[row + step].as_py()) for step in (0, 1))
            raise InputError(f"{what} give {table['key'][row].as_py()!r} two {name}s, {two}; keep one")
    first = np.concatenate([[True], ~alike.to_numpy(zero_copy_only=False).astype(bool)])
    return table.filter(pa.array(first))


def _encode(column: Any) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Return the different strings, sorted, and the number of each row's; −1 for null."""
    numbers = LabelNumbers()
    codes = numbers.of_column(column.combine_chunks())
    values, new = sort_labels(numbers.labels, np.array([one is not None for one in numbers.labels], bool))
    return values, new[codes]


def _splits_of_keys(keys: pa.Array) -> pa.Array:
    """Return the first folder of every key where its name is that of a split, else null."""
    encoded = pc.replace_substring_regex(keys, r"(?s)^(?:([^/]*)/.*|[^/]*)$", r"\1").dictionary_encode()
    known = [split_name(name) if name else None for name in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.large_string()).take(encoded.indices)


def _rename_splits(column: pa.ChunkedArray) -> pa.Array:
    """Return splits by their usual names, others as they are."""
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    names = [name and (split_name(name) or name) for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.large_string()).take(encoded.indices)
