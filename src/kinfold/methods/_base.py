"""Base classes of the methods, and the checks that need the data as well as the parameters."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kinfold.compute import PRECISIONS, Runtime
from kinfold.distributed import current_workers
from kinfold.errors import InputError
from kinfold.methods._calibration import calibrate, temper
from kinfold.methods._number import estimate_levels
from kinfold.methods._rows import check_rows, predict_blocks
from kinfold.methods.protocol import Clusterer, Criteria, Graphs, Needs, Rows
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import Progress
from kinfold.rows import RowMatrix
from kinfold.validation import (
    SEED,
    Choice,
    Constraint,
    Either,
    Integer,
    Nothing,
    Rule,
    check_n_clusters,
    check_parameters,
)

logger = logging.getLogger(__name__)

# Parameters that a run tells by themselves, beside the method's own: they are no part of its description.
RUN_PARAMETERS = ("n_clusters", "random_state", "device")

_EXPECTED_CLUSTERS = 10  # for the cost and the graph of a fit whose number of clusters isn't known yet

SHARED_CONSTRAINTS: Mapping[str, Constraint] = {
    "n_clusters": Either(Integer(), Choice(("auto",))),
    # Which devices there are is known to PyTorch alone: kinfold.compute.resolve_device answers for the name.
    "device": Rule(lambda value: isinstance(value, str | torch.device), 'the name of a device, like "cpu"'),
    "precision": Choice(PRECISIONS),
    "random_state": Either(
        Nothing(),
        SEED,
        Rule(lambda value: isinstance(value, np.random.RandomState), "a numpy.random.RandomState"),
    ),
}
"""Rules of the parameters that every method has; a class writes ``{**SHARED_CONSTRAINTS, …}``."""


class BaseClusterer(ClusterMixin, BaseEstimator):
    """Base of all methods: the answers of :class:`~kinfold.methods.protocol.Clusterer` that most share."""

    name: ClassVar[str]
    constraints: ClassVar[Mapping[str, Constraint]] = SHARED_CONSTRAINTS
    neighbors_parameter: ClassVar[str | None] = None
    noun_parameters: ClassVar[tuple[str, ...]] = ()
    # On the class, so that a method which compares nothing has an answer before and after its fit.
    criteria_: Criteria | None = None
    n_clusters: int | str

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        check_parameters(self)

    def describe_parameters(self, n_samples: int) -> dict[str, Any]:
        """Return the parameters that decide a fit of N samples, those of its graph filled in.

        Left out are K, seed and device, which a run tells by themselves, and nouns, which it tells by their
        fingerprint.
        """
        left_out = (*RUN_PARAMETERS, *self.noun_parameters)
        own = {key: value for key, value in self.get_params(deep=False).items() if key not in left_out}
        if graph := self.needs(n_samples).graphs.get(self.name):
            # What was left open is told as it turned out: a new default must not pass for the old one.
            if self.neighbors_parameter is not None:
                own[self.neighbors_parameter] = graph["n_neighbors"]
            if "max_neighbors" in graph:
                own["max_neighbors"] = graph["max_neighbors"]
        return own

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows."""
        return Needs()

    @property
    def _k(self) -> int:
        """K as it is asked for; where it is "auto", as fitted, and before a fit a number to plan with."""
        if self.n_clusters != "auto":
            return int(self.n_clusters)
        return int(getattr(self, "n_clusters_", _EXPECTED_CLUSTERS))

    def _settle_n_clusters(self, X: RowMatrix, runtime: Runtime) -> None:
        """Set ``n_clusters_`` for a fit of checked rows, and refuse more clusters than samples.

        Of several processes the first one's estimate counts.
        """
        n_samples = int(X.shape[0])
        if self.n_clusters == "auto":
            seed = self.random_state if isinstance(self.random_state, Integral) else 0
            workers, found = current_workers(), None
            if workers.is_first:
                found = estimate_levels(
                    X, random_state=int(seed), device=str(runtime.device), progress=runtime.progress
                )
                logger.info("%d clusters: %s", found.chosen, found.reason)
            self.level_estimate_ = workers.broadcast(found)
            self.n_clusters_ = int(self.level_estimate_.chosen)
            return
        check_n_clusters(self.n_clusters, n_samples)
        self.n_clusters_ = int(self.n_clusters)

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: the tables by which it chose, JSON-ready."""
        history = getattr(self, "history_", None)
        return {} if history is None else {"n_rounds": len(history)}

    def _resolve_runtime(self, runtime: Runtime | None, progress: Progress) -> Runtime:
        """Return the runtime of a fit: the given one, or that which the parameters name."""
        if runtime is not None:
            return runtime
        return Runtime.resolve(self.device, self.precision, progress=progress)


class BlockPredictor(BaseClusterer, ABC):
    """Base of methods that have ``_probabilities``; ``_learned`` is what only fitted ones have.

    Labels are the arg max of ``_probabilities``, which are at the method's own temperature. What a user gets
    to see is at ``temperature_`` times that, as :meth:`_calibrate` sets it at the end of a fit.
    """

    _learned: ClassVar[str]
    temperature_: float = 1.0  # on the class, so that a model which was saved without one is as it was

    def predict(self, X: Rows) -> NDArray[np.int32]:
        """Return the most probable cluster of every row of X (N, D), int32."""
        return self._labels(self._check_predict(X))

    def predict_proba(self, X: Rows) -> NDArray[np.float32]:
        """Return the probabilities (N, K) of the clusters for the rows of X (N, D)."""
        rows = self._check_predict(X)
        return np.concatenate([temper(block, self.temperature_) for block in self._probabilities(rows)])

    def _check_predict(self, X: Rows) -> RowMatrix:
        """Return rows to predict for, checked."""
        check_is_fitted(self, self._learned)
        return check_rows(self, X, fitting=False)

    def _labels(self, X: RowMatrix) -> NDArray[np.int32]:
        """Return the most probable cluster of rows that were checked already, the lower number on ties."""
        return np.concatenate([block.argmax(axis=1).astype(np.int32) for block in self._probabilities(X)])

    def _calibrate(self, X: RowMatrix, runtime: Runtime) -> None:
        """Set ``temperature_`` by the rows that were fitted, and by their ``labels_``."""
        self.temperature_ = calibrate(
            X,
            self.labels_,
            self.n_clusters_,
            lambda rows: np.concatenate(list(self._probabilities(rows))),
            device=runtime.device,
        )

    @abstractmethod
    def _probabilities(self, X: RowMatrix) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities (n, K), not calibrated, of blocks of rows that were checked already."""


class LogitPredictor(BlockPredictor):
    """Base of methods that have ``_logits`` on ``_device``: probabilities are their softmax."""

    n_clusters_: int
    _device: torch.device

    def _probabilities(self, X: RowMatrix) -> Iterator[NDArray[np.float32]]:
        for block in predict_blocks(X, self.n_clusters_):
            rows = torch.from_numpy(np.array(block, dtype=np.float32)).to(self._device)
            with torch.inference_mode():
                yield torch.softmax(self._logits(rows), dim=1).cpu().numpy()

    @abstractmethod
    def _logits(self, rows: Tensor) -> Tensor:
        """Return the logits (n, K) of what predicts, at the temperature of training."""


def read_temperature(config: Mapping[str, Any]) -> float:
    """Return the temperature of a saved model: 1.0 of one that was saved before there was any."""
    return float(config.get("temperature", 1.0))


def own_graph(name: str, graph: Graphs, n_samples: int) -> NeighborGraph | None:
    """Return a method's graph: the only one, or that of its name.

    Raises
    ------
    InputError
        It is no graph, or one of another number of samples.
    """
    own = graph.get(name) if isinstance(graph, Mapping) else graph
    check_graph(own, n_samples)
    return own


def make_graph(X: RowMatrix, options: Mapping[str, Any], runtime: Runtime) -> NeighborGraph:
    """Return the graph of checked rows that a method's :class:`~kinfold.methods.protocol.Needs` describe."""
    # check_rows has warned of all-zero rows: they are no reason to stop a fit.
    return knn_graph(X, **options, zero_rows="isolate", device=runtime.device, progress=runtime.progress)


def check_graph(graph: object, n_samples: int) -> None:
    """Raise :class:`InputError` unless it is a graph of N samples, or None."""
    if graph is None:
        return
    if not isinstance(graph, NeighborGraph):
        raise InputError(
            f"graph must be a NeighborGraph, not {type(graph).__name__}; "
            "NeighborGraph.from_lists(indptr, indices) makes one of your pairs"
        )
    if graph.n_samples != n_samples:
        raise InputError(
            f"the graph has {graph.n_samples} samples, but X has {n_samples} rows; give the graph of "
            "these rows"
        )


def fitted_clusters(estimator: Clusterer) -> int:
    """Return K as an estimator was fitted, whatever its parameter says by now."""
    return int(getattr(estimator, "n_clusters_", estimator.n_clusters))
