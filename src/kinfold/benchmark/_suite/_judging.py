"""What is said of one fit: agreement with the classes, calibration, separability."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold import metrics
from kinfold.benchmark._suite._data import Split, Task
from kinfold.methods import predict_top

_MOST_JUDGED = 20_000  # rows whose neighbours tell the alignment
_N_NEIGHBORS = 10
_HELD_OUT = 0.2
_CELLS = 1 << 23  # probabilities at a time


def judge(estimator: Any, task: Task, *, with_ami: bool = False) -> dict[str, Any]:
    """Return the figures of a fitted estimator on training rows and, where there are some, on test rows.

    ``calibration`` and ``confidence`` are of the rows that are judged: the test rows, else the training rows.
    """
    judged = task.test or task.train
    top = predict_top(estimator, judged.X)
    found: dict[str, Any] = {"train": scores(task.train.y, estimator.labels_, with_ami=with_ami)}
    labels = estimator.labels_ if task.test is None else top.clusters[:, 0]
    side = "train" if task.test is None else "test"
    match = metrics.match_clusters(judged.y, top.clusters[:, 0])
    right = _right(judged.y, top.clusters[:, 0], match.mapping)
    sureness = _sureness(top.probabilities[:, 0], right)
    found[side] = scores(judged.y, labels, with_ami=with_ami) | {
        "top5": metrics.top_k_accuracy(judged.y, top.clusters, k=min(5, top.clusters.shape[1])),
        "ece": sureness.pop("ece"),
    }
    return found | sureness


def judge_names(classifier: Any, task: Task) -> dict[str, Any]:
    """Return the figures of zero-shot classification on the rows that are judged.

    Its answers are classes, so the accuracy is the share of right ones, without a map.
    """
    judged = task.test or task.train
    best, probabilities = _rank(classifier, judged)
    right = best == judged.y[:, None]
    sureness = _sureness(probabilities, right[:, 0])
    found = scores(judged.y, best[:, 0])
    del found["acc_majority"]  # no cluster to give away
    found |= {"acc": right[:, 0].mean(), "top5": right.any(axis=1).mean(), "ece": sureness.pop("ece")}
    return {"train" if task.test is None else "test": found, **sureness}


def _rank(classifier: Any, split: Split) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the up to five likeliest classes of every row, and the probability of the first."""
    width = min(5, classifier.n_classes)
    best = np.empty((len(split.y), width), dtype=np.int64)
    sure = np.empty(len(split.y), dtype=np.float32)
    size = max(1, _CELLS // classifier.n_classes)
    for start in range(0, len(split.y), size):
        found = classifier.predict_proba(np.asarray(split.X[start : start + size], dtype=np.float32))
        best[start : start + size] = np.argsort(-found, axis=1, kind="stable")[:, :width]
        sure[start : start + size] = found.max(axis=1)
    return best, sure


def _sureness(confidences: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return how confident an answer is and how often it is right then."""
    curve = metrics.calibration_curve(confidences, right)
    histogram = metrics.confidence_histogram(confidences)
    return {
        "ece": curve.error,
        "calibration": {
            "edges": curve.edges,
            "counts": curve.counts,
            "accuracies": curve.accuracies,
            "confidences": curve.confidences,
        },
        "confidence": {"edges": histogram.edges, "counts": histogram.counts, "mean": histogram.mean},
    }


def scores(y: NDArray[np.integer], labels: NDArray[np.integer], *, with_ami: bool = False) -> dict[str, Any]:
    """Return agreement of clusters with classes, by every measure that is quick."""
    found: dict[str, Any] = {
        "acc": metrics.clustering_accuracy(y, labels),
        "acc_majority": metrics.clustering_accuracy(y, labels, majority=True),
        "nmi": metrics.normalized_mutual_info(y, labels),
        "nmi_geometric": metrics.normalized_mutual_info(y, labels, average_method="geometric"),
        "ari": metrics.adjusted_rand_index(y, labels),
        "purity": metrics.purity(y, labels),
        "live": len(np.unique(labels)),
    }
    if with_ami:
        found["ami"] = metrics.adjusted_mutual_info(y, labels)
    return found


def _right(y: NDArray[np.integer], clusters: NDArray[np.integer], mapping: Any) -> NDArray[np.bool_]:
    """Tell which rows are in the cluster that stands for their class."""
    most = int(clusters.max()) + 1
    classes = np.full(most, -1, dtype=np.int64)
    for cluster, label in mapping.items():
        classes[int(cluster)] = int(label)
    return np.asarray(classes[clusters] == y)


def judge_space(task: Task, seed: int) -> dict[str, Any]:
    """Return how well the classes lie apart in the space: an upper bound, no clustering.

    The linear probe learns from the labels of the training rows and is judged on the test rows. Where there
    are none, a fifth of the training rows, drawn with the seed, is held out and judged instead.
    """
    from kinfold.probing import linear_probe

    learned, judged = (task.train, task.test) if task.test is not None else _hold_out(task.train, seed)
    found = linear_probe(learned.X, learned.y, judged.X, judged.y, random_state=seed)
    space = _draw(judged, seed)
    unit = _unit(space)
    return {
        "n_train": len(learned.y),
        "n_test": len(judged.y),
        "test": {"acc": found.accuracy, "top5": found.top5_accuracy},
        "probe": {"learning_rate": found.learning_rate, "weight_decay": found.weight_decay},
        "n_space": len(space.y),
        "space": {
            "silhouette": metrics.silhouette(unit, space.y, random_state=seed).value,
            "davies_bouldin": metrics.davies_bouldin(unit, space.y),
            "alignment": metrics.alignment(unit, space.y, _nearest(unit)),
        },
    }


def _hold_out(split: Split, seed: int) -> tuple[Split, Split]:
    order = np.random.default_rng(seed).permutation(len(split.y))
    held = np.zeros(len(order), dtype=bool)
    held[order[: max(1, round(_HELD_OUT * len(order)))]] = True
    kept, out = np.flatnonzero(~held), np.flatnonzero(held)
    return split.take(kept), split.take(out)


def _draw(split: Split, seed: int) -> Split:
    if len(split.y) <= _MOST_JUDGED:
        return split
    rows = np.sort(np.random.default_rng(seed).choice(len(split.y), _MOST_JUDGED, replace=False))
    return split.take(rows)


def _unit(split: Split) -> NDArray[np.float32]:
    X = np.asarray(split.X[:], dtype=np.float32)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return np.asarray(X / np.maximum(norms, np.finfo(np.float32).tiny))


def _nearest(unit: NDArray[np.float32]) -> Any:
    from kinfold.neighbors import knn_graph

    return knn_graph(unit, min(_N_NEIGHBORS, len(unit) - 1), zero_rows="isolate")
