"""What is said of neighbours and of a single labeling."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.methods import Criteria, assess
from kinfold.neighbors import NeighborGraph

_ROWS = 4096


def judge_labels(
    labels: NDArray[np.int32], estimator: Any, X: NDArray[np.float32], graph: NeighborGraph, seed: int
) -> Criteria:
    """Return the label-free criteria of one labeling as if it were the estimator's ``labels_``.

    ``consensus_nmi`` is the mean NMI of this labeling to the heads.
    """
    fitted = SimpleNamespace(labels_=labels, n_clusters=estimator.n_clusters)
    if hasattr(estimator, "head_labels_"):
        fitted.head_labels_, fitted.head_losses_ = estimator.head_labels_, estimator.head_losses_
    return assess(fitted, X, graph=graph, seed=seed)


def purity(classes: NDArray[np.integer], graph: NeighborGraph) -> float | None:
    """Return the share of all neighbours that are of their sample's class; reads the classes."""
    if not graph.n_edges:
        return None
    same = 0
    for start in range(0, graph.n_samples, _ROWS):
        rows = slice(start, start + _ROWS)
        own = np.repeat(classes[rows], graph.degrees[rows])
        first = int(graph.indptr[start])
        same += int(np.count_nonzero(classes[graph.indices[first : first + len(own)]] == own))
    return same / graph.n_edges
