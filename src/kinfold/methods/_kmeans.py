"""Spherical k-means: cosine similarity, unit-length centroids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kinfold.compute import Runtime, resolve_device, resolve_precision
from kinfold.distributed import Workers, current_workers
from kinfold.methods._base import SHARED_CONSTRAINTS, BaseClusterer
from kinfold.methods._diagnosis import warn_of_collapse
from kinfold.methods._kmeans_assignment import Assigner
from kinfold.methods._kmeans_lloyd import Lloyd, Start
from kinfold.methods._kmeans_seeding import choose_seeds
from kinfold.methods._rows import UnitBlocks, check_rows
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Rows, Shape
from kinfold.progress import SILENT, Progress
from kinfold.validation import Choice, Constraint, Either, Integer, Number, check_n_clusters

if TYPE_CHECKING:
    from typing_extensions import Self

_EXPECTED_PASSES = 60  # of one start, for the cost: starts end by their own rule, at max_iter at the latest
_READS_PER_PASS = 3  # of the matrix in memory: for the product, for its exact repeats, and for the sums


class SphericalKMeans(BaseClusterer):
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

    name: ClassVar[str] = "kmeans"
    constraints: ClassVar[Mapping[str, Constraint]] = {
        **SHARED_CONSTRAINTS,
        "n_init": Either(Integer(), Choice(("auto",))),
        "max_iter": Integer(),
        "tol": Number(least=0),
        "temperature": Number(above=0),
    }

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
        X: Rows,
        y: object = None,
        *,
        graph: Graphs = None,
        progress: Progress = SILENT,
        checkpoint: Path | None = None,
        runtime: Runtime | None = None,
    ) -> Self:
        """Find the centroids of X (N, D).

        Parameters
        ----------
        X : array-like or row matrix (N, D)
            Features; memory maps and sharded matrices are read in blocks.
        y, graph, checkpoint : ignored
            Present for a common interface.
        progress : Progress
            Shows starts.
        runtime : Runtime, optional
            Wins over ``device``, ``precision`` and ``progress``.

        Returns
        -------
        self
        """
        self.check_parameters()
        runtime = self._resolve_runtime(runtime, progress)
        X = check_rows(self, X, fitting=True)
        check_n_clusters(self.n_clusters, X.shape[0])
        workers = current_workers()
        rows = UnitBlocks(X, runtime.device, workers.share(X.shape[0]))
        assigner = Assigner(rows, self.n_clusters, runtime.dtype)
        lloyd = Lloyd(rows, assigner, workers, max_iter=self.max_iter, tol=self.tol)
        random = _shared_random(self.random_state, workers)
        best: Start | None = None
        n_init = self._resolve_n_init(rows.n_samples)
        with runtime.progress.task("k-means", n_init, "starts") as task:
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

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take."""
        n_values = shape.n_samples * shape.n_features
        product = 2 * n_values * self.n_clusters / machine.rate
        reading = _READS_PER_PASS * 4 * n_values / machine.bandwidth
        starts = self._resolve_n_init(shape.n_samples)
        return Cost(
            seconds=float(starts * _EXPECTED_PASSES * (product + reading)),
            model_bytes=4 * shape.n_features * int(self.n_clusters),
        )

    def predict(self, X: Rows) -> NDArray[np.int32]:
        """Return the closest centroid of every row of X (N, D), int32."""
        check_is_fitted(self)
        rows = UnitBlocks(check_rows(self, X, fitting=False), resolve_device(self.device))
        centers = torch.from_numpy(self.cluster_centers_).to(resolve_device(self.device))
        return _labels(rows, centers, resolve_precision(self.precision, rows.device))

    def predict_proba(self, X: Rows) -> NDArray[np.float32]:
        """Return softmax(cosine similarity / temperature) of every row of X to every centroid, (N, K)."""
        check_is_fitted(self)
        rows = UnitBlocks(check_rows(self, X, fitting=False), resolve_device(self.device))
        centers = torch.from_numpy(self.cluster_centers_).to(resolve_device(self.device))
        parts = [
            torch.softmax(block @ centers.T / self.temperature, dim=1).cpu() for _, block in rows.blocks()
        ]
        return torch.cat(parts).numpy()

    def to_model(self) -> Model:
        """Return what is saved: the centroids."""
        return Model(
            method=self.name,
            n_features=int(self.n_features_in_),
            config={
                "n_clusters": self.n_clusters_,
                "temperature": self.temperature,
                "objective": self.objective_,
            },
            tensors={"cluster_centers": self.cluster_centers_},
        )

    @classmethod
    def from_model(cls, model: Model, *, device: str = "auto") -> Self:
        """Return an estimator that predicts, from what was saved."""
        config = model.config
        loaded = cls(n_clusters=config["n_clusters"], temperature=config["temperature"], device=device)
        loaded.cluster_centers_ = model.tensors["cluster_centers"]
        loaded.n_clusters_, loaded.objective_ = int(config["n_clusters"]), config["objective"]
        loaded.n_features_in_ = int(loaded.cluster_centers_.shape[1])
        return loaded

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
