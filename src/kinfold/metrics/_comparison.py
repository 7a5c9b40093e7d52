"""All agreement of classes and clusters at once: the pairs are counted and matched one time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kinfold.errors import InputError
from kinfold.metrics._accuracy import (
    ClusterMatch,
    classes_of_clusters,
    count_correct,
    match_of,
    with_majority,
)
from kinfold.metrics._classes import purity_of
from kinfold.metrics._contingency import count_pairs, encode, table_of_codes
from kinfold.metrics._information import ami_of, nmi_of
from kinfold.metrics._pairs import ari_of


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
