"""Labels by key in columns, so that 11 million of them fit and are joined in seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold.errors import InputError
from kinfold.metrics import LabelSets

_N_EXAMPLES = 3
_NONE = -1


def is_label(label: Any) -> bool:
    """Tell whether something names a class; nothing, NaN and blanks don't."""
    return label is not None and bool(label == label) and bool(str(label).strip())


def show_examples(keys: pa.Array) -> str:
    """Return the first few keys for a message."""
    named = ", ".join(repr(key) for key in keys[:_N_EXAMPLES].to_pylist())
    return named + (", …" if len(keys) > _N_EXAMPLES else "")


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
            raise InputError(f"a label can't be compared, use texts or numbers: {error}") from error

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
        distinct = column if len(encoded.dictionary) == len(column) else encoded.dictionary
        return cls(distinct, owners if counts is None else np.repeat(owners, counts), codes, values)

    def __len__(self) -> int:
        return len(self.codes)

    def places_of(self, keys: pa.Array) -> NDArray[np.int32]:
        """Return the place of each of some other keys, −1 for those that aren't here."""
        found = pc.index_in(keys, value_set=self.keys).fill_null(_NONE)
        places: NDArray[np.int32] = found.to_numpy(zero_copy_only=False)
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
        return make_sets(self.values, counts, self.codes[order], places)


def make_sets(
    values: tuple[Any, ...], counts: NDArray[np.int64], codes: NDArray[np.int32], places: NDArray[np.int32]
) -> LabelSets:
    """Return the sets at ``places`` of many, which are ``counts`` codes each, one after the other."""
    wanted = np.zeros(len(counts), dtype=bool)
    wanted[places] = True
    if not wanted.all():
        codes, counts = codes[np.repeat(wanted, counts)], counts[wanted]
        places = (np.cumsum(wanted) - 1)[places]
    used = np.zeros(len(values), dtype=bool)
    used[codes] = True
    labels, numbers = sort_labels(values, used)
    return LabelSets.from_codes(labels, counts, numbers[codes], places)


def sort_labels(
    values: tuple[Any, ...], used: NDArray[np.bool_]
) -> tuple[tuple[Any, ...], NDArray[np.int32]]:
    """Return those of the labels that are used, sorted, and the new number of each old one, −1 for none."""
    places = np.flatnonzero(used).tolist()
    try:
        places.sort(key=values.__getitem__)
    except TypeError:
        places.sort(key=lambda place: (type(values[place]).__name__, str(values[place])))
    numbers = np.full(len(values), _NONE, dtype=np.int32)
    numbers[places] = np.arange(len(places))
    return tuple(values[place] for place in places), numbers


@dataclass(frozen=True)
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
