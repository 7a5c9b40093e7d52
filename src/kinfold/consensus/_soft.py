"""Probabilities of many heads, read in blocks of rows, and votes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus._heads import Labeling
from kinfold.consensus._voting import row_blocks
from kinfold.errors import InputError


@dataclass(frozen=True)
class SoftHeads:
    """The heads' probabilities.

    Attributes
    ----------
    matrices : sequence of n_heads arrays, shape (n_samples, width)
        Anything that gives rows for a slice.
    columns : sequence of n_heads ndarrays of int64
        The column of every live cluster of a head; the others are no one's first choice and don't count.
    n_samples : int
        Rows of every matrix.
    """

    matrices: Sequence[NDArray[np.floating]]
    columns: Sequence[NDArray[np.int64]]
    n_samples: int

    def take(self, numbers: Sequence[int]) -> SoftHeads:
        """Return some of the heads."""
        return SoftHeads(
            [self.matrices[number] for number in numbers],
            [self.columns[number] for number in numbers],
            self.n_samples,
        )

    def vote(self, targets: Sequence[NDArray[np.int64]], n_labels: int) -> NDArray[np.int32]:
        """Return the label of the highest summed probability for every sample, the lower one of equals.

        Parameters
        ----------
        targets : sequence of n_heads ndarrays of int64
            Label that each live cluster of a head stands for.
        n_labels : int
            Number of labels.
        """
        labels = np.empty(self.n_samples, dtype=np.int32)
        for block in row_blocks(self.n_samples, n_labels):
            votes = np.zeros((n_labels, block.stop - block.start))
            for matrix, columns, target in zip(self.matrices, self.columns, targets, strict=True):
                part = np.asarray(matrix[block], dtype=np.float64)[:, columns]
                np.add.at(votes, target, part.T)
            labels[block] = votes.argmax(axis=0)
        return labels


def read_probabilities(
    probabilities: Sequence[NDArray[np.floating]] | None, heads: Sequence[Labeling]
) -> SoftHeads | None:
    """Check that probabilities fit the labels; every matrix is read once, in blocks.

    Raises
    ------
    InputError
        There is not one matrix per head, one has the wrong number of rows or too few columns, or a value is
        negative or not finite.
    """
    if probabilities is None:
        return None
    if len(probabilities) != len(heads):
        raise InputError(f"probabilities hold {len(probabilities)} heads, but labels hold {len(heads)}")
    n_samples = heads[0].n_samples
    for number, (matrix, head) in enumerate(zip(probabilities, heads, strict=True)):
        shape, needed = _shape_of(matrix), int(head.ids[-1]) + 1
        if len(shape) != 2 or shape[0] != n_samples or shape[1] < needed:
            raise InputError(
                f"probabilities of head {number} have the shape {shape}; its labels need ({n_samples}, "
                f"{needed}) or more columns, column j for label j"
            )
        _check_values(matrix, number, shape)
    return SoftHeads(list(probabilities), [head.ids for head in heads], n_samples)


def _shape_of(matrix: Any) -> tuple[int, ...]:
    """Return the shape, of no axes where rows are of several lengths."""
    try:
        return tuple(np.shape(matrix))
    except ValueError:
        return ()


def _check_values(matrix: NDArray[np.floating], number: int, shape: tuple[int, ...]) -> None:
    """Raise :class:`InputError` for the first row that holds no probabilities."""
    for block in row_blocks(*shape):
        part = np.asarray(matrix[block])
        if part.dtype.kind not in "fiub":
            raise InputError(f"probabilities of head {number} must be real numbers, but are {part.dtype}")
        wrong = ~(np.isfinite(part) & (part >= 0))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"probabilities of head {number} hold {part[row, column]} for sample {block.start + row}; "
                "they must be finite and 0 or more"
            )
