"""Labels by key, and how many samples every class has."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import InputError, count_of
from kinfold.storage import hash_array, hash_json

TRAIN = "train"
_PIECE = 1 << 16
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
            raise InputError("counts must be whole numbers of 0 or more, one per class")

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

    Make one with :meth:`from_columns` or ``read_label_table``.

    Attributes
    ----------
    keys : pyarrow.Array of large_string, length n
        Names of the images, ascending, none twice.
    classes : tuple of str
        The classes.
    labels : ndarray of int32, shape (n,)
        Number of every image's class.
    splits : tuple of str
        Names of the splits, sorted.
    split_codes : ndarray of int32, shape (n,)
        Number of every image's split, −1 for none.
    n_without_label : int
        Rows that were left out for they had no label.
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
        columns = [_as_texts(column) for column in (keys, labels)]
        columns.append(pa.nulls(len(columns[0]), pa.large_string()) if splits is None else _as_texts(splits))
        table = pa.table(dict(zip(("key", "label", "split"), columns, strict=True)))
        full = pc.and_(_is_there(table["key"]), _is_there(table["label"]))
        n_without = table.num_rows - int(pc.sum(full).as_py() or 0)
        if n_without == table.num_rows:
            raise InputError(f"{what} hold no label: there are no rows, or all labels are empty")
        table = _without_repeats(table.filter(full), what)
        classes, codes = _encode(table["label"])
        named, split_codes = _encode(
            pc.if_else(_is_there(table["split"]), table["split"], pa.scalar(None, pa.large_string()))
        )
        return cls(table["key"].combine_chunks(), classes, codes, named, split_codes, n_without)

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


def _as_texts(column: Any) -> Any:
    if not isinstance(column, (pa.Array, pa.ChunkedArray)):
        return pa.array([None if value is None else str(value) for value in column], pa.large_string())
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    known = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    if not any(fits(kind) for fits in known):
        raise InputError(f"keys, labels and splits must be texts or whole numbers, not {kind}")
    return column.cast(pa.large_string())


def _is_there(column: Any) -> Any:
    """Say which texts are neither null nor blank."""
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
    """Return the different texts, sorted, and the number of each row's; −1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    rank = np.empty(len(texts) + 1, dtype=np.int32)
    rank[np.argsort(np.array(texts, dtype=object), kind="stable")] = np.arange(len(texts)) if texts else []
    rank[-1] = -1
    codes = encoded.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)
    return tuple(sorted(texts)), rank[codes]
