"""Points in two dimensions from a neighbour graph: pure functions around umap-learn.

McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction",
2018.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import MissingExtraError
from kinfold.features import RowMatrix

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

N_NEIGHBORS = 15
MIN_DISTANCE = 0.3
FEWEST = 4
"""Linked points that UMAP is asked to lay out; fewer stay where they start."""
LAYOUT_VERSION = 1
"""Changes whenever the same run would get other points."""

_START_SAMPLE = 20_000
_BLOCK_ROWS = 16_384
_START_SPREAD = 10.0
_START_NOISE = 1e-3
_NEGATIVE_SAMPLES = 5


def import_umap() -> Any:
    """Return ``umap.umap_``; it is slow to import, and an extra.

    Raises
    ------
    MissingExtraError
        umap-learn isn't installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from umap import umap_
    except ImportError as error:
        raise MissingExtraError("The map", "umap-learn", "map") from error
    return umap_


def choose_n_epochs(n: int) -> int:
    """Return the epochs for ``n`` points: umap-learn's own 500 and 200, and fewer above 100,000 points.

    There the start, which is of the features themselves, carries the coarse order, and what epochs do is
    local: 200 × √(100,000 / n), at least 100.
    """
    if n <= 10_000:
        return 500
    return max(100, round(200 * min(1.0, math.sqrt(100_000 / n))))


def nearest_lists(
    graph: NeighborGraph, n_neighbors: int = N_NEIGHBORS
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return every row's nearest neighbours in a graph, itself first, as umap-learn takes them.

    Parameters
    ----------
    graph : NeighborGraph
        Of ``n`` rows, of any degrees.
    n_neighbors : int, default 15
        Neighbours of a row, itself not counted; less where no row has as many.

    Returns
    -------
    indices : ndarray of int32, shape (n, k + 1)
        −1 where a row has fewer neighbours.
    distances : ndarray of float32, shape (n, k + 1)
        1 − cosine, rising; the places of missing neighbours repeat the row's largest, so that the scale of
        the row's own neighbours stays finite.
    """
    degrees = graph.degrees
    n, width = graph.n_samples, int(min(n_neighbors, degrees.max(initial=0)))
    indices = np.full((n, width + 1), -1, np.int32)
    distances = np.zeros((n, width + 1), np.float32)
    indices[:, 0] = np.arange(n)
    for place in range(width):
        rows = np.flatnonzero(degrees > place)
        found = graph.indptr[rows] + place
        indices[rows, place + 1] = graph.indices[found]
        distances[:, place + 1] = distances[:, place]
        distances[rows, place + 1] = np.maximum(1 - graph.similarities[found], 0)
    return indices, distances


def start_positions(matrix: RowMatrix, *, random_state: int = 0) -> NDArray[np.float32]:
    """Return where the layout starts: the two principal directions of the rows at unit length.

    They are found on 20,000 rows at most, and all rows are put along them. A start from the features
    themselves, unlike a spectral one, takes no eigenvectors of a large graph, and keeps far groups far (Kobak
    and Linderman, "Initialization is critical for preserving global data structure", 2021). A little noise
    parts equal rows.

    Parameters
    ----------
    matrix : RowMatrix, shape (n, d)
        The features, read in blocks.
    random_state : int, default 0
        Of the sample and the noise.

    Returns
    -------
    ndarray of float32, shape (n, 2)
        Between −10 and 10, around 0.
    """
    from sklearn.decomposition import PCA

    n, d = (int(size) for size in matrix.shape)
    random = np.random.default_rng(random_state)
    positions = np.zeros((n, 2), np.float64)
    width = min(2, n, d)
    if width:
        sample = np.sort(random.choice(n, min(n, _START_SAMPLE), replace=False))
        rows = _unit(matrix[sample])
        if rows.std(axis=0).max() > 1e-7:
            finder = PCA(width, svd_solver="randomized", random_state=random_state).fit(rows)
            for start in range(0, n, _BLOCK_ROWS):
                block = _unit(matrix[start : start + _BLOCK_ROWS])
                positions[start : start + len(block), :width] = finder.transform(block)
    largest = np.abs(positions).max(initial=0)
    if largest > 0:
        positions *= _START_SPREAD / largest
    return (positions + random.normal(scale=_START_NOISE, size=positions.shape)).astype(np.float32)


def lay_out(
    graph: NeighborGraph,
    start: NDArray[np.float32],
    *,
    n_epochs: int | None = None,
    random_state: int = 0,
    on_epoch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Lay out the rows of a graph by UMAP.

    Seeded, and so on one thread: umap-learn's several threads write over each other, and no two of their maps
    are alike.

    Parameters
    ----------
    graph : NeighborGraph
        Of ``n`` rows; the 15 nearest of each are used.
    start : ndarray of float32, shape (n, 2)
        Where the points start, as :func:`start_positions` gives them.
    n_epochs : int, optional
        Passes over the graph; :func:`choose_n_epochs` by default.
    random_state : int, default 0
        The same seed on the same machine gives the same points.
    on_epoch : callable, optional
        Told from time to time how many epochs are done.

    Returns
    -------
    ndarray of float32, shape (n, 2)
        Finite. Rows without neighbours lie in lines of their own below all others.

    Raises
    ------
    MissingExtraError
        umap-learn isn't installed.
    """
    linked = graph.degrees > 0
    linked[graph.indices] = True
    if linked.sum() < FEWEST:
        return _in_lines(start.astype(np.float32), ~linked)
    umap = import_umap()
    weights = _fuzzy_graph(umap, graph, random_state)
    epochs = choose_n_epochs(len(start)) if n_epochs is None else n_epochs
    a, b = umap.find_ab_params(1.0, MIN_DISTANCE)
    points, _ = umap.simplicial_set_embedding(
        data=start,
        graph=weights,
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=_NEGATIVE_SAMPLES,
        n_epochs=epochs,
        init=start,
        random_state=np.random.RandomState(random_state),
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
        parallel=False,
        tqdm_kwds=_tell(on_epoch),
    )
    return _in_lines(points.astype(np.float32), ~linked)


def _fuzzy_graph(umap: Any, graph: NeighborGraph, random_state: int) -> Any:
    indices, distances = nearest_lists(graph)
    weights, _, _ = umap.fuzzy_simplicial_set(
        indices,  # only its length is asked for where the neighbours are given
        indices.shape[1],
        np.random.RandomState(random_state),
        "precomputed",
        knn_indices=indices,
        knn_dists=distances,
    )
    return weights


def _in_lines(points: NDArray[np.float32], alone: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Put the points that are ``alone`` in lines below the others."""
    places = np.flatnonzero(alone)
    if not len(places):
        return points
    others = points[~alone] if len(places) < len(points) else np.zeros((1, 2), np.float32)
    low, high = others.min(axis=0), others.max(axis=0)
    width = max(float(high[0] - low[0]), 1.0)
    columns = max(1, int(np.ceil(np.sqrt(len(places) * 8))))
    step = width / columns
    order = np.arange(len(places))
    points = points.copy()
    points[places, 0] = low[0] + (order % columns + 0.5) * step
    points[places, 1] = low[1] - 0.05 * width - (order // columns) * step
    return points


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    rows = rows.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.asarray(rows / lengths, dtype=np.float32)


def _tell(on_epoch: Callable[[int], None] | None) -> dict[str, Any]:
    """Return what makes umap-learn's progress bar tell ``on_epoch`` its number, and draw nothing."""
    if on_epoch is None:
        return {"disable": True}
    return {"disable": False, "file": _Bar(on_epoch), "bar_format": "{n_fmt}", "mininterval": 0.5}


class _Bar:
    """A stream that reads the numbers a progress bar draws."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told

    def write(self, text: str) -> int:
        """Pass on the number in ``text``, if there is one."""
        if found := re.search(r"\d+", text):
            self._told(int(found.group()))
        return len(text)

    def flush(self) -> None:
        """Do nothing: nothing is kept."""
