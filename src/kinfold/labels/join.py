"""Labels joined to images by key, in columns: eleven million of them fit in memory and take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.labels.table import (
    LABEL_COLUMNS,
    LabelFile,
    LabelNumbers,
    find_label_file,
    is_label,
    label_by_folder,
    show_examples,
    sort_labels,
)
from kinfold.metrics import LabelSets
from kinfold.paths import normalize_keys
from kinfold.tables import as_strings, is_list, is_text, value_type

FOLDER = "folder"
LabelsLike: TypeAlias = "str | Path | Mapping[Any, Any]"

_LISTS = (list, set, frozenset, np.ndarray, tuple)  # of a mapping, what stands for several labels
_N_EXAMPLES = 3  # keys in a message or a report
_NONE = -1


@dataclass(frozen=True, eq=False)
class LabelRows:
    """Labels by key, as they were given: blank ones and repeated keys too.

    Attributes
    ----------
    keys : pyarrow.Array of large_string (n_keys,)
        The different keys, in the order in which they come first.
    owners : ndarray (n_labels,) int32
        Place in ``keys`` of the key that each label is for.
    codes : ndarray (n_labels,) int32
        Each label, as its place in ``values``.
    values : tuple
        The different labels.
    """

    keys: pa.Array
    owners: NDArray[np.int32]
    codes: NDArray[np.int32]
    values: tuple[Any, ...]

    @classmethod
    def from_columns(
        cls,
        keys: pa.Array | pa.ChunkedArray,
        codes: NDArray[np.int32],
        values: tuple[Any, ...],
        counts: NDArray[np.int64] | None = None,
    ) -> LabelRows:
        """Take rows of a key (null: an empty one) and a label, or of a key and ``counts`` labels."""
        column = keys.cast(pa.large_string()).fill_null("")
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = column.dictionary_encode()
        owners = encoded.indices.to_numpy(zero_copy_only=False)
        # Where no key is repeated, the column itself is the list of keys: no second copy of all the strings.
        distinct = column if len(encoded.dictionary) == len(column) else encoded.dictionary
        return cls(distinct, owners if counts is None else np.repeat(owners, counts), codes, values)

    def __len__(self) -> int:
        return len(self.codes)

    def places_of(self, keys: pa.Array) -> NDArray[np.int32]:
        r"""Return the place of each of some other keys, −1 for those that aren't here.

        Keys that aren't here as they are written are compared as what they mean: ``./a.png`` and ``x\b.png``
        with ``a.png`` and ``x/b.png``.
        """
        keys = keys.cast(pa.large_string())
        found = pc.index_in(keys, value_set=self.keys)
        if found.null_count:
            own, theirs = normalize_keys(self.keys), normalize_keys(keys)
            if own is not self.keys or theirs is not keys:
                found = pc.coalesce(found, pc.index_in(theirs, value_set=own))
        places: NDArray[np.int32] = found.fill_null(_NONE).to_numpy(zero_copy_only=False)
        return places

    @cached_property
    def are_labels(self) -> NDArray[np.bool_]:
        """Which values name a class."""
        return np.array([is_label(value) for value in self.values], dtype=bool)

    def one_each(self, source: str) -> NDArray[np.int32]:
        """Return the one label of every key, as its place in ``values``, −1 for none.

        Raises
        ------
        InputError
            One key has two labels; the message says that ``source`` gives them.
        """
        first = np.full(len(self.keys), _NONE, dtype=np.int32)
        first[self.owners[::-1]] = self.codes[::-1]  # what is written last stays
        differ = first[self.owners] != self.codes
        if differ.any():
            row = int(differ.argmax())
            place = self.owners[row]
            one, other = self.values[first[place]], self.values[self.codes[row]]
            raise InputError(
                f"{source} gives {self.keys[place].as_py()!r} two labels, {one!r} and {other!r}; keep one "
                "(kinfold evaluate takes several: --multi-label)"
            )
        named = np.append(self.are_labels, False)
        first[~named[first]] = _NONE
        return first

    def only_labels(self) -> LabelRows:
        """Return the rows whose labels name a class."""
        named = self.are_labels[self.codes]
        return self if named.all() else replace(self, owners=self.owners[named], codes=self.codes[named])

    def sets(self, places: NDArray[np.int32]) -> LabelSets:
        """Return all labels of the keys at some places, each label once and in the order given."""
        order = slice(None) if (np.diff(self.owners) >= 0).all() else np.argsort(self.owners, kind="stable")
        counts = np.bincount(self.owners, minlength=len(self.keys))
        return _make_sets(self.values, counts, self.codes[order], places)


def _make_sets(
    values: tuple[Any, ...], counts: NDArray[np.int64], codes: NDArray[np.int32], places: NDArray[np.int32]
) -> LabelSets:
    """Return the sets at ``places`` of many, which are ``counts`` codes each, one after the other."""
    # Leave out what no image needs before anything is sorted: labels of a million images for a run of ten.
    wanted = np.zeros(len(counts), dtype=bool)
    wanted[places] = True
    if not wanted.all():
        codes, counts = codes[np.repeat(wanted, counts)], counts[wanted]
        places = (np.cumsum(wanted) - 1)[places]
    used = np.zeros(len(values), dtype=bool)
    used[codes] = True
    labels, numbers = sort_labels(values, used)
    return LabelSets.from_codes(labels, counts, numbers[codes], places)


@dataclass(frozen=True, eq=False)
class Matching:
    """How well keys with labels and images fit one another.

    Attributes
    ----------
    rows : ndarray (n_matched,) int64
        Places of the images that have a label.
    places : ndarray (n_matched,) int32
        Place of the key of each among the keys of the labels.
    n_without_label, n_without_image : int
        Images without a label, and keys with a label but no image.
    labels_without_image : tuple of str
        The first few of these.
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int32]
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]

    @classmethod
    def of(cls, labeled: NDArray[np.bool_], rows: LabelRows, places: NDArray[np.int32]) -> Matching:
        """Match images whose keys are at ``places`` of ``rows`` with those of the keys that have a label."""
        matched = np.flatnonzero((places >= 0) & labeled[places])
        alone = labeled.copy()
        alone[places[matched]] = False
        examples = rows.keys.take(pa.array(np.flatnonzero(alone)[:_N_EXAMPLES])).to_pylist()
        return cls(matched, places[matched], len(places) - len(matched), int(alone.sum()), tuple(examples))


def read_labels(labels: LabelsLike, keys: pa.Array, where: str = "the source") -> LabelRows:
    """Read one or several labels by key, in the order of the file.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        A CSV, TSV or Parquet file with the columns ``key`` and ``label``; the folder of a benchmark or of
        ``kinfold relabel``; ``"folder"``, the class that the folder above each image names
        (:func:`~kinfold.labels.label_by_folder`); or a mapping from key to label.
    keys : pyarrow.Array of large_string
        Keys of the images; read for ``"folder"`` alone.
    where : str
        What the images are of, for messages.

    Raises
    ------
    InputError
        The labels can't be read.
    """
    if isinstance(labels, Mapping):
        return _of_mapping(labels)
    if str(labels) == FOLDER:
        numbers = LabelNumbers()
        codes = numbers.of_column(label_by_folder(keys, where)[0])
        return LabelRows.from_columns(keys, codes, numbers.labels)
    return _read_file(_open_file(labels))


def _open_file(labels: str | Path) -> LabelFile:
    file = LabelFile(
        find_label_file(Path(labels)), advice=f", or {FOLDER!r} for the name of each image's folder"
    )
    file.require("key", _label_column(file))
    return file


def _label_column(file: LabelFile) -> str:
    return next((name for name in LABEL_COLUMNS if name in file.names), LABEL_COLUMNS[0])


def _read_file(file: LabelFile) -> LabelRows:
    keys: list[pa.Array] = [pa.array([], pa.large_string())]
    codes, values, counts = _read_column(file, _label_column(file), keys)
    return LabelRows.from_columns(pa.chunked_array(keys), codes, values, counts)


def name_source(labels: LabelsLike) -> str:
    """Return what a message calls the labels."""
    return "the mapping" if isinstance(labels, Mapping) else str(labels)


def _no_label_fits(rows: LabelRows, labeled: NDArray[np.bool_], keys: pa.Array, where: str) -> str:
    """Return the message that keys of labels and of images have nothing in common."""
    known = show_examples(rows.keys.filter(pa.array(labeled)))
    return f"no label is about an image of {where}: labels are for {known}, images are {show_examples(keys)}"


def _of_mapping(labels: Mapping[Any, Any]) -> LabelRows:
    keys, numbers = _as_keys([str(key) for key in labels]), LabelNumbers()
    if not any(isinstance(some, _LISTS) for some in labels.values()):
        codes = numbers.of(labels.values(), len(labels))
        return LabelRows.from_columns(keys, codes, numbers.labels)
    lists = [list(some) if isinstance(some, _LISTS) else [some] for some in labels.values()]
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    codes = numbers.of(chain.from_iterable(lists), int(counts.sum()))
    return LabelRows.from_columns(keys, codes, numbers.labels, counts)


def _as_keys(keys: list[str]) -> pa.Array:
    try:
        return pa.array(keys, pa.large_string())
    except UnicodeEncodeError as error:
        raise InputError(f"a key is no Unicode string: {error}") from error


def _read_column(
    file: LabelFile, column: str, keys: list[pa.Array] | None = None
) -> tuple[NDArray[np.int32], tuple[Any, ...], NDArray[np.int64] | None]:
    """Return labels as numbers, what these stand for, and of lists how long each is; add keys to ``keys``."""
    counts: list[NDArray[np.int64]] = []
    codes: list[NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    numbers = LabelNumbers()
    for batch in file.batches([column] if keys is None else ["key", column]):
        labels = batch.column(column)
        if keys is not None:
            keys.append(_as_strings(batch.column("key")))
        if is_list(labels.type):
            lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy(zero_copy_only=False)
            counts.append(lengths.astype(np.int64))
            labels = labels.flatten()
        codes.append(numbers.of_column(labels))
    return np.concatenate(codes), numbers.labels, np.concatenate(counts) if counts else None


def _as_strings(keys: pa.Array) -> pa.Array:
    if is_text(keys.type) or pa.types.is_integer(value_type(keys.type)):
        return as_strings(keys)
    return pa.array(map(str, keys.to_pylist()), pa.large_string())


class JoinedLabels:
    """One label by key, beside the rows of a source. Labels are strings here.

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

    def __init__(self, labels: LabelsLike, keys: pa.Array, where: str) -> None:
        self._source = "given" if isinstance(labels, Mapping) else str(labels)
        self._rows = read_labels(labels, keys, where)
        known = self._rows.one_each(name_source(labels))
        self._labeled = known >= 0
        if not self._labeled.any():
            raise InputError(
                f"there are no labels ({self._source}): there are no rows, or all labels are empty"
            )
        self._places = self._rows.places_of(keys)
        if not len(Matching.of(self._labeled, self._rows, self._places).rows):
            raise InputError(_no_label_fits(self._rows, self._labeled, keys, where))
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


@dataclass(frozen=True, eq=False)
class Truth(Matching):
    """Labels beside the images of a run.

    Attributes
    ----------
    classes : tuple
        The different labels, sorted where they can be.
    codes : ndarray (n_matched,) int32, or None
        The one label of each, by which groups are mapped, as its place in ``classes``; None where no label is
        the first.
    sets : LabelSets or None
        All labels of each; None where one label is all.
    """

    classes: tuple[Any, ...]
    codes: NDArray[np.int32] | None
    sets: LabelSets | None


def join_truth(labels: LabelsLike, keys: pa.Array, *, several: bool, where: str) -> Truth:
    """Read labels and put them beside the images of a run.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        As :func:`kinfold.evaluate` takes them.
    keys : pyarrow.Array of large_string
        Keys of the images.
    several : bool
        Let a key have several labels, none of which is the first.
    where : str
        What the images are of, for messages.

    Raises
    ------
    InputError
        Labels can't be read, there are none, one key has two but shouldn't, or no key is an image's.
    """
    file = None
    if isinstance(labels, Mapping):
        several = several or any(isinstance(some, _LISTS) for some in labels.values())
        rows = _of_mapping(labels)
    elif str(labels) == FOLDER:
        if several:
            raise InputError("folders give every image one label; several need a file or a mapping")
        rows = read_labels(labels, keys, where)
    else:
        file = _open_file(labels)
        several = several or _label_column(file) in file.lists
        rows = _read_file(file)
    source = str(file.path) if file is not None else name_source(labels)
    rows = rows.only_labels() if several else rows
    first = None if several else rows.one_each(source)
    labeled = np.bincount(rows.owners, minlength=len(rows.keys)) > 0 if first is None else first >= 0
    if not labeled.any():
        raise InputError(
            f"{name_source(labels)} holds no labels: it has no rows, or all its labels are empty; give a "
            "table with a label in one row or more"
        )
    found = Matching.of(labeled, rows, rows.places_of(keys))
    if not len(found.rows):
        raise InputError(_no_label_fits(rows, labeled, keys, where))
    sets = rows.sets(found.places) if several else None
    classes, codes = (sets.labels if sets else ()), None
    if first is not None:
        known = first[found.places]
        classes, numbers = sort_labels(rows.values, np.isin(np.arange(len(rows.values)), known))
        codes = numbers[known]
        if file is not None and "labels" in file.lists:
            sets = _with_lists(rows, first, _read_lists(rows, file), found)
    return Truth(**vars(found), classes=classes, codes=codes, sets=sets)


def _read_lists(rows: LabelRows, file: LabelFile) -> LabelRows:
    """Read the lists of labels that stand beside the one label of each row, in the column ``labels``."""
    codes, values, counts = _read_column(file, "labels")
    assert counts is not None  # it is a column of lists
    return LabelRows(rows.keys, np.repeat(rows.owners, counts), codes, values)


def _with_lists(rows: LabelRows, first: NDArray[np.int32], lists: LabelRows, found: Matching) -> LabelSets:
    """Return for every image its one label and then those that another column lists."""
    lists = lists.only_labels()
    number_of = {label: number for number, label in enumerate(rows.values)}
    values = (*rows.values, *(label for label in lists.values if label not in number_of))
    number_of = {label: number for number, label in enumerate(values)}
    numbers = np.array([number_of[label] for label in lists.values], dtype=np.int32)
    counts = np.bincount(lists.owners, minlength=len(rows.keys)) + 1
    # Rows of a file mostly come in the order of their keys; then nothing is sorted.
    order = slice(None) if (np.diff(lists.owners) >= 0).all() else np.argsort(lists.owners, kind="stable")
    codes = np.empty(len(lists) + len(counts), dtype=np.int32)
    own = np.zeros(len(codes), dtype=bool)
    own[np.cumsum(counts) - counts] = True
    codes[own], codes[~own] = first, numbers[lists.codes[order]]
    return _make_sets(values, counts, codes, found.places)
