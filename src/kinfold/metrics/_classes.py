"""Class by class and cluster by cluster: who is found, and how pure the groups are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.metrics._accuracy import classes_of_clusters, count_correct
from kinfold.metrics._contingency import Contingency, count_pairs


@dataclass(frozen=True)
class ClassScores:
    """What every class and every cluster gets under the best map.

    Attributes
    ----------
    classes : tuple
        The classes that occur.
    class_sizes : ndarray (n_classes,) int64
        Samples of each.
    accuracies : ndarray (n_classes,) float64
        Share of a class's samples whose cluster stands for it (recall); 0 for a class without a cluster.
    clusters : tuple
        The clusters that occur.
    cluster_sizes : ndarray (n_clusters,) int64
        Samples of each.
    cluster_classes : tuple
        Class that each cluster stands for; None for a leftover one.
    precisions : ndarray (n_clusters,) float64
        Share of a cluster's samples that are of its class; NaN for a leftover one.
    """

    classes: tuple[Any, ...]
    class_sizes: NDArray[np.int64]
    accuracies: NDArray[np.float64]
    clusters: tuple[Any, ...]
    cluster_sizes: NDArray[np.int64]
    cluster_classes: tuple[Any, ...]
    precisions: NDArray[np.float64]

    @property
    def mean_accuracy(self) -> float:
        """Mean over classes, each with the same weight: accuracy that imbalance does not move."""
        return float(self.accuracies.mean())


def per_class_accuracy(y_true: ArrayLike, y_pred: ArrayLike, *, majority: bool = False) -> ClassScores:
    """Return the accuracy of every class and the precision of every cluster under the best map.

    Parameters
    ----------
    y_true, y_pred : array-like, shape (n_samples,)
        Classes and clusters, of any hashable type.
    majority : bool, default False
        Give each leftover cluster to its majority class, as in :func:`clustering_accuracy`.

    Raises
    ------
    InputError
        Lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> found = per_class_accuracy(["a", "a", "a", "a", "b"], [0, 0, 0, 1, 1])
    >>> found.classes, found.accuracies.tolist(), found.precisions.tolist(), found.mean_accuracy
    (('a', 'b'), [0.75, 1.0], [1.0, 0.5], 0.875)
    """
    table = count_pairs(y_true, y_pred)
    class_of = classes_of_clusters(table, majority=majority)
    correct, matched = count_correct(table, class_of), class_of >= 0
    found = np.bincount(class_of[matched], weights=correct[matched], minlength=len(table.classes))
    sizes = table.cluster_sizes()
    return ClassScores(
        classes=tuple(table.classes),
        class_sizes=table.class_sizes(),
        accuracies=found / table.class_sizes(),
        clusters=tuple(table.clusters),
        cluster_sizes=sizes,
        cluster_classes=tuple(table.classes[code] if code >= 0 else None for code in class_of),
        precisions=np.where(matched, correct / sizes, np.nan),
    )


def purity(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the share of samples that are of the majority class of their cluster.

    More clusters never lower it: one cluster per sample gives 1. It is an upper bound of every accuracy of
    the same clusters.

    Zhao and Karypis, "Criterion Functions for Document Clustering", 2001.

    Parameters
    ----------
    y_true, y_pred : array-like, shape (n_samples,)
        Classes and clusters, of any hashable type.

    Raises
    ------
    InputError
        Lengths differ, nothing is given, or labels are NaN or unhashable.

    Examples
    --------
    >>> purity([0, 0, 0, 1, 1], [7, 7, 7, 7, 7])
    0.6
    """
    return purity_of(count_pairs(y_true, y_pred))


def purity_of(table: Contingency) -> float:
    """Return :func:`purity` of counted pairs."""
    largest = table.counts.tocsc().max(axis=0)
    return float(largest.sum() / table.n_samples)
