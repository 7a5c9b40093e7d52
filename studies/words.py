"""What words add to the studies: their methods' input, and what is said of the words that were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from kinfold.hierarchy import ClassTree
from kinfold.language import ZeroShotClassifier, name_clusters
from kinfold.methods.protocol import Needs
from kinfold.neighbors import knn_graph
from studies.criteria import purity
from studies.naming import judge_names
from studies.refining import judge_refining

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
    synsets : tuple of str or None
        Those of the classes, where they are WordNet's; then names and refined labels can be judged.
    tree : ClassTree or None
        The classes in their order, and what lies above them, where they are WordNet's.
    tree_features : ndarray (nodes, D) float32 or None
        Of all that is in the tree.
    """

    noun_features: NDArray[np.float32]
    nouns: tuple[str, ...] | None = None
    class_features: NDArray[np.float32] | None = None
    synsets: tuple[str, ...] | None = None
    tree: ClassTree | None = None
    tree_features: NDArray[np.float32] | None = None

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


def judge_words(estimator: Any, X: NDArray[np.float32], y: NDArray[np.int64], words: Words) -> dict[str, Any]:
    """Return the figures of a fit on a joint space.

    ``live``: clusters in use. ``purity``: the share of the 10 closest neighbours that are of their sample's
    class, among ``rows`` and, where the method makes some, among text ``counterparts``. ``n_nouns``: those
    that were kept, ``surest``: the first 30 of them, where they have names. ``names``: what the names of the
    groups are to their majority classes, where the classes are synsets. Of zero-shot classification also
    ``names_of_classes``, the same of the classes themselves, and ``refining``: what its choices do to labels.
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
    if words.synsets is not None:
        found["names"] = _judge_names(X, estimator.labels_, y, words)
        if isinstance(estimator, ZeroShot):
            found["names_of_classes"] = _judge_names(X, y, y, words)
            found["refining"] = judge_refining(X, y, words.tree, words.tree_features)
    return found


def _judge_names(
    X: NDArray[np.float32], groups: NDArray[np.integer[Any]], y: NDArray[np.int64], words: Words
) -> dict[str, Any]:
    """Return what the names of groups are to the class that most of their images have."""
    assert words.synsets is not None
    assert words.nouns is not None
    counts = np.zeros((int(groups.max()) + 1, len(words.synsets)), np.int64)
    np.add.at(counts, (groups, y), 1)
    names = name_clusters(X, groups, len(counts), words.noun_features, words.nouns)
    return judge_names(names, [words.synsets[number] for number in counts.argmax(axis=1)])


def _purity_of(rows: NDArray[np.float32], y: NDArray[np.int64]) -> float | None:
    return purity(y, knn_graph(rows, min(N_NEAREST, len(rows) - 1), zero_rows="isolate"))
