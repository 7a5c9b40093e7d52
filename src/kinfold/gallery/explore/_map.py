"""The map of a run: every image's place in two dimensions by UMAP, kept in the run as ``map.parquet``.

McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction",
2018.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, MissingExtraError
from kinfold.features import Features, RowMatrix
from kinfold.gallery.explore._vectors import find_graph
from kinfold.paths import arrow_path
from kinfold.progress import SILENT, Progress
from kinfold.reading import parse_json, reading
from kinfold.run import Run, lock_directory, read_table
from kinfold.storage import atomic_file, check_format_version, hash_array, hash_json

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

N_NEIGHBORS = 15  # umap-learn's default
MIN_DISTANCE = 0.3  # umap-learn's default is 0.1; more leaves room to point at single images
FEWEST = 4
"""Fewest connected points that UMAP lays out; fewer keep their initial positions."""
LAYOUT_VERSION = 1
"""Raise this whenever the same run would get other points."""

_START_SAMPLE = 20_000  # rows for two principal directions, which more rows hardly change
_BLOCK_ROWS = 16_384  # projected at a time, so that features may be larger than memory
_START_SPREAD = 10.0  # the range that umap-learn scales its own initial positions to
_START_NOISE = 1e-3  # separates equal rows, and is too small to be seen
_NEGATIVE_SAMPLES = 5  # umap-learn's default

logger = logging.getLogger(__name__)

MAP_NAME = "map.parquet"
FORMAT = "kinfold-map"
FORMAT_VERSION = 1

_SCHEMA = pa.schema([("row", pa.int64()), ("x", pa.float32()), ("y", pa.float32())])
_MEND = "compute the map again: `kinfold explore RUN --map`"


def import_umap() -> Any:
    """Return the module ``umap.umap_``, which is slow to import and an optional dependency.

    Raises
    ------
    MissingExtraError
        umap-learn isn't installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # umap imports TensorFlow where it is installed
    try:
        umap_ = _import_with_cache()
    except ImportError as error:
        raise MissingExtraError("The map", "umap-learn", "map") from error
    return umap_


def _import_with_cache() -> Any:
    """Import umap; where Numba has no place to keep compiled code, it keeps it in a temporary folder.

    That is so where neither the installed packages nor the home folder can be written to, as for the user of
    a container. Numba then raises RuntimeError from the import.
    """
    try:
        from umap import umap_
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        import numba

        try:
            kept = tempfile.TemporaryDirectory(prefix="kinfold-numba-")
        except OSError as none:
            raise InputError(
                "the map needs a folder for compiled code, and neither the home folder nor the temporary one "
                "can be written to; set NUMBA_CACHE_DIR to a folder that can"
            ) from none
        atexit.register(kept.cleanup)
        numba.config.CACHE_DIR = kept.name  # type: ignore[attr-defined]  # made from the environment
        from umap import umap_
    return umap_


def choose_n_epochs(n: int) -> int:
    """Return the number of epochs for ``n`` points: umap-learn's 500 and 200, fewer above 100,000 points.

    For these 200 × √(100,000 / n), at least 100: the initial positions already have the coarse order, and
    epochs only change local detail.
    """
    if n <= 10_000:
        return 500
    return max(100, round(200 * min(1.0, math.sqrt(100_000 / n))))


def nearest_lists(
    graph: NeighborGraph, n_neighbors: int = N_NEIGHBORS
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the nearest neighbours of every row of a graph, itself first, as umap-learn takes them.

    Parameters
    ----------
    graph : NeighborGraph
        Graph of ``n`` rows with any degrees.
    n_neighbors : int, default 15
        Neighbours of a row without itself; fewer where no row has as many.

    Returns
    -------
    indices : ndarray of int32, shape (n, k + 1)
        −1 where a row has fewer neighbours.
    distances : ndarray of float32, shape (n, k + 1)
        1 − cosine, ascending; missing neighbours repeat the largest distance of the row, so that the scale of
        its other neighbours stays finite.
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
    """Return initial positions: rows at unit length, projected on their two principal directions.

    The directions are computed from at most 20,000 rows. Initial positions from PCA, unlike spectral ones,
    need no eigenvectors of a large graph, and keep distant groups distant (Kobak and Linderman,
    "Initialization is critical for preserving global data structure", 2021). A little noise separates equal
    rows.

    Parameters
    ----------
    matrix : RowMatrix, shape (n, d)
        Features, read in blocks.
    random_state : int, default 0
        Seed of the sample and the noise.

    Returns
    -------
    ndarray of float32, shape (n, 2)
        In [−10, 10], centered at 0.
    """
    from sklearn.decomposition import PCA

    n, d = (int(size) for size in matrix.shape)
    random = np.random.default_rng(random_state)
    positions = np.zeros((n, 2), np.float64)
    width = min(2, n, d)
    if width:
        sample = np.sort(random.choice(n, min(n, _START_SAMPLE), replace=False))
        rows = _unit(matrix[sample])
        if rows.std(axis=0).max() > 1e-7:  # equal rows have no principal direction
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

    One thread is used, so that the same seed gives the same points: with several, umap-learn's threads race
    for the positions.

    Parameters
    ----------
    graph : NeighborGraph
        Graph of ``n`` rows; the 15 nearest neighbours of each are used.
    start : ndarray of float32, shape (n, 2)
        Initial positions, as :func:`start_positions` gives them.
    n_epochs : int, optional
        Passes over the graph; :func:`choose_n_epochs` by default.
    random_state : int, default 0
        Seed; the same one gives the same points on the same machine.
    on_epoch : callable, optional
        Called now and then with the number of finished epochs.

    Returns
    -------
    ndarray of float32, shape (n, 2)
        Finite positions. Rows without neighbours are placed in lines below all others.

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
        tqdm_kwds=_progress_options(on_epoch),
    )
    return _in_lines(points.astype(np.float32), ~linked)


def _fuzzy_graph(umap: Any, graph: NeighborGraph, random_state: int) -> Any:
    indices, distances = nearest_lists(graph)
    weights, _, _ = umap.fuzzy_simplicial_set(
        indices,  # only its length is used, because the neighbours are given
        indices.shape[1],
        np.random.RandomState(random_state),
        "precomputed",
        knn_indices=indices,
        knn_dists=distances,
    )
    return weights


def _in_lines(points: NDArray[np.float32], alone: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Place the points that are ``alone`` in lines below the others."""
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


def _progress_options(on_epoch: Callable[[int], None] | None) -> dict[str, Any]:
    """Return options of umap-learn's progress bar that pass its number to ``on_epoch`` and draw nothing."""
    if on_epoch is None:
        return {"disable": True}
    return {"disable": False, "file": _BarReader(on_epoch), "bar_format": "{n_fmt}", "mininterval": 0.5}


class _BarReader:
    """A stream that parses the numbers of a progress bar: umap-learn has no callback."""

    def __init__(self, on_epoch: Callable[[int], None]) -> None:
        self._on_epoch = on_epoch

    def write(self, text: str) -> int:
        """Pass on the number in ``text``, if there is one."""
        if found := re.search(r"\d+", text):
            self._on_epoch(int(found.group()))
        return len(text)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


@dataclass(frozen=True)
class Map:
    """Positions of all images of a run.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Rows in the source, as in the assignments.
    points : ndarray of float32, shape (n, 2)
        x and y of every image.
    facts : dict
        Inputs and options, as docs/formats.md lists them.
    """

    rows: NDArray[np.int64]
    points: NDArray[np.float32]
    facts: dict[str, Any]

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest x and y, largest x and y."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def compute_map(
    run: Run,
    *,
    features: Features | str | Path | None = None,
    n_epochs: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Lay out the images of a run by UMAP on its own neighbour graph, and write the map into the run.

    If the run has a map of the same inputs, it is kept. The seed is that of the run, so that the same run
    gives the same map on the same machine; UMAP then works on one thread.

    Parameters
    ----------
    run : Run
        The run.
    features : Features or path, optional
        Features of the run, or where they are now, if they were moved.
    n_epochs : int, optional
        Passes over the graph; by default :func:`choose_n_epochs` of the number of images.
    progress : Progress, default silent
        Shows the steps.

    Returns
    -------
    Path
        ``RUN/map.parquet``.

    Raises
    ------
    InputError
        The features are missing, or not those of the run.
    MissingExtraError
        umap-learn isn't installed.
    """
    path, inputs = run.path / MAP_NAME, map_inputs(run, n_epochs)
    try:
        if read_map(run, n_epochs=n_epochs) is not None:
            return path
    except FormatError as error:
        logger.warning("computing the map again: %s", error)
    if len(run.labels) >= FEWEST:
        import_umap()  # raises before minutes of work if it isn't installed
    opened = features if isinstance(features, Features) else run.features(features)
    rows = run.assignments["row"].to_numpy()
    if not np.array_equal(opened.rows, rows):
        raise InputError(f"the features at {opened.path} aren't those of {run.path}: they have other rows")
    matrix = opened.matrix(run.manifest.features["variant"])
    graph = find_graph(run, opened)
    own = graph is None
    if graph is None:
        graph = _make_graph(matrix, progress)
    points = _lay_out(graph, matrix, inputs, progress)
    facts = {**inputs, "inputs": hash_json(inputs), "graph_of": "map" if own else "run"}
    with lock_directory(run.path, wait=True):
        write_map(path, rows, points, facts)
    return path


def map_inputs(run: Run, n_epochs: int | None = None) -> dict[str, Any]:
    """Return all inputs of a run's map as JSON values, without opening the features."""
    features, n = run.manifest.features, len(run.labels)
    return {
        "layout": LAYOUT_VERSION,
        "features": features["fingerprint"],
        "variant": features["variant"],
        "rows": hash_array(run.assignments["row"].to_numpy()),
        "neighbors": hash_json(run.manifest.neighbors or {}),
        "n_neighbors": N_NEIGHBORS,
        "min_distance": MIN_DISTANCE,
        "n_epochs": choose_n_epochs(n) if n_epochs is None else n_epochs,
        "random_state": int(run.manifest.parameters.get("random_state") or 0),
    }


def read_map(run: Run, *, n_epochs: int | None = None) -> Map | None:
    """Return the map of a run; None where there is none, or it was computed from other inputs.

    Raises
    ------
    FormatError
        The file is damaged or of a newer format; the message says how to mend it.
    """
    path = run.path / MAP_NAME
    if not path.exists():
        return None
    table = read_table(path, _SCHEMA, _MEND)
    facts = _read_facts(path)
    if facts.get("inputs") != hash_json(map_inputs(run, n_epochs)):
        return None
    rows = table["row"].to_numpy()
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    if not np.array_equal(rows, run.assignments["row"].to_numpy()) or not np.isfinite(points).all():
        raise FormatError(f"{path} is damaged (its rows aren't those of the run); {_MEND}")
    return Map(rows, points, facts)


def write_map(
    path: Path, rows: NDArray[np.int64], points: NDArray[np.float32], facts: dict[str, Any]
) -> None:
    """Write a map, whole or not at all; ``facts`` must hold the hash of its inputs as ``inputs``."""
    header = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **facts}, sort_keys=True)
    columns = [pa.array(rows), pa.array(points[:, 0].copy()), pa.array(points[:, 1].copy())]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata({FORMAT: header}))
    with atomic_file(path) as partial:
        pq.write_table(table, arrow_path(partial, "wb"), compression="zstd")


def _read_facts(path: Path) -> dict[str, Any]:
    with reading(path, _MEND):
        facts = parse_json((pq.read_schema(arrow_path(path)).metadata or {})[FORMAT.encode()])
    if not isinstance(facts, dict):
        raise FormatError(f"{path} is damaged (its metadata can't be read); {_MEND}")
    check_format_version(path, facts.get("format_version"), FORMAT_VERSION)
    return facts


def _make_graph(matrix: RowMatrix, progress: Progress) -> NeighborGraph:
    from kinfold.neighbors import (
        NeighborGraph,
        knn_graph,
    )  # brings PyTorch, which a gallery can begin without

    n = int(matrix.shape[0])
    if n < 2:
        return NeighborGraph.from_lists(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    return knn_graph(matrix, min(N_NEIGHBORS, n - 1), zero_rows="isolate", progress=progress)


def _lay_out(
    graph: NeighborGraph, matrix: RowMatrix, inputs: dict[str, Any], progress: Progress
) -> NDArray[np.float32]:
    seed, n_epochs = inputs["random_state"], inputs["n_epochs"]
    start = start_positions(matrix, random_state=seed)
    with progress.task("laying out the map", n_epochs, "epochs") as task:
        done = 0

        def report(epoch: int) -> None:
            nonlocal done
            task.advance(epoch - done)
            done = epoch

        points = lay_out(graph, start, n_epochs=n_epochs, random_state=seed, on_epoch=report)
        report(n_epochs)
    return points
