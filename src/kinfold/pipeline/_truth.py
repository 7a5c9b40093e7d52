"""What is known of the images of a run: one label each, or several, joined by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.metrics import LabelSets
from kinfold.pipeline._label_rows import LabelRows, Matching, make_sets, sort_labels
from kinfold.pipeline._labels import (
    FOLDER,
    LISTS,
    is_list,
    name_source,
    no_label_fits,
    read_labels,
    read_more,
)

LABELS_OF_BENCHMARK = "labels.parquet"


@dataclass(frozen=True, eq=False)
class Truth:
    """Labels beside the images of a run.

    Attributes
    ----------
    rows : ndarray (n_matched,) int64
        Places of the images that have a label.
    classes : tuple
        The different labels, sorted where they can be.
    codes : ndarray (n_matched,) int32, or None
        The one label of each, by which groups are mapped, as its place in ``classes``; None where no label is
        the first.
    sets : LabelSets or None
        All labels of each; None where one label is all.
    n_without_label, n_without_image : int
        Images without a label, and labels without an image.
    labels_without_image : tuple of str
        The first few keys of such labels.
    """

    rows: NDArray[np.int64]
    classes: tuple[Any, ...]
    codes: NDArray[np.int32] | None
    sets: LabelSets | None
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]


def join_truth(labels: str | Path | Mapping[Any, Any], keys: pa.Array, *, several: bool, where: str) -> Truth:
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
    path = _find_file(labels)
    kinds = set() if path is None else _list_columns(path)
    if isinstance(labels, Mapping):
        several = several or any(isinstance(some, LISTS) for some in labels.values())
    if several and str(labels) == FOLDER:
        raise InputError("folders give every image one label; several need a file or a mapping")
    several = several or "label" in kinds
    rows = read_labels(labels if path is None else path, keys)
    rows = rows.only_labels() if several else rows
    first = None if several else rows.one_each(name_source(labels if path is None else path))
    labeled = np.bincount(rows.owners, minlength=len(rows.keys)) > 0 if first is None else first >= 0
    if not labeled.any():
        raise InputError(
            f"{name_source(labels)} holds no labels: it has no rows, or all its labels are empty"
        )
    found = Matching.of(labeled, rows, rows.places_of(keys))
    if not len(found.rows):
        raise InputError(no_label_fits(rows, labeled, keys, where))
    sets = rows.sets(found.places) if several else None
    classes, codes = (sets.labels if sets else ()), None
    if first is not None:
        known = first[found.places]
        classes, numbers = sort_labels(rows.values, _used(known, len(rows.values)))
        codes = numbers[known]
        if path is not None and "labels" in kinds:
            sets = _with_lists(rows, first, read_more(rows, path, "labels"), found)
    return Truth(
        rows=found.rows,
        classes=classes,
        codes=codes,
        sets=sets,
        n_without_label=found.n_without_label,
        n_without_image=found.n_without_image,
        labels_without_image=found.labels_without_image,
    )


def _find_file(labels: str | Path | Mapping[Any, Any]) -> Path | None:
    """Return the file of labels, which may lie in the folder of a benchmark; None where there is none."""
    if isinstance(labels, Mapping) or str(labels) == FOLDER:
        return None
    path = Path(labels)
    inside = path / LABELS_OF_BENCHMARK
    return inside if inside.is_file() else path


def _used(codes: NDArray[np.int32], n: int) -> NDArray[np.bool_]:
    used = np.zeros(n, dtype=bool)
    used[codes] = True
    return used


def _with_lists(rows: LabelRows, first: NDArray[np.int32], lists: LabelRows, found: Matching) -> LabelSets:
    """Return for every image its one label and then those that another column lists."""
    lists = lists.only_labels()
    number_of = {label: number for number, label in enumerate(rows.values)}
    values = (*rows.values, *(label for label in lists.values if label not in number_of))
    number_of = {label: number for number, label in enumerate(values)}
    numbers = np.array([number_of[label] for label in lists.values], dtype=np.int32)
    counts = np.bincount(lists.owners, minlength=len(rows.keys)) + 1
    order = slice(None) if (np.diff(lists.owners) >= 0).all() else np.argsort(lists.owners, kind="stable")
    codes = np.empty(len(lists) + len(counts), dtype=np.int32)
    own = np.zeros(len(codes), dtype=bool)
    own[np.cumsum(counts) - counts] = True
    codes[own], codes[~own] = first, numbers[lists.codes[order]]
    return make_sets(values, counts, codes, found.places)


def _list_columns(path: Path) -> set[str]:
    """Return the names of the columns of lists; none where the file is no Parquet file."""
    if path.suffix != ".parquet":
        return set()
    try:
        return {field.name for field in pq.read_schema(path) if is_list(field.type)}
    except (pa.ArrowException, OSError):
        return set()
