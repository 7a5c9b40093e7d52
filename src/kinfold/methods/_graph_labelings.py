"""Labelings that see the neighbour graph as a whole: features diffuse along it, k-means and Ward group them.

Heads that learn from pairs of neighbours see one hop of the graph, and tend to even out kinds. A random walk
with restart sees many hops: features that follow it become alike within a densely connected kind, however
large it is, and k-means then cuts where the graph is thin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA

from kinfold.distributed import Workers
from kinfold.methods._kmeans_starts import MAX_ITER, run_starts
from kinfold.methods._merging import join_by_variance
from kinfold.methods._rows import UnitBlocks, draw_rows
from kinfold.neighbors import NeighborGraph, knn_graph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.rows.ragged import starts_of
from kinfold.rows.readers import UnitRows

N_NEIGHBORS = 10  # the closest ones, however many the graph holds (docs/choices.md)
RESTARTS = (0.02, 0.05, 0.1)  # docs/choices.md: no single one is best on all data, together they are
N_KMEANS, N_WARD = 6, 4  # labelings of each kind for every restart probability
N_LABELINGS = (N_KMEANS + N_WARD) * len(RESTARTS)  # at most

# Where samples × clusters are more, k-means takes minutes: one labeling of each kind has to do.
_MANY_PAIRS = 200_000_000
_FEW_LABELINGS = 1

N_COMPONENTS = 128  # of the principal components that diffuse
_SAMPLE = 20_000  # rows whose principal components are found
_COLUMNS = 32  # that diffuse at once: in and out stay in cache where samples are thousands
# Weight of the last step of a walk, which is all that a longer one would change.
_REST = 0.1

_BISECTIONS = 40  # of the local scale: up to float32 rounding
_LARGEST_SCALE = 10.0  # beside distances 1 − cosine of at most 2

# Ward's method joins so many small clusters of k-means for each cluster asked for, and at most so many: its
# table of distances is their square. It needs at least two for each to have anything to join.
_PARTS_PER_CLUSTER, _FEWEST_PARTS, _MOST_PARTS = 10, 150, 2_000
_ROWS_PER_PART = 4
_PART_ITERATIONS = 20


def graph_labelings(
    X: RowMatrix,
    graph: NeighborGraph,
    n_clusters: int,
    *,
    seed: int,
    n_neighbors: int = N_NEIGHBORS,
    restarts: Sequence[float] = RESTARTS,
    progress: Progress = SILENT,
) -> NDArray[np.int32]:
    """Group samples by where they lie in the neighbour graph, several times.

    The principal components of the unit-length rows diffuse along the graph by a random walk with restart
    (:func:`diffuse`), once for every restart probability. What comes out is grouped by spherical k-means from
    6 starts, and 4 times by Ward's method on the centroids of many small clusters. Where samples × clusters
    exceed 200 million, one start of each has to do.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features, read in blocks.
    graph : NeighborGraph
        Neighbours of the N samples; the closest ones of each are used.
    n_clusters : int
        K, at most N.
    seed : int
        Of the rows drawn and of the starts.
    n_neighbors : int, default 10
        Neighbours per sample at most.
    restarts : sequence of float, default (0.02, 0.05, 0.1)
        Restart probabilities, in (0, 1): a smaller one sees more hops.
    progress : Progress
        Shows labelings.

    Returns
    -------
    ndarray (L, N) int32
        Clusters in 0 … K−1.
    """
    random = np.random.RandomState(seed)
    walk = random_walk(local_weights(graph, n_neighbors))
    components = principal_components(X, seed=seed)
    n_samples = len(components)
    n_kmeans, n_ward, n_parts = _plan(n_samples, n_clusters)
    labelings = []
    with progress.task("grouping along the graph", len(restarts) * (n_kmeans + n_ward), "tries") as task:
        for restart in restarts:
            rows = UnitBlocks(diffuse(components, walk, restart), torch.device("cpu"))
            alone = torch.float32, Workers()  # one process works for all
            for start in run_starts(rows, n_clusters, n_kmeans, random, *alone):
                labelings.append(start.labels.numpy())
                task.advance(1)
            for parts in run_starts(rows, n_parts, n_ward, random, *alone, max_iter=_PART_ITERATIONS):
                members = parts.labels.numpy()
                sizes = np.bincount(members, minlength=n_parts)
                labelings.append(ward(parts.centers.numpy(), sizes, n_clusters)[members])
                task.advance(1)
    return np.stack(labelings).astype(np.int32)


def count_operations(n_samples: int, n_clusters: int, n_features: int) -> float:
    """Return the floating-point operations that :func:`graph_labelings` is expected to make."""
    width = min(N_COMPONENTS, n_features)
    n_kmeans, n_ward, n_parts = _plan(n_samples, n_clusters)
    # K-means is expected to take half of its iterations, the small clusters all of their few.
    passes = n_kmeans * n_clusters * MAX_ITER / 2 + n_ward * n_parts * _PART_ITERATIONS
    # Edges count in both directions. They are gathered rather than multiplied, which takes many times longer.
    steps = sum(count_steps(restart) for restart in RESTARTS) / len(RESTARTS)
    hops = 16 * steps * 2 * N_NEIGHBORS
    return 2.0 * n_samples * width * (n_features + len(RESTARTS) * (passes + hops))


def spread_along_graph(
    X: RowMatrix,
    graph: NeighborGraph | None = None,
    *,
    restart: float = RESTARTS[-1],
    seed: int,
    device: str = "auto",
) -> NDArray[np.float32]:
    """Return what the leading principal components of rows become along their neighbour graph.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features.
    graph : NeighborGraph, optional
        Of the N samples; by default their 10 nearest neighbours, found here.
    restart : float, default 0.1
        As for :func:`diffuse`.
    seed : int
        Of :func:`principal_components`.
    device : str, default "auto"
        Where neighbours are searched.

    Returns
    -------
    ndarray (N, at most 128) float32
        Of unit length.
    """
    return diffuse(principal_components(X, seed=seed), walk_along(X, graph, device=device), restart)


def walk_along(
    X: RowMatrix, graph: NeighborGraph | None = None, *, device: str = "auto"
) -> sparse.csr_matrix:
    """Return the random walk along a neighbour graph, by default that of the 10 nearest neighbours."""
    if graph is None:
        n_neighbors = max(1, min(N_NEIGHBORS, X.shape[0] - 1))
        graph = knn_graph(X, n_neighbors=n_neighbors, zero_rows="isolate", device=device)
    return random_walk(local_weights(graph))


def local_weights(graph: NeighborGraph, n_neighbors: int = N_NEIGHBORS) -> sparse.csr_matrix:
    """Return symmetric weights in (0, 1] of a neighbour graph, on the local scale of each sample.

    With d the distances 1 − cosine of a sample to its k closest neighbours and ρ the least of them, the
    weight is exp(−(d − ρ) / σ), where σ makes the weights of the sample add up to log₂ k. The two directions
    a and b of a pair make a + b − a·b.

    Parameters
    ----------
    graph : NeighborGraph
        Of N samples.
    n_neighbors : int, default 10
        k; a sample with fewer neighbours has all of them.

    Returns
    -------
    csr_matrix (N, N) float32
        Zero on the diagonal.

    References
    ----------
    McInnes, Healy & Melville (2018), "UMAP: Uniform Manifold Approximation and Projection", section 3.1.
    """
    counts = np.minimum(graph.degrees, n_neighbors)
    starts = starts_of(counts)
    owners = np.repeat(np.arange(graph.n_samples), counts)
    # The closest come first in each list.
    places = np.arange(starts[-1]) + np.repeat(np.asarray(graph.indptr[:-1]) - starts[:-1], counts)
    distances = np.maximum(1 - np.asarray(graph.similarities[places], dtype=np.float64), 0)
    nearest = np.zeros(graph.n_samples)
    nearest[counts > 0] = distances[starts[:-1][counts > 0]]
    excess = np.maximum(distances - nearest[owners], 0)
    wanted = np.log2(np.maximum(counts, 2))
    low: NDArray[np.float64] = np.full(graph.n_samples, 1e-6)
    high: NDArray[np.float64] = np.full(graph.n_samples, _LARGEST_SCALE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        total = np.bincount(owners, np.exp(-excess / middle[owners]), minlength=graph.n_samples)
        high = np.where(total > wanted, middle, high)
        low = np.where(total > wanted, low, middle)
    weights = np.exp(-excess / high[owners]).astype(np.float32)
    shape = (graph.n_samples, graph.n_samples)
    directed = sparse.csr_matrix((weights, np.asarray(graph.indices[places]), starts), shape=shape)
    backward = directed.T.tocsr()
    return (directed + backward - directed.multiply(backward)).tocsr()


def random_walk(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the transition matrix of symmetric weights: rows add up to 1, a sample without any stays."""
    degrees = np.asarray(weights.sum(axis=1), dtype=np.float64).ravel()
    alone = degrees <= 0
    scale = sparse.diags_array((1 / np.where(alone, 1, degrees)).astype(np.float32))
    return sparse.csr_matrix(scale @ weights + sparse.diags_array(alone.astype(np.float32)))


def diffuse(X: NDArray[np.float32], walk: sparse.csr_matrix, restart: float) -> NDArray[np.float32]:
    """Return what features become along a random walk with restart, scaled to unit length.

    Z = a Σ (1 − a)ᵗ Pᵗ X over t = 0 … T−1, and (1 − a)ᵀ Pᵀ X for the rest, with a the restart probability and
    T the step at which a tenth of the weight is left.

    Parameters
    ----------
    X : ndarray (N, D) float32
        Features, centred.
    walk : csr_matrix (N, N)
        P, of :func:`random_walk`.
    restart : float
        a, in (0, 1).

    Returns
    -------
    ndarray (N, D) float32
        An all-zero row stays zero.

    References
    ----------
    Gasteiger, Bojchevski & Günnemann (2019), "Predict then Propagate: Graph Neural Networks meet Personalized
    PageRank", Equation 5.
    """
    spread = np.empty_like(X)
    for first in range(0, X.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        start = np.ascontiguousarray(X[:, columns])
        back = np.float32(restart) * start
        state = start
        for _ in range(count_steps(restart)):
            state = np.float32(1 - restart) * (walk @ state) + back
        spread[:, columns] = state
    lengths = np.linalg.norm(spread, axis=1, keepdims=True)
    spread /= np.where(lengths > 0, lengths, 1)
    return spread


def count_steps(restart: float) -> int:
    """Return the steps of :func:`diffuse`: T with (1 − a)ᵀ ≤ 0.1."""
    return max(1, math.ceil(math.log(_REST) / math.log1p(-restart)))


def principal_components(X: RowMatrix, n_components: int = N_COMPONENTS, *, seed: int) -> NDArray[np.float32]:
    """Return the unit-length rows of X around their mean, in their leading principal components.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features, read in blocks. An all-zero row is left at zero.
    n_components : int, default 128
        Components; with D or fewer, or of fewer samples, the columns stay as they are.
    seed : int
        Of the 20,000 rows that they are found on, and of the randomized decomposition (Halko, Martinsson &
        Tropp 2011).

    Returns
    -------
    ndarray (N, n_components or D) float32
    """
    rows = UnitRows(X, torch.device("cpu"))
    sample = rows.take(draw_rows(rows.n_rows, _SAMPLE, seed)).numpy()
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    axes: NDArray[np.float32] | None = None
    if n_components < min(sample.shape):
        found = PCA(n_components, svd_solver="randomized", random_state=seed).fit(sample)
        axes = np.ascontiguousarray(found.components_.T, dtype=np.float32)
    out = np.empty((rows.n_rows, rows.dim if axes is None else n_components), dtype=np.float32)
    for start in range(0, rows.n_rows, _SAMPLE):
        block = rows.read(start, min(rows.n_rows, start + _SAMPLE)).numpy()
        centred = np.where(np.any(block, axis=1, keepdims=True), block - mean, 0)
        out[start : start + len(block)] = centred if axes is None else centred @ axes
    return out


def _plan(n_samples: int, n_clusters: int) -> tuple[int, int, int]:
    """Return the labelings of each restart by k-means and by Ward, and the parts that Ward joins."""
    many = n_samples * n_clusters > _MANY_PAIRS
    n_kmeans, n_ward = (_FEW_LABELINGS,) * 2 if many else (N_KMEANS, N_WARD)
    n_parts = count_parts(n_samples, n_clusters)
    return n_kmeans, n_ward if n_parts else 0, n_parts


def count_parts(n_samples: int, n_clusters: int) -> int:
    """Return how many small clusters Ward's method joins to K; 0 where they would be too few."""
    parts = min(max(_PARTS_PER_CLUSTER * n_clusters, _FEWEST_PARTS), _MOST_PARTS, n_samples // _ROWS_PER_PART)
    return parts if parts >= 2 * n_clusters else 0


def ward(centers: NDArray[Any], sizes: NDArray[np.integer], n_clusters: int) -> NDArray[np.int32]:
    """Join weighted points by Ward's method until K clusters are left: see :func:`join_by_variance`.

    Parameters
    ----------
    centers : ndarray (M, D)
        Points.
    sizes : ndarray (M,)
        Samples that each stands for; a point of none joins cluster 0.
    n_clusters : int
        K, at least 1; where fewer points have a size, each is its own cluster.

    Returns
    -------
    ndarray (M,) int32
        Cluster of every point, numbered in the order of their first points.
    """
    own = np.flatnonzero(sizes)
    tree = join_by_variance(centers[own], sizes[own])
    labels = np.zeros(len(sizes), dtype=np.int32)
    labels[own] = tree.cut(min(n_clusters, len(own)))
    return labels
