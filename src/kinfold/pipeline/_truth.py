"""What is known of the images of a run: one label each, or several, joined by key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.metrics import LabelSets
from kinfold.pipeline._labels import (
    FOLDER,
    first_missing,
    is_label,
    read_label_rows,
    read_labels,
    show_examples,
)

LABELS_OF_BENCHMARK = "labels.parquet"
_LISTS = (list, set, frozenset, np.ndarray)


@dataclass(frozen=True, eq=False)
class Truth:
    """Labels beside the images of a run.

    Attributes
    ----------
    rows : ndarray (n_matched,) int64
        Places of the images that have a label.
    classes : tuple
        The different labels, sorted where they can be.
    codes : ndarray (n_matched,) int64, or None
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
    codes: NDArray[np.int64] | None
    sets: LabelSets | None
    n_without_label: int
    n_without_image: int
    labels_without_image: tuple[str, ...]


def join_truth(
    labels: str | Path | Mapping[Any, Any], keys: list[str], *, several: bool, where: str
) -> Truth:
    """Read labels and put them beside the images of a run.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        As :func:`kinfold.evaluate` takes them.
    keys : list of str
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
    main, lists = _read(labels, keys, several)
    known: Mapping[str, Any] = lists if main is None else main  # type: ignore[assignment]
    if not known:
        source = "the mapping" if isinstance(labels, Mapping) else labels
        raise InputError(f"{source} holds no labels: it has no rows, or all its labels are empty")
    rows = np.array([row for row, key in enumerate(keys) if key in known], dtype=np.int64)
    if not len(rows):
        raise InputError(
            f"no label is about an image of {where}: "
            f"labels are for {show_examples(known)}, images are {show_examples(keys)}"
        )
    matched = [keys[row] for row in rows.tolist()]
    sets = None if lists is None else LabelSets.from_lists(lists[key] for key in matched)
    classes, codes = (sets.labels if sets else ()), None
    if main is not None:
        classes = _sorted({main[key] for key in matched})
        number_of = {name: number for number, name in enumerate(classes)}
        codes = np.fromiter((number_of[main[key]] for key in matched), np.int64, len(matched))
    return Truth(
        rows=rows,
        classes=classes,
        codes=codes,
        sets=sets,
        n_without_label=len(keys) - len(rows),
        n_without_image=len(known) - len(rows),
        labels_without_image=first_missing(known, keys),
    )


def _read(
    labels: str | Path | Mapping[Any, Any], keys: list[str], several: bool
) -> tuple[dict[str, Any] | None, dict[str, list[Any]] | None]:
    """Return the one label by key (or None), and all labels by key (or None)."""
    if isinstance(labels, Mapping):
        if several or any(isinstance(some, _LISTS) for some in labels.values()):
            return None, _gather((str(key), some) for key, some in labels.items())
        return read_labels(labels, keys), None
    if str(labels) == FOLDER:
        if several:
            raise InputError("folders give every image one label; several need a file or a mapping")
        return read_labels(labels, keys), None
    path = Path(labels)
    if path.is_dir() and (path / LABELS_OF_BENCHMARK).is_file():
        path = path / LABELS_OF_BENCHMARK
    kinds = _list_columns(path) if path.suffix == ".parquet" else set()
    if several or "label" in kinds:
        return None, _gather(read_label_rows(path))
    main = read_labels(path, keys)
    if "labels" not in kinds:
        return main, None
    table = pq.read_table(path, columns=["key", "labels"])
    others = _gather(zip(map(str, table["key"].to_pylist()), table["labels"].to_pylist(), strict=True))
    return main, {key: list(dict.fromkeys([label, *others.get(key, ())])) for key, label in main.items()}


def _sorted(labels: set[Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(labels))
    except TypeError:
        return tuple(sorted(labels, key=lambda label: (type(label).__name__, str(label))))


def _gather(rows: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Return the labels of every key that has one; rows hold one label or a list of them."""
    found: dict[str, list[Any]] = {}
    for key, some in rows:
        labels = [some] if not isinstance(some, (*_LISTS, tuple)) else list(some)
        if labels := [label for label in labels if is_label(label)]:
            found.setdefault(key, []).extend(labels)
    return found


def _list_columns(path: Path) -> set[str]:
    """Return the names of the columns of lists; none where the file can't be read."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return set()
    return {
        field.name for field in schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    }
