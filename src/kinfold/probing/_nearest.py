"""Classification by nearest neighbours among labeled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.neighbors import nearest_rows
from kinfold.probing._classes import LabeledRows

DEFAULT_NEIGHBORS = 20
DEFAULT_TEMPERATURE = 0.07
_CELLS = 1 << 23


@dataclass(frozen=True, eq=False)
class NearestNeighbors:
    """How well labeled neighbours classify.

    Attributes
    ----------
    accuracy : float
        Share of the test rows that get their label, 0 to 1.
    top5_accuracy : float
        Share whose label is among the five with most votes.
    predictions : ndarray (n_test,)
        Label of every test row.
    n_neighbors : int
        Neighbours that vote.
    temperature : float or None
        Of the votes; None where all count the same.
    n_train, n_test, n_classes : int
        Labeled rows that vote, rows judged, and classes of the former.
    labels_used : str
        What labels were used for, in words.
    """

    accuracy: float
    top5_accuracy: float
    predictions: NDArray[Any]
    n_neighbors: int
    temperature: float | None
    n_train: int
    n_test: int
    n_classes: int
    labels_used: str = "all training labels vote; test labels give the accuracy alone"

    def as_dict(self) -> dict[str, Any]:
        """Return all but the predictions as JSON-ready data."""
        return {name: value for name, value in vars(self).items() if name != "predictions"}


def knn_classify(
    X: Any,
    y: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    *,
    n_neighbors: int = DEFAULT_NEIGHBORS,
    temperature: float | None = DEFAULT_TEMPERATURE,
    device: str | torch.device = "auto",
    memory_budget: int | None = None,
) -> NearestNeighbors:
    """Classify rows by the labels of their nearest training rows.

    All labels of the training rows are used, so this is an upper bound for clustering, not a method of it.
    Neighbours are exact, by cosine. Each votes for its label with ``exp(similarity / temperature)``; equal
    sums go to the label that sorts first.

    Parameters
    ----------
    X, X_test : array or row matrix (n, D)
        Training and test features, read in blocks.
    y, y_test : array-like (n,)
        Their labels, whole numbers or texts. ``y_test`` gives the accuracy and nothing else.
    n_neighbors : int, default 20
        Neighbours that vote, or all training rows where there are fewer.
    temperature : float or None, default 0.07
        None lets every neighbour count the same.
    device : str or torch.device, default "auto"
        Where to search.
    memory_budget : int, optional
        Bytes of the search, as :func:`kinfold.neighbors.knn_graph` takes them.

    Raises
    ------
    InputError
        Shapes don't fit, rows are zero or not finite, or a parameter is out of range.

    References
    ----------
    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
    equation 7, with DINO's 20 neighbours (Caron et al., 2021).

    Examples
    --------
    >>> X = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    >>> knn_classify(X, ["a", "a", "b"], [[1.0, 0.1], [0.1, 1.0]], ["a", "b"], n_neighbors=1).accuracy
    1.0
    """
    if temperature is not None and not 0 < temperature < float("inf"):
        raise InputError(f"temperature must be a positive number or None, not {temperature!r}")
    data = LabeledRows.read(X, y, X_test, y_test)
    found, similarities = nearest_rows(
        data.X, data.X_test, n_neighbors, device=device, memory_budget=memory_budget
    )
    votes = np.ones(found.shape)
    if temperature is not None:
        votes = np.exp((similarities.astype(np.float64) - similarities[:, :1]) / temperature)
    best = _count(data.codes[found], votes, len(data.classes))
    return NearestNeighbors(
        accuracy=float((best[:, 0] == data.test_codes).mean()),
        top5_accuracy=float((best == data.test_codes[:, None]).any(axis=1).mean()),
        predictions=data.classes[best[:, 0]],
        n_neighbors=found.shape[1],
        temperature=temperature,
        n_train=len(data.codes),
        n_test=len(data.test_codes),
        n_classes=len(data.classes),
    )


def _count(codes: NDArray[np.int64], votes: NDArray[np.float64], n_classes: int) -> NDArray[np.int64]:
    """Return, per row, the up to five classes with most votes (n, 5), best first; −2 where none has any."""
    best = np.full((len(codes), 5), -2, dtype=np.int64)
    width, step = min(5, n_classes), max(1, _CELLS // n_classes)
    for start in range(0, len(codes), step):
        part = slice(start, start + step)
        lines = np.arange(len(codes[part]))
        keys = lines[:, None] * n_classes + codes[part]
        sums = np.bincount(keys.ravel(), votes[part].ravel(), minlength=len(lines) * n_classes)
        sums = sums.reshape(-1, n_classes)
        for rank in range(width):
            top = sums.argmax(axis=1)
            best[part, rank] = np.where(sums[lines, top] > 0, top, -2)
            sums[lines, top] = -1
    return best
