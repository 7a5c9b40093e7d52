"""What words add to the studies: their methods' input, and what is said of the words that were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from kinfold.language import ZeroShotClassifier
from kinfold.methods.protocol import Needs
from kinfold.neighbors import knn_graph
from studies.criteria import purity

N_NEAREST = 10
N_SHOWN = 30  # as the TAC paper's Appendix B


@dataclass(frozen=True)
class Words:
    """Words in the space of a data set.

    Attributes
    ----------
    noun_features : ndarray (V, D) float32
        Those of the nouns that may be chosen.
    nouns : tuple of str or None
        The nouns, where they have names.
    class_features : ndarray (K, D) float32 or None
        Of the names of the classes, where they have some.
    """

    noun_features: NDArray[np.float32]
    nouns: tuple[str, ...] | None = None
    class_features: NDArray[np.float32] | None = None

    def parameters(self, method: str) -> dict[str, Any]:
        """Return what a method is given of them."""
        if method == "tac":
            return {"noun_features": self.noun_features, "nouns": self.nouns}
        if method == "zero-shot":
            return {"class_features": self.class_features}
        return {}


class ZeroShot(BaseEstimator):
    """Zero-shot classification as a baseline among clusterings: it knows the names of the classes.

    Parameters
    ----------
    n_clusters : int
        K, told by the class features.
    class_features : ndarray (K, D)
        Of the names.
    random_state, device
        Nothing is random; where products are made.
    """

    def __init__(
        self,
        *,
        n_clusters: int = 8,
        class_features: Any = None,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.class_features = class_features
        self.device = device
        self.random_state = random_state

    def check_parameters(self) -> None:
        """Nothing can be wrong."""

    def needs(self, n_samples: int) -> Needs:
        """Return that nothing is needed."""
        return Needs()

    def fit(self, X: Any, y: Any = None) -> ZeroShot:
        """Classify X (N, D)."""
        self.labels_: NDArray[np.int32] = self.predict(X)
        return self

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return the closest class of every row."""
        return ZeroShotClassifier(self.class_features, device=self.device).predict(X)


def judge_words(estimator: Any, X: NDArray[np.float32], y: NDArray[np.int64]) -> dict[str, Any]:
    """Return the figures of a fit on a joint space.

    ``live``: clusters in use. ``purity``: the share of the 10 closest neighbours that are of their sample's
    class, among ``rows`` and, where the method makes some, among text ``counterparts``. ``n_nouns``: those
    that were kept, ``surest``: the first 30 of them, where they have names.
    """
    found: dict[str, Any] = {
        "live": len(np.unique(estimator.labels_)),
        "purity": {"rows": _purity_of(X, y)},
    }
    if (counterparts := getattr(estimator, "text_counterparts_", None)) is not None:
        found["purity"]["counterparts"] = _purity_of(counterparts, y)
        found["n_nouns"] = len(estimator.selected_nouns_)
        if estimator.nouns is not None:
            found["surest"] = estimator.selected_nouns_[:N_SHOWN].tolist()
    return found


def _purity_of(rows: NDArray[np.float32], y: NDArray[np.int64]) -> float | None:
    return purity(y, knn_graph(rows, min(N_NEAREST, len(rows) - 1), zero_rows="isolate"))
