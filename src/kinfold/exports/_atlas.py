"""Parquet as Embedding Atlas reads it: places on the map, neighbours, thumbnails."""

from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kinfold.compute import cpu_count
from kinfold.errors import KinfoldError
from kinfold.exports._job import Job, Missing
from kinfold.exports._tables import COLUMNS, is_our_parquet, write_parquet_table
from kinfold.exports._takeaway import Takeaway
from kinfold.images import UnusableImage, make_thumbnail

if TYPE_CHECKING:
    from kinfold.features import Features
    from kinfold.images import ImageSource

logger = logging.getLogger(__name__)

NAME = "embedding-atlas"
MOST_THUMBNAILS = 20_000
_SIDE = 96
_N_NEIGHBORS = 15
_MOST_VALUES = 1 << 26
_BLOCK = 256


def write_atlas(job: Job) -> None:
    """Write the table with what Embedding Atlas shows beside it, as far as it is there.

    ``label``: the group's label. ``projection_x``, ``projection_y``: of the run's map; without a map
    ``vector``, the features, of which Embedding Atlas makes one. ``neighbors``: ids (lines of this table)
    and distances (1 − cosine) of up to 15 neighbours, from the run's graph. ``path``: the image's file.
    ``image``: thumbnails, up to 20,000 images.
    """
    takeaway = job.takeaway
    labels = pa.array([takeaway.labels[int(cluster)] for cluster in takeaway.clusters], pa.string())
    columns = {"label": labels, **_places(takeaway), **_images(job)}
    table = takeaway.table.select(COLUMNS)
    for name, column in columns.items():
        table = table.append_column(name, column)
    write_parquet_table(table, job.target, NAME)


def is_our_atlas(path: Path) -> bool:
    """Tell whether a file is an earlier export of this kind."""
    return is_our_parquet(path, NAME)


def _places(takeaway: Takeaway) -> dict[str, pa.Array]:
    """Return the columns that say where images lie."""
    from kinfold.gallery.explore import read_map

    features = _find_features(takeaway)
    columns = {} if features is None else _neighbors(takeaway, features)
    found = read_map(takeaway.run)
    if found is not None:
        names = ("projection_x", "projection_y")
        return {
            **{name: pa.array(found.points[:, axis].copy()) for axis, name in enumerate(names)},
            **columns,
        }
    logger.warning(
        "the run has no map, so Embedding Atlas has to make one of the column vector (--vector vector)"
    )
    return {**({} if features is None else _vectors(takeaway, features)), **columns}


def _find_features(takeaway: Takeaway) -> Features | None:
    try:
        return takeaway.run.features()
    except KinfoldError as error:
        logger.warning("the export will have neither neighbours nor vectors: %s", error)
        return None


def _vectors(takeaway: Takeaway, features: Features) -> dict[str, pa.Array]:
    matrix = features.matrix(takeaway.run.manifest.features["variant"])
    if matrix.shape[0] * matrix.shape[1] > _MOST_VALUES:
        logger.warning("the features are too many for a column; make a map first: kinfold explore RUN")
        return {}
    values = np.asarray(matrix[:], dtype=np.float32)
    return {"vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])}


def _neighbors(takeaway: Takeaway, features: Features) -> dict[str, pa.Array]:
    """Return as many neighbours of every image as all have, at most fifteen."""
    from kinfold.gallery.explore import find_graph

    graph = find_graph(takeaway.run, features)
    k = 0 if graph is None else min(_N_NEIGHBORS, int(graph.degrees.min()))
    if graph is None or k == 0:
        return {}
    places = graph.indptr[:-1, None] + np.arange(k)
    ids = pa.array(np.asarray(graph.indices[places], dtype=np.int64).reshape(-1))
    distances = pa.array((1 - np.asarray(graph.similarities[places], dtype=np.float32)).reshape(-1))
    offsets = pa.array(np.arange(len(places) + 1, dtype=np.int64) * k)
    lists = [pa.LargeListArray.from_arrays(offsets, values) for values in (ids, distances)]
    return {"neighbors": pa.StructArray.from_arrays(lists, names=["ids", "distances"])}


def _images(job: Job) -> dict[str, pa.Array]:
    """Return the files of images, and thumbnails where these are few enough."""
    if job.images is None:
        return {}
    rows = job.takeaway.table["row"].to_pylist()
    paths = [job.images.path(row) for row in rows]
    columns = {}
    if any(path is not None for path in paths):
        columns["path"] = pa.array([None if path is None else _as_text(path) for path in paths], pa.string())
    if len(rows) <= MOST_THUMBNAILS:
        columns["image"] = pa.array(_thumbnails(job, job.images, rows), pa.struct([("bytes", pa.binary())]))
    return columns


def _as_text(path: Path) -> str | None:
    """Return a path as text; None where it holds bytes that are no text."""
    try:
        return str(path).encode("utf-8").decode("utf-8")
    except UnicodeEncodeError:
        return None


def _thumbnails(job: Job, images: ImageSource, rows: list[int]) -> list[dict[str, bytes] | None]:
    def shrink(row: int) -> dict[str, bytes] | str:
        try:
            thumbnail = make_thumbnail(images.read(row), _SIDE)
        except UnusableImage as trouble:
            return str(trouble)
        stream = io.BytesIO()
        thumbnail.convert("RGB").save(stream, format="JPEG", quality=82)
        return {"bytes": stream.getvalue()}

    keys, found = job.takeaway.table["key"], []
    with (
        ThreadPoolExecutor(cpu_count()) as pool,
        job.progress.task("Making thumbnails", len(rows), "images") as task,
    ):
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            for offset, result in enumerate(pool.map(shrink, block)):
                if isinstance(result, str):
                    key = keys[start + offset].as_py()
                    job.missing.append(Missing(block[offset], key, result))
                found.append(None if isinstance(result, str) else result)
            task.advance(len(block))
    return found
