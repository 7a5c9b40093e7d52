"""Several right labels per sample, as ragged lists."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics._contingency import encode

_BLOCK = 1 << 20  # labels


@dataclass(frozen=True, eq=False)
class LabelSets:
    """The labels that are right for each sample: none, one or several.

    Make them with :meth:`from_lists`, :meth:`from_codes` or :meth:`of_classes`.

    Attributes
    ----------
    labels : tuple
        The different labels; codes are places in it.
    indptr : ndarray (n_sets + 1,) int64
        Set s has the codes ``codes[indptr[s]:indptr[s + 1]]``, each once.
    codes : ndarray of int64 or int32
        The sets one after the other.
    sets : ndarray (n_samples,) int64
        Set of every sample; samples of one class can share theirs.
    """

    labels: tuple[Any, ...]
    indptr: NDArray[np.int64]
    codes: NDArray[Any]
    sets: NDArray[Any]

    @classmethod
    def from_lists(cls, lists: Iterable[Iterable[Hashable]]) -> LabelSets:
        """Make sets of one list of labels per sample; a label named twice counts once.

        Raises
        ------
        InputError
            A list is a text, or a label can't be compared.

        Examples
        --------
        >>> LabelSets.from_lists([["cat", "pet"], [], ["dog"]]).counts
        array([2, 0, 1])
        """
        kept = [cls._distinct(number, labels) for number, labels in enumerate(lists)]
        counts = np.array([len(labels) for labels in kept], dtype=np.int64)
        every: list[Any] = [label for some in kept for label in some]
        labels, codes = encode(every, "the labels")
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(tuple(labels), indptr, codes, np.arange(len(kept)))

    @classmethod
    def from_codes(
        cls, labels: Sequence[Hashable], counts: ArrayLike, codes: ArrayLike, sets: ArrayLike | None = None
    ) -> LabelSets:
        """Make sets of labels that are numbers already; what is named twice in a set counts once.

        Parameters
        ----------
        labels : sequence
            The different labels.
        counts : array-like of int, shape (n_sets,)
            Labels of each set.
        codes : array-like of int32 or int64
            The sets one after the other, each label as its place in ``labels``. Not copied where no label is
            twice in a set.
        sets : array-like of int, shape (n_samples,), optional
            Set of every sample; by default there is one of each.

        Raises
        ------
        InputError
            Counts and codes don't fit together, or a code is no place in ``labels``.

        Examples
        --------
        >>> LabelSets.from_codes(["cat", "dog", "pet"], [2, 0, 3], [0, 2, 1, 2, 1]).counts
        array([2, 0, 2])
        """
        counts, codes = np.asarray(counts), np.asarray(codes)
        if counts.min(initial=0) < 0 or counts.sum() != len(codes):
            raise InputError(f"counts must be 0 or more and add up to the {len(codes)} codes")
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(labels):
            raise InputError(f"codes must be places in the {len(labels)} labels")
        kept = _first_of_each(counts, codes, len(labels))
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if kept is not None:
            codes = codes[kept]
            indptr = np.concatenate([[0], np.cumsum(kept)])[indptr].astype(np.int64)
        own = np.arange(len(counts)) if sets is None else np.asarray(sets)
        return cls(tuple(labels), indptr, codes, own)

    @classmethod
    def of_classes(cls, y_true: ArrayLike, right: Mapping[Any, Iterable[Hashable]]) -> LabelSets:
        """Make the sets of samples of the same classes, such as a class and everything above it in a tree.

        Parameters
        ----------
        y_true : array-like, shape (n_samples,)
            Class of every sample.
        right : mapping
            Class to the labels that are right for its samples. A class that isn't in it is right alone.

        Raises
        ------
        InputError
            ``y_true`` is empty, or a label can't be compared.
        """
        classes, sets = encode(y_true, "y_true")
        if not classes:
            raise InputError("y_true is empty; there is nothing to compare")
        found = cls.from_lists(right.get(name, (name,)) for name in classes)
        return cls(found.labels, found.indptr, found.codes, sets)

    @staticmethod
    def _distinct(number: int, labels: Iterable[Hashable]) -> list[Hashable]:
        if isinstance(labels, (str, bytes)):
            raise InputError(f"the labels of sample {number} are the text {labels!r}; give a list of labels")
        try:
            return list(dict.fromkeys(labels))
        except TypeError as error:
            raise InputError(f"the labels of sample {number} can't be compared: {error}") from error

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of labels of every sample, int64 (n_samples,)."""
        counts: NDArray[np.int64] = np.diff(self.indptr)[self.sets]
        return counts

    def take(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return positions in ``samples`` and the codes of their labels, pair by pair."""
        chosen = self.sets[samples]
        starts, counts = self.indptr[chosen], np.diff(self.indptr)[chosen]
        owners = np.repeat(np.arange(len(chosen)), counts)
        offsets = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes: NDArray[np.int64] = self.codes[np.repeat(starts, counts) + offsets].astype(
            np.int64, copy=False
        )
        return owners, codes

    def draw(self, samples: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return one label's code for each of the samples, all with labels, drawn with equal chances."""
        chosen = self.sets[samples]
        counts = np.diff(self.indptr)[chosen]
        drawn = self.codes[self.indptr[chosen] + generator.integers(0, counts)]
        found: NDArray[np.int64] = drawn.astype(np.int64, copy=False)
        return found


def _first_of_each(counts: NDArray[Any], codes: NDArray[Any], n_labels: int) -> NDArray[np.bool_] | None:
    """Say which labels of each set weren't there before; None where all are, found in blocks of sets."""
    ends = np.cumsum(counts)
    kept: NDArray[np.bool_] | None = None
    low = 0
    while low < len(counts):
        begin = int(ends[low] - counts[low])
        high = max(low + 1, int(np.searchsorted(ends, begin + _BLOCK, side="right")))
        owners = np.repeat(np.arange(high - low), counts[low:high])
        pairs = owners * n_labels + codes[begin : ends[high - 1]]
        first = np.unique(pairs, return_index=True)[1]
        if len(first) < len(pairs):
            kept = np.ones(len(codes), dtype=bool) if kept is None else kept
            kept[begin : ends[high - 1]] = False
            kept[begin + first] = True
        low = high
    return kept
