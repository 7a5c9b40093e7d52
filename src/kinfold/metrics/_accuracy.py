"""Accuracy under the best one-to-one map between clusters and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from kinfold.metrics._contingency import Contingency, count_pairs


@dataclass(frozen=True)
class ClusterMatch:
    """Which class each cluster stands for.

    Attributes
    ----------
    mapping : Mapping
        Class of every matched cluster. A cluster that is left over (more clusters than classes, or nothing
        in common with any class that is still free) isn't in it.
    n_correct : int
        Samples whose cluster stands for their class.
    n_samples : int
        Samples compared.
    leftover : tuple
        Clusters that stand for no class.
    """

    mapping: Mapping[Any, Any]
    n_correct: int
    n_samples: int
    leftover: tuple[Any, ...]

    @property
    def accuracy(self) -> float:
        """Share of samples whose cluster stands for their class, 0 to 1."""
        return self.n_correct / self.n_samples


def match_clusters(y_true: ArrayLike, y_pred: ArrayLike, *, majority: bool = False) -> ClusterMatch:
    """Find the one-to-one map between clusters and classes that gets most samples right.

    The map is rectangular: the counts of clusters and classes may differ. It is found on the sparse table
    of pairs that occur, so ten thousand clusters and classes need no dense matrix.

    Parameters
    ----------
    y_true : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    y_pred : array-like, shape (n_samples,)
        Clusters, of any hashable type.
    majority : bool, default False
        Give each leftover cluster to its majority class instead of to none. The map is then many-to-one.

    Returns
    -------
    ClusterMatch

    Raises
    ------
    InputError
        Lengths differ, nothing is given, or labels are NaN or unhashable.
    """
    table = count_pairs(y_true, y_pred)
    return match_of(table, classes_of_clusters(table, majority=majority))


def clustering_accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, majority: bool = False) -> float:
    """Return the share of samples that are right under the best map between clusters and classes.

    Two conventions exist where there are more clusters than classes. By default the map is one-to-one and
    every sample of a leftover cluster counts as wrong. With ``majority=True`` each leftover cluster is given
    to the class that most of its samples have, which never scores lower; name the convention when you
    report it.

    Parameters
    ----------
    y_true : array-like, shape (n_samples,)
        Known classes, of any hashable type.
    y_pred : array-like, shape (n_samples,)
        Clusters, of any hashable type.
    majority : bool, default False
        The second convention above.

    Returns
    -------
    float
        Between 0 and 1; 1 if the partitions are the same.

    Raises
    ------
    InputError
        Lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> clustering_accuracy(["cat", "cat", "dog", "dog"], [1, 1, 0, 0])
    1.0
    >>> clustering_accuracy([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2])
    0.6666666666666666
    >>> clustering_accuracy([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2], majority=True)
    1.0
    """
    return match_clusters(y_true, y_pred, majority=majority).accuracy


def classes_of_clusters(table: Contingency, *, majority: bool = False) -> NDArray[np.int64]:
    """Return the class code that each cluster stands for under the best map, −1 for none."""
    rows, columns = best_pairs(table.counts)
    class_of = np.full(len(table.clusters), -1, dtype=np.int64)
    class_of[columns] = rows
    return with_majority(table, class_of) if majority else class_of


def with_majority(table: Contingency, class_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a map in which each cluster that stands for no class is given its majority class."""
    free = np.flatnonzero(class_of < 0)
    if not len(free):
        return class_of
    out = class_of.copy()
    out[free] = np.asarray(table.counts.tocsc()[:, free].argmax(axis=0)).reshape(-1)
    return out


def count_correct(table: Contingency, class_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, per cluster, its samples of the class that it stands for; 0 where that is none."""
    correct = np.zeros(len(class_of), dtype=np.int64)
    matched = np.flatnonzero(class_of >= 0)
    correct[matched] = np.asarray(table.counts[class_of[matched], matched]).reshape(-1)
    return correct


def match_of(table: Contingency, class_of: NDArray[np.int64]) -> ClusterMatch:
    """Return a map of codes in the words of the labels."""
    matched = np.flatnonzero(class_of >= 0)
    return ClusterMatch(
        mapping={table.clusters[column]: table.classes[class_of[column]] for column in matched},
        n_correct=int(count_correct(table, class_of).sum()),
        n_samples=table.n_samples,
        leftover=tuple(table.clusters[column] for column in np.flatnonzero(class_of < 0)),
    )


def best_pairs(counts: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of the pairs of the best one-to-one map; pairs that never occur are left out.

    SciPy's sparse solver wants a full matching, so each row also gets a column of its own that stands for
    "no partner": with weight 1 there and ``count + 1`` on real pairs, the heaviest full matching is the best
    partial one.
    """
    n_rows, n_columns = counts.shape
    weights = counts.astype(np.float64)
    weights.data += 1
    padded = sparse.hstack([weights, sparse.identity(n_rows, format="csr")], format="csr")
    rows, columns = min_weight_full_bipartite_matching(padded, maximize=True)
    real = columns < n_columns
    return rows[real].astype(np.int64), columns[real].astype(np.int64)
