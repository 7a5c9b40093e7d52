"""What is said of one fit: agreement with the classes, and the criteria that know none, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus import consensus, pairwise_nmi
from kinfold.heads import Training
from kinfold.methods import neighbor_agreement
from kinfold.metrics import (
    adjusted_rand_index,
    clustering_accuracy,
    expected_calibration_error,
    match_clusters,
    normalized_mutual_info,
)
from kinfold.neighbors import NeighborGraph, knn_graph
from studies.criteria import judge_labels
from studies.data import Data

Labels = NDArray[np.int32]
Stages = dict[str, Labels]
SCORES = ("acc", "nmi", "ari")
PLAIN_TEMPERATURE = {"kmeans": 0.1}  # what a method's probabilities were made at before they were calibrated
N_NEAREST = 10
_BLOCK = 2000
_JUDGED = ("labels", "best head", "consensus")  # the stages that get label-free criteria


def judge(
    estimator: Any, training: Training | None, graph: NeighborGraph | None, data: Data, seed: int
) -> dict[str, Any]:
    """Return the figures of a fitted estimator.

    ``stages`` holds, by name: ``labels`` (``labels_``, and on the test set ``predict``); of methods with
    heads ``best head`` (by ``head_choice``), ``mean head`` (mean over heads), ``oracle head`` (by training
    accuracy) and ``test consensus`` (of all heads on the test set); of ICCE ``consensus`` and ``classifier``.
    Each has ``train`` and ``test`` scores and ``criteria`` where they apply.
    """
    nearest = _nearest_graph(graph, data)
    train: Stages = {"labels": estimator.labels_}
    test: Stages = {}
    if data.test is not None and hasattr(estimator, "predict"):  # the baselines don't
        test["labels"] = estimator.predict(data.test.X)
    found: dict[str, Any] = {}
    means: dict[str, Any] = {}
    if training is not None:
        tested = None if data.test is None else training.predict_labels(_blocks(data.test.X))
        found |= {
            "epochs": [len(estimator.history_), estimator.plan_.schedule.n_epochs],
            "stopped_early": training.stopped_early,
            "heads": _judge_heads(estimator, data, tested, nearest),
        }
        means = _mean_over_heads(data, estimator.head_labels_, tested)
        _add_heads(estimator, found["heads"], tested, train, test, seed)
    found |= _add_later_stages(estimator, train, test)
    found["stages"] = {
        name: _judge_stage(name, train, test, data, estimator, nearest, seed)
        for name in dict.fromkeys([*train, *test])
    }
    if means:
        found["stages"]["mean head"] = means
    if hasattr(estimator, "temperature_"):
        found["calibration"] = judge_confidence(estimator, data)
    return found


def judge_confidence(estimator: Any, data: Data) -> dict[str, Any]:
    """Return mean confidence and calibration error before and after, of the training and of the test set.

    A sample is right where its cluster is mapped to its class, one to one; the map is that of the training
    set. Before is the temperature of training; of k-means, what its default was.
    """
    fitted = estimator.temperature_
    own = PLAIN_TEMPERATURE.get(estimator.name, 1.0)
    classes = match_clusters(data.train.y, estimator.labels_).mapping
    found: dict[str, Any] = {"temperature": fitted / own}
    for part, split in {"train": data.train, "test": data.test}.items():
        if split is None:
            continue
        clusters = estimator.predict(split.X)
        right = np.array([classes.get(cluster, -1) for cluster in clusters.tolist()]) == split.y
        found[part] = {"acc": float(right.mean())}
        for name, temperature in {"before": own, "after": fitted}.items():
            estimator.temperature_ = temperature
            sure = estimator.predict_proba(split.X).max(axis=1)
            found[part][name] = {
                "confidence": float(sure.mean()),
                "error": expected_calibration_error(sure, right),
            }
    estimator.temperature_ = fitted
    return found


def score(classes: NDArray[np.integer], labels: Labels) -> dict[str, float]:
    """Return ACC, NMI (arithmetic) and ARI."""
    return {
        "acc": float(clustering_accuracy(classes, labels)),
        "nmi": float(normalized_mutual_info(classes, labels)),
        "ari": float(adjusted_rand_index(classes, labels)),
    }


def _nearest_graph(graph: NeighborGraph | None, data: Data) -> NeighborGraph:
    """Return a graph whose first neighbours are the nearest: the fit's own, if similarities made it."""
    fits = graph is not None and graph.parameters.get("backend") == "exact"
    if graph is not None and fits and graph.parameters["n_neighbors"] >= N_NEAREST:
        return graph
    return knn_graph(data.train.X, min(N_NEAREST, len(data.train.X) - 1), zero_rows="isolate")


def _judge_heads(estimator: Any, data: Data, tested: Labels | None, nearest: NeighborGraph) -> dict[str, Any]:
    """Return lists with one figure per head, and the mean NMI of every two heads."""
    heads = estimator.head_labels_
    agreement = pairwise_nmi(heads)
    others = max(1, len(heads) - 1)
    found = {
        "loss": estimator.head_losses_.tolist(),
        "mean_nmi": ((agreement.sum(axis=1) - 1) / others).tolist(),
        "neighbor_agreement": [neighbor_agreement(nearest, labels) for labels in heads],
        "live": [len(np.unique(labels)) for labels in heads],
        "acc": [float(clustering_accuracy(data.train.y, labels)) for labels in heads],
        "pairwise_nmi": float((agreement.sum() - len(heads)) / (len(heads) * others)),
    }
    if tested is not None and data.test is not None:
        found["acc_test"] = [float(clustering_accuracy(data.test.y, labels)) for labels in tested]
    return found


def _mean_over_heads(data: Data, heads: Labels, tested: Labels | None) -> dict[str, Any]:
    means = {"train": _mean_score(data.train.y, heads)}
    if tested is not None and data.test is not None:
        means["test"] = _mean_score(data.test.y, tested)
    return means


def _mean_score(classes: NDArray[np.integer], heads: Labels) -> dict[str, float]:
    scores = [score(classes, labels) for labels in heads]
    return {name: float(np.mean([one[name] for one in scores])) for name in SCORES}


def _add_heads(
    estimator: Any, heads: dict[str, Any], tested: Labels | None, train: Stages, test: Stages, seed: int
) -> None:
    chosen = {"best head": estimator.best_head_, "oracle head": int(np.argmax(heads["acc"]))}
    for name, number in chosen.items():
        train[name] = estimator.head_labels_[number]
        if tested is not None:
            test[name] = tested[number]
    if tested is not None:
        together = consensus(tested, n_clusters=estimator.n_clusters, random_state=seed)
        test["test consensus"] = together.labels


def _add_later_stages(estimator: Any, train: Stages, test: Stages) -> dict[str, Any]:
    """Add stages 2 and 3 of ICCE, and return how they were chosen."""
    found: dict[str, Any] = {}
    if (won := getattr(estimator, "consensus_", None)) is not None:
        train["consensus"] = estimator.consensus_labels_
        candidates = {candidate.name: candidate.mean_nmi for candidate in won.candidates}
        found["consensus"] = {"method": won.method, "mean_nmi": won.mean_nmi, "candidates": candidates}
    if (classifier := getattr(estimator, "self_training_", None)) is not None:
        train["classifier"] = estimator.labels_
        if "labels" in test:
            test["classifier"] = test["labels"]
        found["self_training"] = {
            "learning_rate": classifier.learning_rate,
            "agreement": classifier.agreement,
        }
    return found


def _judge_stage(
    name: str,
    train: Stages,
    test: Stages,
    data: Data,
    estimator: Any,
    nearest: NeighborGraph,
    seed: int,
) -> dict[str, Any]:
    stage: dict[str, Any] = {}
    if name in train:
        stage["train"] = score(data.train.y, train[name])
    if name in train and name in (_JUDGED if "consensus" in train else _JUDGED[:1]):
        stage["criteria"] = judge_labels(train[name], estimator, data.train.X, nearest, seed).as_dict()
    if name in test and data.test is not None:
        stage["test"] = score(data.test.y, test[name])
    return stage


def _blocks(X: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    return (X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK))
