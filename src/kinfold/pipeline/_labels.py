"""Labels of images, by key: read for evaluation and relabelling, never for clustering."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import InputError

FOLDER = "folder"
_N_EXAMPLES = 3


class JoinedLabels:
    """Labels by key, beside the rows of a source.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        As for :func:`read_labels`.
    keys : list of str
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

    def __init__(self, labels: str | Path | Mapping[Any, Any], keys: list[str], where: str) -> None:
        self._source = "given" if isinstance(labels, Mapping) else str(labels)
        self._keys = keys
        self._known = {key: str(label) for key, label in read_labels(labels, keys).items()}
        if not self._known:
            raise InputError(
                f"there are no labels ({self._source}): there are no rows, or all labels are empty"
            )
        if not any(key in self._known for key in keys):
            raise InputError(
                f"no label is about an image of {where}: labels are for {show_examples(self._known)}, "
                f"images are {show_examples(keys)}"
            )
        self.distinct = tuple(sorted(set(self._known.values())))

    def of_rows(self, rows: NDArray[np.int64], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the class of some rows, int32, −1 for none; ``numbers`` are the classes of ``distinct``."""
        number_of = dict(zip(self.distinct, numbers.tolist(), strict=True))
        known, keys = self._known, self._keys
        found = (number_of[known[keys[row]]] if keys[row] in known else -1 for row in rows.tolist())
        return np.fromiter(found, np.int32, len(rows))

    def describe(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Return how well labels and rows fit one another, JSON-ready."""
        keys = [self._keys[row] for row in rows.tolist()]
        n_matched = sum(key in self._known for key in keys)
        return {
            "source": self._source,
            "n_classes": len(self.distinct),
            "n_matched": n_matched,
            "n_without_label": len(keys) - n_matched,
            "n_without_image": len(self._known) - n_matched,
            "labels_without_image": list(first_missing(self._known, keys)),
        }


def read_labels(labels: str | Path | Mapping[Any, Any], keys: list[str]) -> dict[str, Any]:
    """Return the label of every key that has one, in the order of the file.

    Parameters
    ----------
    labels : path, "folder" or Mapping
        A CSV or Parquet file with the columns ``key`` and ``label``; or ``"folder"``, the name of the folder
        that each key lies in; or a mapping from key to label. An empty label counts as none.
    keys : list of str
        Keys of the images; read for ``"folder"`` alone.

    Raises
    ------
    InputError
        The labels can't be read, or one key has two of them.
    """
    if isinstance(labels, Mapping):
        found = {str(key): label for key, label in labels.items()}
    elif str(labels) == FOLDER:
        found = {key: PurePosixPath(key).parent.name for key in keys}
        if not any(found.values()):
            raise InputError(
                f"labels='folder' needs images in folders, but keys are like {show_examples(keys)}"
            )
    else:
        path = Path(labels)
        found = _join(path, read_label_rows(path))
    return {key: label for key, label in found.items() if is_label(label)}


def is_label(label: Any) -> bool:
    """Tell whether something names a class; nothing and blanks don't."""
    return label is not None and bool(str(label).strip())


def read_label_rows(path: Path) -> list[tuple[str, Any]]:
    """Return key and label of every row of a CSV or Parquet file, as they are.

    Raises
    ------
    InputError
        There is no such file, or it can't be read.
    """
    if not path.is_file():
        raise InputError(
            f"there are no labels at {path}; give a CSV or Parquet file with the columns key,label, "
            f"or {FOLDER!r} for the name of each image's folder"
        )
    return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)


def _read_csv(path: Path) -> list[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = list(reader.fieldnames or [])
            if not any(name.strip() for name in names):
                raise InputError(
                    f"{path} is empty; it needs a first line key,label and a line for each image"
                )
            _check_columns(path, names)
            return [(row["key"], row["label"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {error}") from error


def _read_parquet(path: Path) -> list[tuple[str, Any]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    _check_columns(path, table.column_names)
    keys = (str(key) for key in table["key"].to_pylist())
    labels = (None if label != label else label for label in table["label"].to_pylist())  # NaN is no label
    return list(zip(keys, labels, strict=True))


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in ("key", "label") if name not in names]
    if missing:
        raise InputError(
            f"{path} has no column {' and no column '.join(map(repr, missing))}; "
            f"it needs key and label, and has {', '.join(map(repr, names)) or 'none'}"
        )


def _join(path: Path, rows: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, label in rows:
        if found.setdefault(key, label) != label:
            raise InputError(
                f"{path} gives {key!r} two labels, {found[key]!r} and {label!r}; keep one "
                "(kinfold evaluate takes several: --multi-label)"
            )
    return found


def first_missing(known: Mapping[str, Any], keys: list[str]) -> tuple[str, ...]:
    """Return the first few keys that have a label and no image."""
    grouped = set(keys)
    return tuple(islice((key for key in known if key not in grouped), _N_EXAMPLES))


def show_examples(keys: Any) -> str:
    """Return the first few keys for a message."""
    named = [repr(key) for _, key in zip(range(_N_EXAMPLES), keys, strict=False)]
    return ", ".join(named) + (", …" if len(keys) > len(named) else "")
