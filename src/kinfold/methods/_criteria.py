"""Criteria of a fit without labels: collapse, neighbour label agreement, held-out accuracy, NMI of heads.

Neighbour label agreement is corrected for chance throughout: with a the share of close neighbours of the same
label, and p the shares of all samples that the clusters hold, it is (a − Σ p²) / (1 − Σ p²).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from kinfold.consensus import mean_nmi, pairwise_nmi
from kinfold.errors import InputError
from kinfold.methods._base import check_graph, fitted_clusters
from kinfold.methods._rows import draw_rows
from kinfold.methods._self_training import cross_validated_agreement
from kinfold.methods.protocol import Clusterer, Criteria, is_giant
from kinfold.neighbors import NeighborGraph, closest_rows
from kinfold.rows import RowMatrix
from kinfold.validation import check_integer

ASSESS_SECONDS = 1.0  # expected for one call of assess: its samples are bounded whatever N is
# Neighbours per sample whose labels are compared: the closest ones, whatever the graph of a fit holds, so
# methods with wide and narrow graphs compare.
N_CLOSEST = 10
N_FOLDS = 5  # of the cross-validation, all trained at once: twice as many would take twice the memory
# Samples of the cross-validation: enough for a share that is right to a percent, at least ten per cluster, so
# that a fold of two remains to test each cluster.
_FOLD_ROWS = 5_000
_FOLD_ROWS_PER_CLUSTER = 10
_SEARCH_PRODUCTS = 100_000_000_000  # of numbers, where neighbours have to be found: a few seconds of a core
_FEWEST_ROWS = 500  # whose neighbours are found however long it takes: fewer tell nothing of many clusters


def assess(
    estimator: Clusterer,
    X: RowMatrix,
    *,
    graph: NeighborGraph | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    max_rows: int = 20_000,
) -> Criteria:
    """Measure a fit without labels, in seconds.

    Parameters
    ----------
    estimator : fitted method
        Its ``labels_`` are judged, and its heads where it has some.
    X : array or row matrix (N, D)
        The features that it was fitted on.
    graph : NeighborGraph, optional
        Neighbours of the N samples. Where it is missing, the closest ones are found, of as many samples as
        takes seconds. A graph of fewer than 10 neighbours per sample tells of these alone.
    seed : int, default 0
        Of the rows that are drawn, and of the folds.
    device : str or torch.device, default "auto"
        Where to compute.
    max_rows : int, default 20000
        Where N is larger, neighbours and heads are looked at for so many samples, always the same ones; the
        cross-validation has 5 folds of at most 5,000 rows, or 10 per cluster.

    Returns
    -------
    Criteria

    Raises
    ------
    InputError
        X or the graph has another number of samples than were fitted, or there are no ``labels_``.
    """
    check_integer(max_rows=max_rows)
    if not hasattr(estimator, "labels_"):
        raise InputError("the estimator has no labels_ to judge: fit it; one that was loaded has none either")
    labels = np.asarray(estimator.labels_)
    if len(labels) != X.shape[0]:
        raise InputError(
            f"the estimator was fitted on {len(labels)} samples, but X has {X.shape[0]} rows; give the "
            "rows that it was fitted on"
        )
    check_graph(graph, len(labels))
    n_clusters = fitted_clusters(estimator)
    drawn = draw_rows(len(labels), max_rows, seed)  # the same for every fit, so that their figures compare
    found = diagnose(labels, n_clusters)
    fold_rows = min(max_rows, max(_FOLD_ROWS, _FOLD_ROWS_PER_CLUSTER * n_clusters))
    accuracy = cross_validated_agreement(
        X, labels, n_clusters, n_folds=N_FOLDS, seed=seed, device=device, max_rows=fold_rows
    )
    if graph is None:
        affordable = max(_FEWEST_ROWS, _SEARCH_PRODUCTS // (X.shape[0] * X.shape[1]))
        some = draw_rows(len(labels), min(max_rows, affordable), seed)
        agreement = _beyond_chance(labels, *closest_rows(X, some, N_CLOSEST, device=device))
    else:
        agreement = neighbor_agreement(graph, labels, drawn)
    return Criteria(
        n_clusters=n_clusters,
        live_clusters=n_clusters - len(found.dead),
        largest_share=found.largest_share,
        neighbor_agreement=agreement,
        cross_validated_accuracy=accuracy,
        **_judge_heads(estimator, labels, drawn),
    )


def neighbor_agreement(
    graph: NeighborGraph,
    labels: NDArray[np.integer],
    rows: NDArray[np.int64] | None = None,
    *,
    n_closest: int = N_CLOSEST,
) -> float:
    """Return the neighbour label agreement, corrected for chance.

    With a the share of close neighbours of the same label, 1 means that all of them have it, 0 that as many
    have it as would by chance; below 0, fewer have it.

    Parameters
    ----------
    graph : NeighborGraph
        Neighbours of N samples.
    labels : ndarray (N,)
        Labels of 0 or more.
    rows : ndarray of int64, optional
        The samples whose neighbours are looked at; by default all.
    n_closest : int, default 10
        Neighbours per sample at most.

    Returns
    -------
    float
        (a − Σ p²) / (1 − Σ p²), see :class:`Criteria`.
    """
    rows = np.arange(len(labels)) if rows is None else rows
    # The closest come first in a graph's lists; all places are made at once, as lists differ in length.
    starts = np.asarray(graph.indptr)[rows]
    counts = np.minimum(np.asarray(graph.indptr)[rows + 1] - starts, n_closest)
    places = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(
        counts.sum()
    )
    return _beyond_chance(labels, np.repeat(rows, counts), np.asarray(graph.indices[places]))


def weigh_agreement(agreement: float, n_live: int, n_clusters: int) -> float:
    """Return an agreement of neighbours times the share of live clusters; below chance, as it is.

    Neighbours agree more easily where clusters are fewer, so a dead one counts by its share of all.
    """
    return min(agreement, agreement * n_live / n_clusters)


def _beyond_chance(
    labels: NDArray[np.integer], owners: NDArray[np.int64], others: NDArray[np.integer]
) -> float:
    """Return the share of pairs with the same label, less what chance would give, see :class:`Criteria`."""
    # Two samples drawn at random share a label so often: large clusters would else look good by their size.
    chance = float(np.sum((np.bincount(labels) / len(labels)) ** 2))
    if not len(owners) or chance >= 1:
        return 0.0
    return float((np.mean(labels[owners] == labels[others]) - chance) / (1 - chance))


def _judge_heads(
    estimator: Any, labels: NDArray[np.integer], rows: NDArray[np.int64]
) -> dict[str, float | None]:
    """Return the criteria that only a method with heads has."""
    heads = getattr(estimator, "head_labels_", None)
    if heads is None:
        return {}
    losses = np.asarray(estimator.head_losses_, dtype=np.float64)
    some = np.asarray(heads)[:, rows]
    pairs = pairwise_nmi(some)[np.triu_indices(len(some), 1)]
    agreed = getattr(estimator, "consensus_labels_", labels)
    return {
        "best_head_loss": float(losses.min()),
        "mean_head_loss": float(losses.mean()),
        "head_nmi": float(pairs.mean()) if len(pairs) else None,
        "consensus_nmi": mean_nmi(some, agreed[rows]),
    }


@dataclass(frozen=True)
class Diagnosis:
    """Empty clusters and the largest one of a clustering.

    Attributes
    ----------
    n_clusters : int
        K that was asked for.
    dead : tuple of int
        Clusters without a member.
    largest : int
        The largest cluster.
    largest_share : float
        Its share of all samples, in [0, 1].
    messages : tuple of str
        What is wrong and what to try; empty when nothing is wrong.
    """

    n_clusters: int
    dead: tuple[int, ...]
    largest: int
    largest_share: float
    messages: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {**vars(self), "dead": list(self.dead), "messages": list(self.messages)}


def warn_of_collapse(labels: NDArray[np.integer], n_clusters: int) -> None:
    """Warn (:class:`~sklearn.exceptions.ConvergenceWarning`) of dead clusters and of a giant one."""
    for message in diagnose(labels, n_clusters).messages:
        # Level 3 is the caller of fit: the line that a person can change.
        warnings.warn(message, ConvergenceWarning, stacklevel=3)


def diagnose(labels: NDArray[np.integer], n_clusters: int) -> Diagnosis:
    """Look for dead clusters and for one giant cluster.

    A cluster is a giant when it holds more than half of all samples and more than three times its equal
    share.

    Parameters
    ----------
    labels : ndarray (N,)
        Clusters in 0 … K−1.
    n_clusters : int
        K.
    """
    sizes = np.bincount(np.asarray(labels, dtype=np.int64), minlength=n_clusters)
    dead = tuple(np.flatnonzero(sizes == 0).tolist())
    largest = int(sizes.argmax())
    share = float(sizes[largest] / max(1, sizes.sum()))
    messages = []
    if dead:
        messages.append(
            f"{len(dead)} of {n_clusters} clusters are empty. Ask for fewer clusters, or try another method "
            "or backbone: the features may not hold that many kinds."
        )
    if is_giant(share, n_clusters):
        messages.append(
            f"Cluster {largest} holds {share:.0%} of all samples. If the kinds are not that uneven, try a "
            "stronger backbone, more clusters, or another seed."
        )
    return Diagnosis(n_clusters, dead, largest, share, tuple(messages))
