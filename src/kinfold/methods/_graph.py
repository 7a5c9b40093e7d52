"""Graph clustering: features diffuse along the neighbour graph, many labelings of them make one consensus."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils import check_random_state
from torch import Tensor

from kinfold.compute import Runtime, resolve_device
from kinfold.consensus import consensus
from kinfold.distributed import current_workers
from kinfold.methods._base import SHARED_CONSTRAINTS, LogitPredictor, make_graph, own_graph, read_temperature
from kinfold.methods._criteria import warn_of_collapse
from kinfold.methods._graph_labelings import N_NEIGHBORS, RESTARTS, count_operations, graph_labelings
from kinfold.methods._rows import check_rows
from kinfold.methods._self_training import SelfTraining, fit_self_training
from kinfold.methods._self_training import count_operations as count_classifier_operations
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Needs, Rows, Shape
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.validation import Constraint, Integer, Listed, Number

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class GraphClustering(LogitPredictor):
    """Clusters of the neighbour graph: a fast method that lets kinds be as uneven as they are.

    Features diffuse along the graph of nearest neighbours by random walks with restart, so that the images of
    one densely connected kind become alike, be they many or few. K-means and Ward's method group the result,
    several times each; the consensus of these labelings trains a linear classifier, which predicts.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    n_neighbors : int, default 10
        Nearest neighbours of a sample, at most one less than there are samples.
    restarts : sequence of float, default (0.02, 0.05, 0.1)
        Restart probabilities of the walks, in (0, 1): a smaller one sees more of the graph. Each gives
        labelings of its own.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is: of the neighbour search and the classifier. The walks are
        always made by the processor.
    precision : str, default "auto"
        Of matrix products in the neighbour search, whose results it does not touch: "float32", "bfloat16", or
        bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample, by the classifier.
    consensus_labels_ : ndarray (N,) int32
        Cluster of every training sample in the consensus.
    consensus_ : Consensus
        The consensus with its table of candidates.
    self_training_ : SelfTraining
        The classifier with its table of settings.
    temperature_ : float
        Of :meth:`predict_proba`, in times of the training's; found by the fit, without labels, so that the
        mean confidence is the share of samples expected to be right. 1 gives the probabilities as trained.
    n_clusters_ : int
        K as fitted.
    n_features_in_ : int
        D.

    Raises
    ------
    InputError
        From ``fit``: more clusters than samples, rows that are not finite, a graph of another size.

    References
    ----------
    Weights of the graph: McInnes, Healy & Melville (2018), "UMAP", section 3.1. Diffusion: Gasteiger,
    Bojchevski & Günnemann (2019), "Predict then Propagate", Equation 5. Consensus and classifier: "ICCE",
    sections 3.2 and 3.3. What chose the defaults is in docs/choices.md.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import GraphClustering
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> GraphClustering(n_clusters=3, random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    name: ClassVar[str] = "graph"
    neighbors_parameter: ClassVar[str | None] = "n_neighbors"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **SHARED_CONSTRAINTS,
        "n_neighbors": Integer(),
        "restarts": Listed(Number(above=0, below=1), example="[0.05, 0.1]"),
    }
    _learned: ClassVar[str] = "self_training_"

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        n_neighbors: int = N_NEIGHBORS,
        restarts: Sequence[float] = RESTARTS,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_neighbors = n_neighbors
        self.restarts = restarts
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(
        self,
        X: Rows,
        y: object = None,
        *,
        graph: Graphs = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Find the clusters of X (N, D); of several processes the first one works for all.

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y, checkpoint : ignored
            Present for a common interface; labels never reach a fit.
        graph : NeighborGraph or mapping of str to NeighborGraph, optional
            Neighbours of the N samples, of which the closest are used; of a mapping the one of this method's
            name. Made here where it is missing.
        progress : Progress
            Shows labelings and steps.
        runtime : Runtime, optional
            Wins over ``device``, ``precision`` and ``progress``.

        Returns
        -------
        self
        """
        self.check_parameters()
        runtime = self._resolve_runtime(runtime, progress)
        rows = check_rows(self, X, fitting=True)
        n_samples = int(rows.shape[0])
        self._settle_n_clusters(rows, runtime)
        self._device = runtime.device
        neighbors = own_graph(self.name, graph, n_samples)
        if neighbors is None:
            neighbors = make_graph(rows, self.needs(n_samples).graphs[self.name], runtime)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        workers = current_workers()
        found = self._find(rows, neighbors, seed, runtime) if workers.is_first else None
        self.consensus_, self.self_training_ = workers.broadcast(found)
        self.consensus_labels_ = self.consensus_.labels
        self.labels_ = self._labels(rows)
        self._calibrate(rows, runtime)
        warn_of_collapse(self.labels_, self.n_clusters_)
        return self

    def needs(self, n_samples: int) -> Needs:
        """Return what a fit of N samples takes besides the rows: a graph of their neighbours."""
        return Needs({self.name: {"n_neighbors": max(1, min(int(self.n_neighbors), n_samples - 1))}})

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take: labelings of diffused features, and the classifier."""
        operations = count_operations(shape.n_samples, self._k, shape.n_features)
        operations += count_classifier_operations(shape, self._k)
        return Cost(seconds=operations / machine.rate, model_bytes=4 * shape.n_features * self._k)

    def facts(self) -> dict[str, Any]:
        """Return what ``manifest.fit`` says of a fit: consensus candidates, settings tried."""
        return {**self.consensus_.facts(), **self.self_training_.facts()}

    def to_model(self) -> Model:
        """Return what is saved: the classifier."""
        return Model(
            method=self.name,
            n_features=int(self.n_features_in_),
            config={
                "n_clusters": self.n_clusters_,
                "temperature": self.temperature_,
                "self_training": self.self_training_.config(),
            },
            tensors=self.self_training_.tensors(),
        )

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
        loaded = cls(n_clusters=model.config["n_clusters"], device=device)
        loaded.n_clusters_ = int(model.config["n_clusters"])
        loaded.n_features_in_ = model.n_features
        loaded.temperature_ = read_temperature(model.config)
        loaded.self_training_ = SelfTraining.read(model.config["self_training"], model.tensors)
        loaded._device = resolve_device(device)
        return loaded

    def _find(self, X: RowMatrix, graph: NeighborGraph, seed: int, runtime: Runtime) -> tuple[Any, Any]:
        """Return the consensus, and the classifier that learned it."""
        labelings = graph_labelings(
            X,
            graph,
            self.n_clusters_,
            seed=seed,
            n_neighbors=int(self.n_neighbors),
            restarts=self.restarts,
            progress=runtime.progress,
        )
        agreed = consensus(
            labelings, n_clusters=self.n_clusters_, random_state=seed, progress=runtime.progress
        )
        logger.info("consensus of %d labelings: %s", len(labelings), agreed.method)
        classifier = fit_self_training(
            X,
            agreed.labels,
            self.n_clusters_,
            seed=seed,
            device=runtime.device,
            progress=runtime.progress,
        )
        return agreed, classifier

    def _logits(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.self_training_.logits(rows)
        return logits
