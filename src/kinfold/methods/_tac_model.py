"""TAC's parts: centres that nouns are selected for, rows to learn from, plan, training, prediction."""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor
from torch.nn import functional

from kinfold.compute import Runtime
from kinfold.distributed import current_workers
from kinfold.errors import InputError, MissingExtraError
from kinfold.heads import DualBatches, DualHeads, DualSettings, DualTraining, PairSampler, PlainHead, Trainer
from kinfold.language.space import retrieve
from kinfold.methods._base import make_graph
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._rows import fingerprint_columns, numpy_blocks
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT
from kinfold.rows import LazyMatrix, RowMatrix
from kinfold.rows.readers import UnitRows
from kinfold.storage import hash_json

logger = logging.getLogger(__name__)

CENTRES = ("kmeans", "agglomerative", "spectral", "dbscan", "louvain", "none")
# Samples up to which agglomerative clustering may join any two: it holds all distances, N² / 2 of float64.
_ALL_DISTANCES = 10_000
_CORE = 5  # neighbours that make a sample of DBSCAN a core: scikit-learn's default
_RADII = 32  # that DBSCAN is tried at: each is a pass over the graph
# Of the distances, as the first radius: below it, hardly any two samples are joined.
_SMALLEST_QUANTILE = 0.002
# Weights of a graph must be positive, or its edges vanish: added to those that are zero or below.
_LEAST_SIMILARITY, _LEAST_DISTANCE = 1e-6, 1e-9
_LEAST_LENGTH = 1e-6  # of a sum of unit rows: below it they cancel out, and the direction is rounding noise

GraphSource = Callable[[], NeighborGraph]

MANY_CLUSTERS = 100  # from here on the paper's second setting: between its DTD (47) and UCF-101 (101)
# Steps of training at least: the paper's smallest data sets have 100 to 180, a folder of 300 images had 20.
_LEAST_STEPS = 500
_BLOCK_BYTES = 8 << 20  # of rows or logits at once: small blocks stay in cache between their few products
# Of probabilities where centroids predict; the same as SphericalKMeans' default, so that both read alike.
KMEANS_TEMPERATURE = 0.1
_HEAD = "image."  # begins the names of the head's tensors in a saved model
_CPU = torch.device("cpu")


def import_networkx() -> ModuleType:
    """Return networkx, which finds Louvain's communities; it comes with an extra.

    Raises
    ------
    MissingExtraError
        It isn't installed.
    """
    try:
        return importlib.import_module("networkx")
    except ImportError as error:
        raise MissingExtraError("centres='louvain'", "networkx", "louvain") from error


def find_centres(
    X: RowMatrix,
    how: str,
    n_centres: int,
    graph: GraphSource,
    *,
    seed: int,
    resolution: float,
    runtime: Runtime,
) -> NDArray[np.float32]:
    """Return the unit-length mean of every group of images (k, D), on every process of a job.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    how : str
        One of :data:`CENTRES`, but "none". K-means, of one start, is the work of all processes; the first one
        does the others.
    n_centres : int
        k̂; Louvain finds as many as its resolution yields, DBSCAN comes as near as it can.
    graph : callable
        Gives the neighbour graph of X, where it is needed.
    seed : int
        Of what is random.
    resolution : float
        Louvain's.
    runtime : Runtime
        Of k-means.

    Raises
    ------
    InputError
        No group was found, or none that has a direction.
    MissingExtraError
        Louvain is asked for and networkx isn't installed.
    """
    workers, found = current_workers(), None
    if how == "kmeans":
        # Only its centroids are wanted: a temperature that is given isn't looked for.
        model = SphericalKMeans(
            n_clusters=n_centres, n_init=1, temperature=KMEANS_TEMPERATURE, random_state=seed
        )
        found = fit_quietly(model, X, replace(runtime, progress=SILENT)).cluster_centers_
        found = found[np.linalg.norm(found, axis=1) > 0.5]  # of all-zero rows it is 0, of others 1
    elif workers.is_first:
        if how == "agglomerative":
            labels = _agglomerative(X, n_centres, graph)
        elif how == "spectral":
            labels = _spectral(n_centres, graph(), seed)
        elif how == "dbscan":
            labels = _dbscan(n_centres, graph())
        else:
            labels = _louvain(graph(), resolution, seed)
        found = mean_directions(X, labels)
    centres: NDArray[np.float32] = workers.broadcast(found)
    if not len(centres):
        raise InputError(f"centres={how!r} finds no group of images with a direction")
    logger.info("%s: %d centres (%d asked for)", how, len(centres), n_centres)
    return centres


def fit_quietly(model: SphericalKMeans, X: RowMatrix, runtime: Runtime) -> SphericalKMeans:
    """Fit k-means, a step on the way, without the warnings of empty or huge clusters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, runtime=runtime)


def mean_directions(X: RowMatrix, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the unit-length means (k, D) of unit rows by label; those of label −1 count nowhere.

    Labels without members, and groups whose mean is zero, are left out.
    """
    n_labels = int(labels.max(initial=-1)) + 1
    sums = np.zeros((n_labels, X.shape[1]))
    rows = UnitRows(X, torch.device("cpu"))
    for start, block in numpy_blocks(X):
        unit = rows.read(start, start + len(block)).numpy().astype(np.float64)
        own = labels[start : start + len(block)]
        members = np.flatnonzero(own >= 0)
        ones = np.ones(len(members))
        joins = sparse.csr_array((ones, (own[members], members)), shape=(n_labels, len(block)))
        sums += joins @ unit
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    kept = lengths[:, 0] > _LEAST_LENGTH
    centres: NDArray[np.float32] = (sums[kept] / lengths[kept]).astype(np.float32)
    return centres


def _agglomerative(X: RowMatrix, n_centres: int, graph: GraphSource) -> NDArray[np.int64]:
    """Ward's method on unit rows; of many samples only neighbours may be joined."""
    from sklearn.cluster import AgglomerativeClustering

    n_samples = int(X.shape[0])
    if n_samples < 2:
        return np.zeros(n_samples, np.int64)
    connectivity = None
    if n_samples > _ALL_DISTANCES:
        connectivity = _both_ways(graph(), np.ones_like)
    unit = UnitRows(X, torch.device("cpu")).read(0, n_samples).numpy()
    model = AgglomerativeClustering(n_clusters=n_centres, linkage="ward", connectivity=connectivity)
    return np.asarray(model.fit_predict(unit), np.int64)


def _spectral(n_centres: int, graph: NeighborGraph, seed: int) -> NDArray[np.int64]:
    """Return normalized cuts of the neighbour graph, weighted by similarity where that is positive."""
    from sklearn.cluster import SpectralClustering

    n_samples = graph.n_samples
    if n_samples <= n_centres + 1:
        return np.arange(n_samples)  # no fewer groups than the solver has vectors for
    affinity = _both_ways(graph, lambda similarities: np.maximum(similarities, 0) + _LEAST_SIMILARITY)
    model = SpectralClustering(
        n_clusters=n_centres,
        affinity="precomputed",
        assign_labels="cluster_qr",  # needs no starts, unlike k-means: the same labels from the same vectors
        eigen_solver="arpack",
        random_state=seed,
    )
    return np.asarray(model.fit_predict(affinity), np.int64)


def _dbscan(n_centres: int, graph: NeighborGraph) -> NDArray[np.int64]:
    """Return DBSCAN's groups at the radius that makes nearest to k̂ of them; outliers are −1.

    Distances are 1 − cosine between neighbours of the graph; radii are quantiles of them.
    """
    from sklearn.cluster import DBSCAN

    distances = _both_ways(graph, lambda similarities: np.maximum(1 - similarities, 0) + _LEAST_DISTANCE)
    if not distances.nnz:
        return np.full(graph.n_samples, -1)
    core = min(_CORE, graph.n_samples)
    best: NDArray[np.int64] | None = None
    for radius in np.unique(np.quantile(distances.data, np.linspace(_SMALLEST_QUANTILE, 1, _RADII))):
        model = DBSCAN(eps=float(radius), min_samples=core, metric="precomputed")
        labels = np.asarray(model.fit_predict(distances), np.int64)
        if best is None or abs(labels.max() + 1 - n_centres) < abs(best.max() + 1 - n_centres):
            best = labels
    assert best is not None
    return best


def _louvain(graph: NeighborGraph, resolution: float, seed: int) -> NDArray[np.int64]:
    """Return the communities of the neighbour graph, weighted by similarity where that is positive."""
    networkx = import_networkx()
    weights = _both_ways(graph, lambda similarities: np.maximum(similarities, 0) + _LEAST_SIMILARITY)
    network = networkx.from_scipy_sparse_array(weights)
    found = networkx.community.louvain_communities(network, resolution=resolution, seed=seed)
    labels = np.empty(graph.n_samples, np.int64)
    # networkx gives sets in any order: by their first members, labels are the same in every process.
    for label, members in enumerate(sorted(found, key=min)):
        labels[list(members)] = label
    return labels


def _both_ways(graph: NeighborGraph, weigh: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    """Return the graph as a symmetric matrix: samples are joined where either is the other's neighbour."""
    n_samples = graph.n_samples
    data = weigh(np.asarray(graph.similarities, np.float64))
    indices, indptr = np.asarray(graph.indices), np.asarray(graph.indptr)
    if len(indices) <= np.iinfo(np.int32).max:
        indptr = indptr.astype(np.int32)  # scikit-learn takes no wider ones
    one_way = sparse.csr_matrix((data, indices, indptr), shape=(n_samples, n_samples))
    both = one_way.maximum(one_way.T).tocsr()
    both.sort_indices()
    return both


class UnitMatrix(LazyMatrix):
    """The rows of a matrix at unit length, float32, scaled as they are read.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    """

    def __init__(self, X: RowMatrix) -> None:
        self._rows = UnitRows(X, _CPU)
        self.shape = (self._rows.n_rows, self._rows.dim)
        self.dtype = np.dtype(np.float32)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return self._rows.read(start, stop).numpy()

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows.take(rows).numpy()


class JointMatrix(LazyMatrix):
    """Rows [v ‖ t̃]: those of two matrices side by side.

    Parameters
    ----------
    images, texts : row matrix (N, D)
        Both float32, at unit length.
    """

    def __init__(self, images: RowMatrix, texts: RowMatrix) -> None:
        self._parts = images, texts
        self.shape = (int(images.shape[0]), int(images.shape[1] + texts.shape[1]))
        self.dtype = np.dtype(np.float32)

    def _range(self, start: int, stop: int) -> NDArray[Any]:
        return np.concatenate([part[start:stop] for part in self._parts], axis=1)

    def _take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([part[rows] for part in self._parts], axis=1)


def unit_matrix(X: RowMatrix) -> NDArray[np.float32] | UnitMatrix:
    """Return the rows of X at unit length, float32: in memory where X is, else scaled as they are read."""
    # Training reads every row in every epoch: what fits in memory once is not scaled again and again.
    rows = UnitMatrix(X)
    in_memory = isinstance(X, np.ndarray) and not isinstance(X, np.memmap)
    return rows[:] if in_memory else rows


class Neighbors:
    """The neighbours of images, found when they are first asked for, and those of texts.

    Parameters
    ----------
    X : row matrix (N, D)
        Images.
    graph : NeighborGraph or None
        Neighbours of the images, where they are known already.
    options : dict
        How :func:`~kinfold.neighbors.knn_graph` finds neighbours.
    runtime : Runtime
        Device and precision of the search, and who shows its progress.
    """

    def __init__(
        self, X: RowMatrix, graph: NeighborGraph | None, options: dict[str, Any], runtime: Runtime
    ) -> None:
        self._X, self._graph, self._options, self._runtime = X, graph, options, runtime

    def __call__(self) -> NeighborGraph:
        """Return the neighbour graph of the images, found at the first call."""
        if self._graph is None:
            self._graph = self.of(self._X)
        return self._graph

    def of(self, rows: RowMatrix) -> NeighborGraph:
        """Return the neighbour graph of other rows."""
        return make_graph(rows, self._options, self._runtime)


@dataclass(frozen=True)
class TacPlan:
    """How long and how fast to train.

    Attributes
    ----------
    n_epochs : int
        Passes over the data.
    batch_size : int
        Samples per step, at most N.
    steps_per_epoch : int
        Whole batches in N samples.
    learning_rate : float
        Of Adam.
    temperature : float
        τ of the distillation.
    """

    n_epochs: int
    batch_size: int
    steps_per_epoch: int
    learning_rate: float
    temperature: float


def plan_tac(
    n_samples: int,
    n_clusters: int,
    *,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 1e-3,
    temperature: float | None = None,
) -> TacPlan:
    """Choose the batch size and the length of a training, as far as the user left them open.

    The paper's 20 epochs of batches of 512 at τ = 0.5; from 100 clusters on its 100 epochs of batches of
    8,192 at τ = 5. Where that is fewer than 500 steps, epochs are added up to 500: small folders would
    hardly be trained.

    Parameters
    ----------
    n_samples, n_clusters : int
        N and K.
    n_epochs, batch_size, learning_rate, temperature : optional
        What the user fixed.
    """
    many = n_clusters >= MANY_CLUSTERS
    size = min(int(batch_size or (8192 if many else 512)), n_samples)
    steps_per_epoch = n_samples // size
    if n_epochs is None:
        n_epochs = max(100 if many else 20, math.ceil(_LEAST_STEPS / steps_per_epoch))
    if temperature is None:
        temperature = 5.0 if many else 0.5
    return TacPlan(int(n_epochs), size, steps_per_epoch, float(learning_rate), float(temperature))


def train_dual(
    images: RowMatrix,
    texts: RowMatrix,
    graphs: tuple[NeighborGraph, NeighborGraph],
    n_clusters: int,
    plan: TacPlan,
    settings: DualSettings,
    *,
    seed: int,
    runtime: Runtime,
    checkpoint: Path | None = None,
    separate_moments: bool = False,
    initialization: str = "uniform",
) -> DualTraining:
    """Train both heads, in this process alone.

    Parameters
    ----------
    images, texts : array or row matrix (N, D)
        Both at unit length.
    graphs : pair of NeighborGraph
        Neighbours among images, and among texts.
    n_clusters : int
        K.
    plan : TacPlan
        Length and rate.
    settings : DualSettings
        The loss.
    seed : int
        Of initial weights and batches.
    runtime : Runtime
        Where to train, and the type of matrix products.
    checkpoint : Path, optional
        As in :meth:`~kinfold.heads.Trainer.fit`.
    separate_moments, initialization : bool, str
        As :class:`~kinfold.heads.DualHeads` takes them.
    """
    # Both samplers draw the same samples in the same order, but a neighbour of each by a seed of their own.
    samplers = [
        PairSampler(
            rows,
            graph,
            batch_size=plan.batch_size,
            seed=seed + number,
            device=runtime.device,
            order_seed=seed + 2,
        )
        for number, (rows, graph) in enumerate(zip((images, texts), graphs, strict=True))
    ]
    learner = DualHeads(
        int(images.shape[1]),
        n_clusters,
        settings,
        n_epochs=plan.n_epochs,
        learning_rate=plan.learning_rate,
        generator=torch.Generator().manual_seed(seed),
        device=runtime.device,
        dtype=runtime.dtype,
        separate_moments=separate_moments,
        initialization=initialization,
    )
    identity = hash_json(
        {
            "plan": asdict(plan),
            "seed": seed,
            "rows": [fingerprint_columns(rows) for rows in (images, texts)],
            # Hashing reads the whole graphs, which only a checkpoint is worth.
            "graphs": [graph.fingerprint() for graph in graphs] if checkpoint else None,
        }
    )
    trainer = Trainer(learner, identity=identity)
    return trainer.fit(DualBatches(*samplers), progress=runtime.progress, checkpoint=checkpoint)


@dataclass(frozen=True)
class TacModel:
    """The part of TAC that new images need, on a device.

    Attributes
    ----------
    n_clusters : int
        K.
    nouns : Tensor (M, D)
        Features of the kept nouns at unit length; the head does without.
    temperature : float
        Of the softmax over nouns.
    head : PlainHead or None
        The image head, where one was trained.
    centroids : Tensor (K, 2D) or None
        Else the unit-length centroids of images beside their counterparts.
    """

    n_clusters: int
    nouns: Tensor
    temperature: float
    head: PlainHead | None = None
    centroids: Tensor | None = None

    @classmethod
    def from_tensors(
        cls,
        n_clusters: int,
        nouns: NDArray[np.float32],
        temperature: float,
        tensors: Mapping[str, NDArray[Any]],
        device: torch.device,
    ) -> TacModel:
        """Return what :meth:`tensors` described, on a device."""
        placed = {name: torch.from_numpy(value).to(device) for name, value in tensors.items()}
        head = None
        if "centroids" not in placed:
            head = PlainHead(*(placed[_HEAD + name] for name in PlainHead._fields))
        of_nouns = torch.from_numpy(nouns).to(device)
        return cls(n_clusters, of_nouns, float(temperature), head, placed.get("centroids"))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return head or centroids by name."""
        if self.head is not None:
            return name_head(self.head)
        assert self.centroids is not None
        return {"centroids": self.centroids.cpu().numpy()}

    def probabilities(self, X: RowMatrix) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities (n, K) of blocks of rows that were checked already."""
        # Without a head every row meets all kept nouns, which may be many more than columns or clusters.
        widest = max(self.n_clusters, X.shape[1], 0 if self.head is not None else len(self.nouns))
        size = max(1, _BLOCK_BYTES // (4 * widest))
        rows = unit_matrix(X)
        for start in range(0, rows.shape[0], size):
            block = torch.from_numpy(np.ascontiguousarray(rows[start : start + size]))
            with torch.inference_mode():
                logits = self._logits(block.to(self.nouns.device))
                yield torch.softmax(logits, dim=1).cpu().numpy()

    def _logits(self, unit: Tensor) -> Tensor:
        if self.head is not None:
            return self.head.logits(unit)  # nouns are only needed to train the head
        assert self.centroids is not None
        joint = torch.cat([unit, retrieve(unit, self.nouns, self.temperature)], dim=1)
        return functional.normalize(joint, dim=1) @ self.centroids.T / KMEANS_TEMPERATURE


def name_head(head: PlainHead) -> dict[str, NDArray[Any]]:
    """Return the tensors of an image head as a model names them."""
    return {_HEAD + name: value.cpu().numpy() for name, value in head._asdict().items()}
