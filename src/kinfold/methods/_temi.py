"""TEMI: heads trained to give neighbours the same cluster."""

from __future__ import annotations

import logging
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError
from kinfold.heads import MultiHeadNetwork, PairSampler, TemiObjective, Trainer
from kinfold.methods._base import check_n_clusters, check_positive, check_whole
from kinfold.methods._diagnosis import warn_of_collapse
from kinfold.methods._rows import check_rows, numpy_blocks, refuse_beyond_float32, zero_rows
from kinfold.methods._schedule import Plan, default_n_neighbors, plan_training
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import SILENT, Progress
from kinfold.storage import hash_json

logger = logging.getLogger(__name__)

TEMPERATURE = 0.1
_PREDICT_BYTES = 8 << 20


class TEMI(ClusterMixin, BaseEstimator):
    """Teacher-weighted pointwise mutual information between neighbours, maximised by many heads.

    A sample and a random one of its nearest neighbours should get the same cluster. H independent heads
    learn this together, each against a slowly following teacher; the head with the lowest training loss,
    a choice without labels, gives the clusters.

    Parameters
    ----------
    n_clusters : int, default 8
        K, at most the number of samples.
    n_heads : int, default 16
        H. The paper trains 50.
    n_neighbors : int, optional
        Neighbours per sample where ``fit`` makes the graph itself; by default the paper's 50, or fewer in
        data where half an average cluster is smaller.
    beta : float, default 0.6
        Exponent in (0, 1] of the pointwise mutual information; 1 is plain PMI.
    weighted : bool, default True
        Weigh pairs by the teachers' agreement; else all pairs count the same.
    n_epochs : int, optional
        Passes over the data; by default as many as make a fixed number of steps.
    batch_size : int, optional
        Pairs per step, cut to N; by default 128 to 512 with growing N, more for many clusters.
    learning_rate : float, optional
        Of AdamW after the warm-up; by default 1e-3.
    momentum : float, optional
        Of the teacher, in [0, 1); by default the paper's 0.996 in long trainings, less in short ones.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : str, default "auto"
        Of matrix products: "float32", "bfloat16", or bfloat16 where the device has units for it.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample: the arg max of the best head's teacher.
    head_losses_ : ndarray (H,) float32
        Training loss of every head over the last epoch.
    best_head_ : int
        The head with the lowest loss.
    history_ : ndarray (epochs, H) float32
        Loss of every head in every epoch.
    plan_ : Plan
        Batch size and schedule as used.
    n_features_in_ : int
        D.

    Raises
    ------
    InputError
        From ``fit``: more clusters than samples, rows that are not finite, a graph of
        another size.

    References
    ----------
    Adaloglou, Michels, Kalisch & Kollmann (2023), "Exploring the Limits of Deep Image Clustering using
    Pretrained Models", sections 3.2 and 3.3. Differences: length, rate and momentum adapt to N.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from kinfold import TEMI
    >>> X, _ = make_blobs(300, centers=3, n_features=16, random_state=0)
    >>> TEMI(n_clusters=3, n_heads=2, n_epochs=20, random_state=0).fit(X).predict_proba(X[:5]).shape
    (5, 3)
    """

    needs_graph: ClassVar[bool] = True

    def __init__(
        self,
        *,
        n_clusters: int = 8,
        n_heads: int = 16,
        n_neighbors: int | None = None,
        beta: float = 0.6,
        weighted: bool = True,
        n_epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_heads = n_heads
        self.n_neighbors = n_neighbors
        self.beta = beta
        self.weighted = weighted
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        graph: NeighborGraph | None = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
    ) -> TEMI:
        """Train the heads on X (N, D).

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices stay on disk.
        y : ignored
            Labels never reach a fit.
        graph : NeighborGraph, optional
            Neighbours of the N samples; made here where it is missing.
        progress : Progress
            Shows epochs and loss.
        checkpoint : Path, optional
            File to save training to, and to continue from: the result is the same as without a stop.

        Returns
        -------
        self
        """
        self.check_parameters()
        X = check_rows(self, X, fitting=True)
        refuse_beyond_float32(X)
        n_samples = int(X.shape[0])
        check_n_clusters(self.n_clusters, n_samples)
        if graph is None:
            graph = self._make_graph(X, progress)
        elif graph.n_samples != n_samples:
            raise InputError(f"the graph has {graph.n_samples} samples, but X has {n_samples} rows")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.plan_ = self._plan(n_samples)
        trainer = self._make_trainer(X, graph, seed)
        batches = PairSampler(
            X, graph, batch_size=self.plan_.batch_size, seed=seed, device=resolve_device(self.device)
        )
        training = trainer.fit(batches, progress=progress, checkpoint=checkpoint)
        self.history_, self.head_losses_ = training.history, training.head_losses
        self.best_head_ = int(self.head_losses_.argmin())
        self._network = self._one_head(training.teacher.head_tensors(self.best_head_))
        self.labels_ = _labels(self._probabilities(X))
        warn_of_collapse(self.labels_, self.n_clusters)
        return self

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return the most probable cluster of every row of X (N, D), int32."""
        return _labels(self.predict_proba(X))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return the best head's probabilities (N, K) for the rows of X (N, D)."""
        check_is_fitted(self, "n_features_in_")
        X = check_rows(self, X, fitting=False)
        refuse_beyond_float32(X)
        return self._probabilities(X)

    def _probabilities(self, X: Any) -> NDArray[np.float32]:
        """Return the probabilities of rows that were checked already."""
        with torch.inference_mode():
            parts = [
                torch.softmax(self._network(self._to_device(block))[0] / TEMPERATURE, dim=1).cpu()
                for _, block in numpy_blocks(X, _PREDICT_BYTES)
            ]
        return torch.cat(parts).numpy()

    def model_config(self) -> dict[str, Any]:
        """Return what ``model.json`` holds."""
        return {
            "n_clusters": int(self.n_clusters),
            "best_head": self.best_head_,
            "head_losses": [float(loss) for loss in self.head_losses_],
        }

    def model_tensors(self) -> dict[str, NDArray[Any]]:
        """Return what ``model.safetensors`` holds: the best head alone."""
        state = self._network.state_dict()
        return {name.removeprefix("norm."): value.cpu().numpy() for name, value in state.items()}

    @classmethod
    def from_model(
        cls, config: dict[str, Any], tensors: dict[str, NDArray[Any]], *, device: str = "auto"
    ) -> TEMI:
        """Return an estimator that predicts, from a saved model."""
        model = cls(n_clusters=config["n_clusters"], device=device)
        model.head_losses_ = np.array(config["head_losses"], dtype=np.float32)
        model.best_head_ = config["best_head"]
        model.n_features_in_ = int(tensors["mean"].shape[0])
        model._network = model._one_head(
            {
                f"norm.{name}" if name in ("mean", "scale") else name: torch.from_numpy(value)
                for name, value in tensors.items()
            }
        )
        return model

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        check_whole(n_heads=self.n_heads)
        for name in ("n_neighbors", "n_epochs", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_whole(**{name: value})
        check_positive(beta=self.beta)
        if self.beta > 1:
            raise InputError(f"beta must be in (0, 1]; got {self.beta!r}")
        if self.learning_rate is not None:
            check_positive(learning_rate=self.learning_rate)
        if self.momentum is not None and not (isinstance(self.momentum, Real) and 0 <= self.momentum < 1):
            raise InputError(f"momentum must be in [0, 1); got {self.momentum!r}")
        if not isinstance(self.weighted, bool | np.bool_):
            raise InputError(f"weighted must be true or false, not {self.weighted!r}")
        resolve_precision(self.precision, resolve_device(self.device))

    def _make_graph(self, X: Any, progress: Progress) -> NeighborGraph:
        """Return the graph of X, in which all-zero rows have no neighbours."""
        n_samples, zero = int(X.shape[0]), zero_rows(X)
        used = np.setdiff1d(np.arange(n_samples), zero) if len(zero) else None
        k = self.n_neighbors or default_n_neighbors(n_samples, self.n_clusters)
        if used is None:
            return knn_graph(X, k, device=self.device, progress=progress)
        degrees = np.zeros(n_samples, np.int64)
        if not len(used):
            return NeighborGraph(np.zeros(n_samples + 1, np.int64), *_no_edges())
        part = knn_graph(X[used], k, device=self.device, progress=progress)
        degrees[used] = part.degrees
        indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
        return NeighborGraph(indptr, used[part.indices].astype(np.int32), part.similarities)

    def _plan(self, n_samples: int) -> Plan:
        plan = plan_training(
            n_samples,
            self.n_clusters,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )
        logger.info("training plan: %s", plan)
        return plan

    def _make_trainer(self, X: Any, graph: NeighborGraph, seed: int) -> Trainer:
        device = resolve_device(self.device)
        network = MultiHeadNetwork(
            self.n_features_in_, self.n_clusters, self.n_heads, generator=torch.Generator().manual_seed(seed)
        )
        mean, deviation = _mean_and_deviation(X)
        network.norm.set(mean, deviation)
        objective = TemiObjective(self.n_heads, self.n_clusters, beta=self.beta, weighted=self.weighted)
        identity = hash_json(
            {
                "parameters": [self.beta, self.weighted, seed, self.plan_.batch_size],
                "rows": [list(X.shape), float(mean.double().sum()), float(deviation.double().sum())],
                "graph": [graph.n_samples, len(graph.indices), int(graph.indices.sum(dtype=np.int64))],
            }
        )
        return Trainer(
            network,
            objective,
            self.plan_.schedule,
            device=device,
            dtype=resolve_precision(self.precision, device),
            identity=identity,
        )

    def _one_head(self, tensors: dict[str, Tensor]) -> MultiHeadNetwork:
        network = MultiHeadNetwork(self.n_features_in_, self.n_clusters, 1, generator=torch.Generator())
        network.load_state_dict(tensors)
        return network.to(resolve_device(self.device)).requires_grad_(False).eval()

    def _to_device(self, block: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(block, dtype=np.float32)).to(resolve_device(self.device))


def _labels(probabilities: NDArray[np.float32]) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = probabilities.argmax(axis=1).astype(np.int32)
    return labels


def _no_edges() -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    return np.zeros(0, np.int32), np.zeros(0, np.float32)


def _mean_and_deviation(X: Any) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the columns of X, (D,) each, computed in float64."""
    count, total = 0, np.zeros(X.shape[1])
    for _, block in numpy_blocks(X):
        total += block.sum(axis=0, dtype=np.float64)
        count += len(block)
    mean = total / count
    squares = np.zeros(X.shape[1])
    for _, block in numpy_blocks(X):
        squares += np.square(block - mean).sum(axis=0)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(squares / count)).float()
