"""The map of a run: every image's place in two dimensions, kept in the run as ``map.parquet``."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError
from kinfold.features import Features
from kinfold.gallery.explore._graph import find_graph
from kinfold.gallery.explore._layout import (
    FEWEST,
    LAYOUT_VERSION,
    MIN_DISTANCE,
    N_NEIGHBORS,
    choose_n_epochs,
    import_umap,
    lay_out,
    start_positions,
)
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, lock_directory, read_table
from kinfold.storage import atomic_file, check_format_version, hash_array, hash_json

if TYPE_CHECKING:
    from kinfold.neighbors import NeighborGraph

logger = logging.getLogger(__name__)

MAP_NAME = "map.parquet"
FORMAT = "kinfold-map"
FORMAT_VERSION = 1

_SCHEMA = pa.schema([("row", pa.int64()), ("x", pa.float32()), ("y", pa.float32())])
_MEND = "lay the map out anew: `kinfold explore RUN --map`"


@dataclass(frozen=True)
class Map:
    """A finished map.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Source rows, those of the assignments in their order.
    points : ndarray of float32, shape (n, 2)
        x and y of every image.
    facts : dict
        What it was made with; docs/formats.md has them.
    """

    rows: NDArray[np.int64]
    points: NDArray[np.float32]
    facts: dict[str, Any]

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """Least x and y, greatest x and y."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def compute_map(
    run: Run,
    *,
    features: Features | str | Path | None = None,
    n_epochs: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Lay out the images of a run by UMAP on its own neighbour graph, and keep that in the run.

    Nothing is done where the run has a map of the same inputs. The seed is the run's, so the same run gives
    the same map on the same machine; seeded, UMAP works on one thread.

    Parameters
    ----------
    run : Run
        The run.
    features : Features or path, optional
        What it was made from, or where that is now, if it was moved.
    n_epochs : int, optional
        Passes over the graph; by default chosen by the number of images.
    progress : Progress, default silent
        Shows the work.

    Returns
    -------
    Path
        ``RUN/map.parquet``.

    Raises
    ------
    InputError
        The features aren't there, or aren't the run's.
    MissingExtraError
        umap-learn isn't installed.
    """
    path, inputs = run.path / MAP_NAME, map_inputs(run, n_epochs)
    try:
        if read_map(run, n_epochs=n_epochs) is not None:
            return path
    except FormatError as error:
        logger.warning("laying the map out again: %s", error)
    if len(run.labels) >= FEWEST:
        import_umap()  # before the work that it would be missed after
    opened = features if isinstance(features, Features) else run.features(features)
    rows = run.assignments["row"].to_numpy()
    if not np.array_equal(opened.rows, rows):
        raise InputError(f"the features at {opened.path} have other rows than {run.path}")
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
    """Return all that a run's map depends on, as JSON values; known without opening the features."""
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
    """Return a run's map; None where there is none, or it was made of other inputs.

    Raises
    ------
    FormatError
        The file is damaged, or of a newer format; the message says how to mend it.
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
        pq.write_table(table, partial, compression="zstd")


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads((pq.read_schema(path).metadata or {})[FORMAT.encode()])
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise FormatError(f"{path} is damaged (it says nothing of itself); {_MEND}") from error
    if not isinstance(facts, dict):
        raise FormatError(f"{path} is damaged (it says nothing of itself); {_MEND}")
    check_format_version(path, facts.get("format_version"), FORMAT_VERSION)
    return facts


def _make_graph(matrix: Any, progress: Progress) -> NeighborGraph:
    from kinfold.neighbors import (
        NeighborGraph,
        knn_graph,
    )  # brings PyTorch, which a gallery can begin without

    n = int(matrix.shape[0])
    if n < 2:
        return NeighborGraph.from_lists(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    return knn_graph(matrix, min(N_NEIGHBORS, n - 1), zero_rows="isolate", progress=progress)


def _lay_out(
    graph: NeighborGraph, matrix: Any, inputs: dict[str, Any], progress: Progress
) -> NDArray[np.float32]:
    seed, n_epochs = inputs["random_state"], inputs["n_epochs"]
    start = start_positions(matrix, random_state=seed)
    with progress.task("laying out", n_epochs, "epochs") as task:
        done = 0

        def tell(epoch: int) -> None:
            nonlocal done
            task.advance(epoch - done)
            done = epoch

        points = lay_out(graph, start, n_epochs=n_epochs, random_state=seed, on_epoch=tell)
        tell(n_epochs)
    return points
