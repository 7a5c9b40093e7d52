"""Spherical k-means: cosine similarity, unit-length centroids, greedy k-means++ seeding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from kinfold.compute import Runtime, resolve_device, resolve_precision
from kinfold.distributed import Workers, current_workers
from kinfold.methods._base import SHARED_CONSTRAINTS, BaseClusterer
from kinfold.methods._calibration import calibrate
from kinfold.methods._criteria import warn_of_collapse
from kinfold.methods._kmeans_lloyd import Assigner, Start
from kinfold.methods._kmeans_starts import MAX_ITER, TOL, run_starts
from kinfold.methods._rows import UnitBlocks, check_rows
from kinfold.methods.protocol import Cost, Graphs, Machine, Model, Rows, Shape
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.validation import Choice, Constraint, Either, Integer, Number

if TYPE_CHECKING:
    from typing_extensions import Self

# For the cost: a start ends by its own rule, at ``max_iter`` at the latest; and each pass reads the matrix
# for the product, for the exact comparisons and for the sums.
_EXPECTED_PASSES = 60
_READS_PER_PASS = 3
# Below so many samples × clusters ten starts take seconds; beyond, three leave little to gain by more.
_MANY_STARTS_PAIRS = 1_000_000
_MANY_STARTS, _FEW_STARTS = 10, 3
# Where the temperature is looked for, and what it is where nothing can be learned: that of the heads.
_START_TEMPERATURE = 0.1


class SphericalKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseClusterer):
    """K-means on the unit sphere.

    Samples are scaled to unit length, similarity is the cosine, and centroids are scaled back to unit
    length after every iteration. Seeding is greedy k-means++ on the cosine distance over a sample of the
    rows; empty clusters are seeded again from the samples that fit worst; the best of several starts is
    kept. Started by ``torchrun``, every process works on its share of the rows and ends with all labels.

    Parameters
    ----------
    n_clusters : int or "auto", default 8
        K, at most the number of samples; "auto" estimates it (:func:`kinfold.levels.estimate_levels`).
    n_init : int or "auto", default "auto"
        Number of starts: 10 up to a million samples × clusters, 3 beyond.
    max_iter : int, default 100
        Iterations per start at most.
    tol : float, default 1e-6
        A start ends when its mean similarity grows by less than this, or when no label changes.
    temperature : float or "auto", default "auto"
        Of the softmax over cosine similarities in :meth:`predict_proba`. "auto" takes the one at which the
        mean confidence is the share of samples that are right, as estimated without labels (docs/methods.md,
        confidence). It changes no label.
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
    temperature_ : float
        The one given or found.
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
        "temperature": Either(Number(above=0), Choice(("auto",))),
    }

    def __init__(
        self,
        n_clusters: int | str = 8,
        *,
        n_init: int | str = "auto",
        max_iter: int = MAX_ITER,
        tol: float = TOL,
        temperature: float | str = "auto",
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
        matrix = check_rows(self, X, fitting=True, any_scale=True)
        self._settle_n_clusters(matrix, runtime)
        workers = current_workers()
        rows = UnitBlocks(matrix, runtime.device, workers.share(matrix.shape[0]))
        random = _shared_random(self.random_state, workers)
        best: Start | None = None
        n_init = self._resolve_n_init(rows.n_samples)
        with runtime.progress.task("grouping by k-means", n_init, "tries") as task:
            starts = run_starts(
                rows,
                self._k,
                n_init,
                random,
                runtime.dtype,
                workers,
                max_iter=self.max_iter,
                tol=self.tol,
            )
            for start in starts:
                if best is None or start.objective > best.objective:  # the earlier one on ties
                    best = start
                task.advance(1, similarity=best.objective)
        assert best is not None
        self.cluster_centers_ = best.centers.cpu().numpy()
        self.objective_, self.n_iter_ = best.objective, best.n_iter
        self.labels_ = workers.gather(_to_numpy(best.labels))
        self.temperature_ = self._resolve_temperature(matrix, runtime.device)
        warn_of_collapse(self.labels_, self._k)
        return self

    def cost(self, shape: Shape, machine: Machine) -> Cost:
        """Return what a fit is expected to take."""
        n_values = shape.n_samples * shape.n_features
        product = 2 * n_values * self._k / machine.rate
        reading = _READS_PER_PASS * 4 * n_values / machine.bandwidth
        starts = self._resolve_n_init(shape.n_samples)
        return Cost(
            seconds=float(starts * _EXPECTED_PASSES * (product + reading)),
            model_bytes=4 * shape.n_features * self._k,
        )

    def describe_parameters(self, n_samples: int) -> dict[str, Any]:
        """Return the parameters that decide a fit: all but the precision, which only proposes candidates.

        A run that was made before there was a precision is therefore still current.
        """
        described = super().describe_parameters(n_samples)
        del described["precision"]
        return described

    def predict(self, X: Rows) -> NDArray[np.int32]:
        """Return the closest centroid of every row of X (N, D), int32."""
        rows, centers = self._place(X)
        dtype = resolve_precision(self.precision, rows.device)
        # One pass is all: bounds, which spare later ones, would only take memory.
        assigner = Assigner(rows, len(centers), dtype, keep_bounds=False)
        return _to_numpy(torch.cat([assigned.labels for assigned in assigner.assign(centers)]))

    def predict_proba(self, X: Rows) -> NDArray[np.float32]:
        """Return softmax(cosine similarity / ``temperature_``) of rows of X to the centroids, (N, K)."""
        return _soften(*self._place(X), self.temperature_)

    @property
    def _n_features_out(self) -> int:
        """Columns of :meth:`transform`, as scikit-learn names them."""
        return self.n_clusters_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # distances are float32, whatever comes in
        return tags

    def transform(self, X: Rows) -> NDArray[np.float32]:
        """Return the distance of every row of X (N, D) to every centroid, 1 − cosine similarity, (N, K)."""
        rows, centers = self._place(X)
        parts = [(1 - block @ centers.T).clamp_(min=0).cpu() for _, block in rows.blocks()]
        return torch.cat(parts).numpy()

    def score(self, X: Rows, y: object = None) -> float:
        """Return the mean cosine similarity of the rows of X (N, D) to their centroids, in [-1, 1].

        As of ``objective_``, more is better; no labels are needed, and ``y`` is ignored.
        """
        rows, centers = self._place(X)
        total, n = 0.0, 0
        for _, block in rows.blocks():
            total += float((block @ centers.T).max(dim=1).values.double().sum())
            n += len(block)
        return total / n

    def to_model(self) -> Model:
        """Return what is saved: the centroids."""
        return Model(
            method=self.name,
            n_features=int(self.n_features_in_),
            config={
                "n_clusters": self.n_clusters_,
                "temperature": self.temperature_,
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
        loaded.temperature_ = float(config["temperature"])
        return loaded

    def _place(self, X: Rows) -> tuple[UnitBlocks, Tensor]:
        """Return rows to predict for and the centroids, on the device."""
        check_is_fitted(self)
        rows = UnitBlocks(check_rows(self, X, fitting=False, any_scale=True), resolve_device(self.device))
        return rows, torch.from_numpy(self.cluster_centers_).to(rows.device)

    def _resolve_temperature(self, X: RowMatrix, device: torch.device) -> float:
        """Return the temperature given, or the one found on the rows that were fitted."""
        if self.temperature != "auto":
            return float(self.temperature)
        centers = torch.from_numpy(self.cluster_centers_).to(device)
        times = calibrate(
            X,
            self.labels_,
            self.n_clusters_,
            lambda rows: _soften(UnitBlocks(rows, device), centers, _START_TEMPERATURE),
            device=device,
        )
        return _START_TEMPERATURE * times

    def _resolve_n_init(self, n_samples: int) -> int:
        if self.n_init == "auto":
            return _MANY_STARTS if n_samples * self._k <= _MANY_STARTS_PAIRS else _FEW_STARTS
        return int(self.n_init)


def _shared_random(
    random_state: int | np.random.RandomState | None, workers: Workers
) -> np.random.RandomState:
    """Return a generator that is in the same state in every process, also where no seed is given."""
    random: np.random.RandomState = check_random_state(random_state)
    if workers.size > 1:
        state = workers.broadcast(random.get_state())
        random = np.random.RandomState()
        random.set_state(state)
    return random


def _soften(rows: UnitBlocks, centers: Tensor, temperature: float) -> NDArray[np.float32]:
    """Return the softmax of the cosine similarities (n, K) of rows to centroids, divided by a temperature."""
    parts = [torch.softmax(block @ centers.T / temperature, dim=1).cpu() for _, block in rows.blocks()]
    return torch.cat(parts).numpy()


def _to_numpy(labels: Tensor) -> NDArray[np.int32]:
    return labels.to(torch.int32).cpu().numpy()
