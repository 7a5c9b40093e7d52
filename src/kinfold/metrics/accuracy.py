"""Accuracy under the best map of clusters to classes, purity, and all measures of agreement at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.metrics.contingency import Contingency, best_pairs, count_pairs, encode, table_of_codes
from kinfold.metrics.information import ami_of, ari_of, nmi_of


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
    """Return a map of codes as one of labels."""
    matched = np.flatnonzero(class_of >= 0)
    return ClusterMatch(
        mapping={table.clusters[column]: table.classes[class_of[column]] for column in matched},
        n_correct=int(count_correct(table, class_of).sum()),
        n_samples=table.n_samples,
        leftover=tuple(table.clusters[column] for column in np.flatnonzero(class_of < 0)),
    )


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


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with classes, by every measure.

    Attributes
    ----------
    accuracy : float
        Under the best one-to-one map; samples of leftover clusters count as wrong. 0 to 1.
    accuracy_majority : float
        The same with each leftover cluster given to its majority class.
    nmi, ami : float
        Normalised and adjusted mutual information, arithmetic average.
    ari : float
        Adjusted Rand index.
    purity : float
        Share of samples that are of their cluster's majority class.
    n_classes, n_clusters, n_samples : int
        Of what was compared; labels that don't occur aren't counted.
    match : ClusterMatch
        The one-to-one map.
    """

    accuracy: float
    accuracy_majority: float
    nmi: float
    ami: float
    ari: float
    purity: float
    n_classes: int
    n_clusters: int
    n_samples: int
    match: ClusterMatch


def compare(y_true: ArrayLike, y_pred: ArrayLike) -> Agreement:
    """Return accuracy in both conventions, NMI, AMI, ARI and purity.

    Each figure is that of the function of its name, in a fraction of the time of all of them.

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
    >>> found = compare(["a", "a", "b", "b"], [1, 1, 0, 2])
    >>> found.accuracy, found.accuracy_majority, found.purity
    (0.75, 1.0, 1.0)
    """
    table = count_pairs(y_true, y_pred)
    class_of = classes_of_clusters(table)
    by_majority = count_correct(table, with_majority(table, class_of))
    match = match_of(table, class_of)
    return Agreement(
        accuracy=match.accuracy,
        accuracy_majority=int(by_majority.sum()) / table.n_samples,
        nmi=nmi_of(table),
        ami=ami_of(table),
        ari=ari_of(table),
        purity=purity_of(table),
        n_classes=len(table.classes),
        n_clusters=len(table.clusters),
        n_samples=table.n_samples,
        match=match,
    )


@dataclass(frozen=True)
class HeadAgreement:
    """How alike the labelings of several heads are.

    Attributes
    ----------
    nmi : float
        Mean over pairs of heads of the geometric NMI, the matrix of ``kinfold.consensus.pairwise_nmi``.
    accuracy : float
        Mean over pairs of heads of the share of samples that agree under the best one-to-one map.
    n_heads : int
        Heads compared.
    """

    nmi: float
    accuracy: float
    n_heads: int


def head_agreement(labels: ArrayLike) -> HeadAgreement:
    """Return the mean agreement of every two heads.

    Parameters
    ----------
    labels : array-like, shape (n_heads, n_samples)
        The labels of two heads or more.

    Raises
    ------
    InputError
        There is one head alone, or the shape doesn't fit.

    Examples
    --------
    >>> head_agreement([[0, 0, 1, 1], [5, 5, 2, 2]])
    HeadAgreement(nmi=1.0, accuracy=1.0, n_heads=2)
    """
    heads = np.asarray(labels)
    if heads.ndim != 2 or len(heads) < 2:
        raise InputError(f"labels must hold two heads or more, one per row, but has the shape {heads.shape}")
    first, second = np.triu_indices(len(heads), 1)
    encoded = [encode(head, "labels") for head in heads]
    shares, nmis = [], []
    for a, b in zip(first, second, strict=True):
        table = table_of_codes(*encoded[a], *encoded[b])
        shares.append(int(count_correct(table, classes_of_clusters(table)).sum()) / table.n_samples)
        nmis.append(nmi_of(table, "geometric"))
    return HeadAgreement(float(np.mean(nmis)), float(np.mean(shares)), len(heads))
