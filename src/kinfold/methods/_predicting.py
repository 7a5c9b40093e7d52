"""Prediction for new rows, shared by the methods that give probabilities block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from kinfold.methods._rows import check_rows, refuse_beyond_float32


class BlockPredictor(ClusterMixin, BaseEstimator):
    """Base of methods that override ``_probabilities``; ``_learned`` is what only fitted ones have."""

    _learned: ClassVar[str]

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return the most probable cluster of every row of X (N, D), int32."""
        return self._labels(self._check_predict(X))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of the clusters for the rows of X (N, D)."""
        return np.concatenate(list(self._probabilities(self._check_predict(X))))

    def _check_predict(self, X: Any) -> Any:
        """Return rows to predict for, checked."""
        check_is_fitted(self, self._learned)
        X = check_rows(self, X, fitting=False)
        refuse_beyond_float32(X)
        return X

    def _labels(self, X: Any) -> NDArray[np.int32]:
        """Return the most probable cluster of rows that were checked already, the lower number on ties."""
        return np.concatenate([block.argmax(axis=1).astype(np.int32) for block in self._probabilities(X)])

    def _probabilities(self, X: Any) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities (n, K) of blocks of rows that were checked already."""
        raise AssertionError("every method has its own probabilities")
