"""Centres of groups of images, which nouns are selected for: six ways to find them (TAC paper, Table 6)."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from kinfold.compute import Runtime
from kinfold.distributed import current_workers
from kinfold.errors import InputError, MissingExtraError
from kinfold.methods._kmeans import SphericalKMeans
from kinfold.methods._rows import numpy_blocks
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT
from kinfold.rows.readers import UnitRows

logger = logging.getLogger(__name__)

CENTRES = ("kmeans", "agglomerative", "spectral", "dbscan", "louvain", "none")
# Samples up to which agglomerative clustering may join any two: it holds all distances, N² / 2 of float64.
_ALL_DISTANCES = 10_000
_CORE = 5  # neighbours that make a sample of DBSCAN a core: scikit-learn's default
_RADII = 32  # that DBSCAN is tried at: each is a pass over the graph
_SMALLEST_QUANTILE = (
    0.002  # of the distances, as the first radius: below it, hardly any two samples are joined
)
# Weights of a graph must be positive, or its edges vanish: added to those that are zero or below.
_LEAST_SIMILARITY, _LEAST_DISTANCE = 1e-6, 1e-9
_LEAST_LENGTH = 1e-6  # of a sum of unit rows: below it they cancel out, and the direction is rounding noise

GraphSource = Callable[[], NeighborGraph]


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
    X: Any, how: str, n_centres: int, graph: GraphSource, *, seed: int, resolution: float, runtime: Runtime
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
        model = SphericalKMeans(n_clusters=n_centres, n_init=1, random_state=seed)
        found = fit_quietly(model, X, replace(runtime, progress=SILENT)).cluster_centers_
        found = found[
            np.linalg.norm(found, axis=1) > 0.5
        ]  # all-zero rows make one of length 0, others have 1
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


def fit_quietly(model: SphericalKMeans, X: Any, runtime: Runtime) -> SphericalKMeans:
    """Fit k-means, a step on the way, without the warnings of empty or huge clusters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, runtime=runtime)


def mean_directions(X: Any, labels: NDArray[np.int64]) -> NDArray[np.float32]:
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


def _agglomerative(X: Any, n_centres: int, graph: GraphSource) -> NDArray[np.int64]:
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
