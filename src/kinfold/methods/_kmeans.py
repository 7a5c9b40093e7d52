"""Spherical k-means: cosine similarity, unit-length centroids."""

from __future__ import annotations

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
from kinfold.distributed import Workers, current_workers
from kinfold.methods._base import check_n_clusters, check_positive, check_whole
from kinfold.methods._diagnosis import warn_of_collapse
from kinfold.methods._kmeans_assignment import Assigner
from kinfold.methods._kmeans_lloyd import Lloyd, Start
from kinfold.methods._kmeans_seeding import choose_seeds
from kinfold.methods._rows import UnitBlocks, check_rows
from kinfold.progress import SILENT, Progress


class SphericalKMeans(ClusterMixin, BaseEstimator):
    """K-means on the unit sphere.

    Samples are scaled to unit length, similarity is the cosine, and centroids are scaled back to unit
    length after every iteration. Seeding is greedy k-means++ on the cosine distance over a sample of the
    rows; empty clusters are seeded again from the samples that fit worst; the best of several starts is
    kept. Started by ``torchrun``, every process works on its share of the rows and ends with all labels.

    Parameters
    ----------
    n_clusters : int, default 8
        K, at most the number of samples.
    n_init : int or "auto", default "auto"
        Number of starts: 10 up to a million samples × clusters, 3 beyond.
    max_iter : int, default 100
        Iterations per start at most.
    tol : float, default 1e-6
        A start ends when its mean similarity grows by less than this, or when no label changes.
    temperature : float, default 0.1
        Of the softmax over cosine similarities in :meth:`predict_proba`.
    device : str, default "auto"
        "cpu", "cuda", "mps", or the best there is.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the matrix products that propose the closest centroids: bfloat16 where the device has units for it.
        Labels, similarities and the objective are decided in float32 either way.
    random_state : int, RandomState or None, default None
        Seed; the same integer gives the same labels on the same machine.

    Attributes
    ----------
    labels_ : ndarray (N,) int32
        Cluster of every training sample.
    cluster_centers_ : ndarray (K, D) float32
        Unit-length centroids.
    n_clusters_ : int
        K as fitted.
    objective_ : float
        Mean cosine similarity of samples to their centroids, in [-1, 1], for these labels and centroids.
    n_iter_ : int
        Iterations of the best start.
    n_features_in_ : int
        D.

    Raises
    ------
    InputError
        From ``fit``: more clusters than samples, rows that are not finite.

    References
    ----------
    Dhillon & Modha (2001), "Concept decompositions for large sparse text data using clustering".
    Seeding: Arthur & Vassilvitskii (2007), "k-means++". Bounds: Elkan (2003), "Using the triangle
    inequality to accelerate k-means".

    Examples
    --------
    >>> import numpy as np
    >>> from kinfold import SphericalKMeans
    >>> X = np.array([[1.0, 0.1], [2.0, 0.1], [0.1, 3.0], [0.0, 1.0]])
    >>> labels = SphericalKMeans(n_clusters=2, random_state=0).fit(X).labels_
    >>> bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
    (True, False)
    """

    needs_graph: ClassVar[bool] = False

    def __init__(
        self,
        *,
        n_clusters: int = 8,
        n_init: int | str = "auto",
        max_iter: int = 100,
        tol: float = 1e-6,
        temperature: float = 0.1,
        device: str = "auto",
        precision: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.temperature = temperature
        self.device = device
        self.precision = precision
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        graph: Any = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
    ) -> SphericalKMeans:
        """Find the centroids of X (N, D).

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices are read in blocks.
        y, graph, checkpoint : ignored
            Present for a common interface.
        progress : Progress
            Shows starts.

        Returns
        -------
        self
        """
        self.check_parameters()
        X = check_rows(self, X, fitting=True)
        check_n_clusters(self.n_clusters, X.shape[0])
        workers = current_workers()
        device = resolve_device(self.device)
        rows = UnitBlocks(X, device, workers.share(X.shape[0]))
        assigner = Assigner(rows, self.n_clusters, resolve_precision(self.precision, device))
        lloyd = Lloyd(rows, assigner, workers, max_iter=self.max_iter, tol=self.tol)
        random = _shared_random(self.random_state, workers)
        best: Start | None = None
        n_init = self._resolve_n_init(rows.n_samples)
        with progress.task("k-means", n_init, "starts") as task:
            for _ in range(n_init):
                seeds = choose_seeds(rows, self.n_clusters, np.random.RandomState(random.randint(2**31)))
                start = lloyd.run(rows.take(workers.broadcast(seeds)))
                if best is None or start.objective > best.objective:
                    best = start
                task.advance(1, similarity=best.objective)
        assert best is not None
        self.cluster_centers_ = best.centers.cpu().numpy()
        self.n_clusters_ = int(self.n_clusters)
        self.objective_, self.n_iter_ = best.objective, best.n_iter
        self.labels_ = workers.gather(_to_numpy(best.labels))
        warn_of_collapse(self.labels_, self.n_clusters)
        return self

    def check_parameters(self) -> None:
        """Raise :class:`InputError` for a parameter that is impossible whatever the data."""
        check_whole(max_iter=self.max_iter)
        if self.n_init != "auto":
            check_whole(n_init=self.n_init)
        check_positive(temperature=self.temperature)
        if self.tol != 0:
            check_positive(tol=self.tol)
        resolve_precision(self.precision, resolve_device(self.device))

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return the closest centroid of every row of X (N, D), int32."""
        check_is_fitted(self)
        rows = UnitBlocks(check_rows(self, X, fitting=False), resolve_device(self.device))
        centers = torch.from_numpy(self.cluster_centers_).to(resolve_device(self.device))
        return _labels(rows, centers, resolve_precision(self.precision, rows.device))

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Return softmax(cosine similarity / temperature) of every row of X to every centroid, (N, K)."""
        check_is_fitted(self)
        rows = UnitBlocks(check_rows(self, X, fitting=False), resolve_device(self.device))
        centers = torch.from_numpy(self.cluster_centers_).to(resolve_device(self.device))
        parts = [
            torch.softmax(block @ centers.T / self.temperature, dim=1).cpu() for _, block in rows.blocks()
        ]
        return torch.cat(parts).numpy()

    def model_config(self) -> dict[str, Any]:
        """Return what ``model.json`` holds."""
        return {"n_clusters": self.n_clusters_, "temperature": self.temperature, "objective": self.objective_}

    def model_tensors(self) -> dict[str, NDArray[Any]]:
        """Return what ``model.safetensors`` holds."""
        return {"cluster_centers": self.cluster_centers_}

    @classmethod
    def from_model(
        cls, config: dict[str, Any], tensors: dict[str, NDArray[Any]], *, device: str = "auto"
    ) -> SphericalKMeans:
        """Return an estimator that predicts, from a saved model."""
        model = cls(n_clusters=config["n_clusters"], temperature=config["temperature"], device=device)
        model.cluster_centers_ = tensors["cluster_centers"]
        model.n_clusters_, model.objective_ = int(config["n_clusters"]), config["objective"]
        model.n_features_in_ = int(model.cluster_centers_.shape[1])
        return model

    def _resolve_n_init(self, n_samples: int) -> int:
        if self.n_init == "auto":
            return 10 if n_samples * self.n_clusters <= 1_000_000 else 3
        return int(self.n_init)


def _shared_random(
    random_state: int | np.random.RandomState | None, workers: Workers
) -> np.random.RandomState:
    """Return a generator that is in the same state in every process."""
    random: np.random.RandomState = check_random_state(random_state)
    if workers.size > 1:
        state = workers.broadcast(random.get_state())
        random = np.random.RandomState()
        random.set_state(state)
    return random


def _labels(rows: UnitBlocks, centers: Tensor, dtype: torch.dtype) -> NDArray[np.int32]:
    assigner = Assigner(rows, len(centers), dtype, keep_bounds=False)
    return _to_numpy(torch.cat([assigned.labels for assigned in assigner.assign(centers)]))


def _to_numpy(labels: Tensor) -> NDArray[np.int32]:
    return labels.to(torch.int32).cpu().numpy()
