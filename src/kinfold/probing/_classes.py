"""Training and test rows with their labels, as numbers of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.features.matrix import RowMatrix, as_row_matrix

UNSEEN = -1


@dataclass(frozen=True, eq=False)
class LabeledRows:
    """What a probe learns from and what it is judged on.

    Attributes
    ----------
    X, X_test : RowMatrix
        Features, of one width.
    classes : ndarray (K,)
        The classes of the training rows, ascending.
    codes : ndarray (N,) int64
        Class of every training row.
    test_codes : ndarray (M,) int64
        Class of every test row; −1 for one that no training row has, which can't be right.
    """

    X: RowMatrix
    X_test: RowMatrix
    classes: NDArray[Any]
    codes: NDArray[np.int64]
    test_codes: NDArray[np.int64]

    @classmethod
    def read(cls, X: Any, y: ArrayLike, X_test: Any, y_test: ArrayLike) -> LabeledRows:
        """Check and encode.

        Raises
        ------
        InputError
            Shapes don't fit, or labels can't be sorted.
        """
        rows, test_rows = as_row_matrix(X), as_row_matrix(X_test)
        labels, test_labels = _labels(y, rows, "y"), _labels(y_test, test_rows, "y_test")
        if rows.shape[1] != test_rows.shape[1]:
            raise InputError(f"X has {rows.shape[1]} features and X_test {test_rows.shape[1]}; give the same")
        if (labels.dtype.kind in "US") != (test_labels.dtype.kind in "US"):
            raise InputError("y and y_test must be of one type, numbers or texts")
        classes, codes = np.unique(labels, return_inverse=True)
        places = np.searchsorted(classes, test_labels).clip(max=len(classes) - 1)
        test_codes = np.where(classes[places] == test_labels, places, UNSEEN)
        return cls(rows, test_rows, classes, codes.reshape(-1).astype(np.int64), test_codes.astype(np.int64))


def _labels(y: ArrayLike, rows: RowMatrix, name: str) -> NDArray[Any]:
    labels = np.asarray(y)
    if labels.dtype == object and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind not in "iubUS":
        raise InputError(f"{name} must hold whole numbers or texts, but the type is {labels.dtype}")
    if labels.shape != (rows.shape[0],):
        raise InputError(f"{name} has the shape {labels.shape}, but there are {rows.shape[0]} rows")
    return labels
