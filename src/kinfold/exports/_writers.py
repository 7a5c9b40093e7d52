"""Writers of the formats: tables (CSV, Parquet, Embedding Atlas) and folders (plain, COCO, FiftyOne)."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from kinfold._version import __version__
from kinfold.compute import cpu_count
from kinfold.errors import KinfoldError
from kinfold.exports._job import Job, Missing, Original
from kinfold.exports._takeaway import (
    FIRST_COLUMNS,
    NO_GROUP,
    UNSORTED,
    FreeNames,
    Takeaway,
    safe_name,
    tell_apart,
)
from kinfold.images import SkipReason, UnusableImage, make_thumbnail, read_size
from kinfold.paths import arrow_path
from kinfold.run import leave_out_further
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.features import Features
    from kinfold.images import ImageSource


logger = logging.getLogger(__name__)

PARQUET_KEY = b"kinfold-export"
_ROW_GROUP_SIZE = 1 << 17  # rows; readers such as DuckDB work on row groups in parallel
_LONGEST_HEADER = 10_000  # characters
_FORMULA = r"^[=+\-@\t\r]"  # what spreadsheets take for the start of a formula


ATLAS = "embedding-atlas"
MOST_THUMBNAILS = 20_000  # more would make the file too large to load in a browser
_THUMBNAIL_SIDE = 96  # pixels; Embedding Atlas shows them small, in tooltips and table cells
_N_NEIGHBORS = 15  # as many as the layout of the map uses
_MOST_VALUES = 1 << 26  # 256 MiB as float32, which a browser can still load
_BLOCK = 256  # originals in memory at a time


def write_csv(job: Job) -> None:
    """Write the table as CSV: UTF-8, commas, quotes where needed, missing values empty."""
    table = job.takeaway.table.select(job.takeaway.columns)
    warn_of_formulas(table)
    write_csv_table(table, job.target)


def write_csv_table(table: pa.Table, path: Path) -> None:
    """Write any table as CSV with the same options."""
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    pyarrow.csv.write_csv(table, arrow_path(path, "wb"), options)


def write_parquet(job: Job) -> None:
    """Write the table as Parquet."""
    write_parquet_table(job.takeaway.table.select(job.takeaway.columns), job.target, "parquet")


def write_parquet_table(table: pa.Table, path: Path, to: str) -> None:
    """Write a Parquet file whose metadata name the format ``to``, so that it is recognized later."""
    mark = json.dumps({"to": to, "format_version": 1, "kinfold": __version__})
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), PARQUET_KEY: mark.encode()})
    pq.write_table(table, arrow_path(path, "wb"), compression="zstd", row_group_size=_ROW_GROUP_SIZE)


def write_csv_file(table: pa.Table, path: Path) -> None:
    """Write a table with a column ``key`` as CSV, whole or not at all."""
    warn_of_formulas(table)
    with atomic_file(path) as partial:
        write_csv_table(table, partial)


def is_our_csv(path: Path) -> bool:
    """Tell whether a file has the header of :func:`write_csv`."""
    return is_csv_of(path, FIRST_COLUMNS)


def is_csv_of(path: Path, columns: Sequence[str]) -> bool:
    """Tell whether a file is a CSV with just these columns, and perhaps typicality and levels behind them."""
    if not path.is_file():  # reading from a pipe would wait for ever
        return False
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header = next(csv.reader([stream.readline(_LONGEST_HEADER)]), None)
            return header is not None and leave_out_further(header) == list(columns)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_our_parquet(path: Path, to: str = "parquet") -> bool:
    """Tell whether :func:`write_parquet_table` wrote a file for ``to``, by its metadata."""
    try:
        mark = (pq.read_schema(arrow_path(path)).metadata or {}).get(PARQUET_KEY)
        return mark is not None and json.loads(mark).get("to") == to
    except (pa.ArrowException, OSError, ValueError):
        return False


def warn_of_formulas(table: pa.Table) -> None:
    """Warn of strings that a spreadsheet would run as formulas.

    They are written unchanged: an escaped key would no longer match the key in other tables.
    """
    found = [
        count
        for name in {"key", "name"} & set(table.column_names)
        if (count := pc.sum(pc.match_substring_regex(table[name].cast(pa.large_string()), _FORMULA)).as_py())
    ]
    if found:
        logger.warning(
            "%d keys or names begin with =, +, -, @, a tab or a line break: import these columns as text "
            "into a spreadsheet, or it takes them for formulas",
            sum(found),
        )


def write_atlas(job: Job) -> None:
    """Write the table with further columns for Embedding Atlas, as far as they are available.

    ``label``: label of the group. ``projection_x``, ``projection_y``: position on the run's map; without a
    map ``vector``, the features, from which Embedding Atlas computes one. ``neighbors``: ids (rows of this
    table) and distances (1 − cosine) of up to 15 neighbours, from the run's graph. ``path``: file of the
    image. ``image``: thumbnails, for up to 20,000 images.
    """
    takeaway = job.takeaway
    labels = pa.array([takeaway.labels[int(cluster)] for cluster in takeaway.clusters], pa.string())
    columns = {"label": labels, **_map_columns(takeaway), **_image_columns(job)}
    table = takeaway.table.select(takeaway.columns)
    for name, column in columns.items():
        table = table.append_column(name, column)
    write_parquet_table(table, job.target, ATLAS)


def is_our_atlas(path: Path) -> bool:
    """Tell whether a file is an earlier export for Embedding Atlas."""
    return is_our_parquet(path, ATLAS)


def _map_columns(takeaway: Takeaway) -> dict[str, pa.Array]:
    """Return the columns of positions or features, and of neighbours."""
    from kinfold.gallery.explore import read_map

    features = _find_features(takeaway)
    columns = {} if features is None else _neighbor_column(takeaway, features)
    found = read_map(takeaway.run)
    if found is not None:
        names = ("projection_x", "projection_y")
        return {
            **{name: pa.array(found.points[:, axis].copy()) for axis, name in enumerate(names)},
            **columns,
        }
    logger.warning(
        "the run has no map, so Embedding Atlas has to compute one from the column vector (--vector vector)"
    )
    return {**({} if features is None else _vector_column(takeaway, features)), **columns}


def _find_features(takeaway: Takeaway) -> Features | None:
    try:
        return takeaway.run.features()
    except KinfoldError as error:
        logger.warning("the export will have neither neighbours nor vectors: %s", error)
        return None


def _vector_column(takeaway: Takeaway, features: Features) -> dict[str, pa.Array]:
    matrix = features.matrix(takeaway.run.manifest.features["variant"])
    if matrix.shape[0] * matrix.shape[1] > _MOST_VALUES:
        logger.warning(
            "the features are too large for a column; compute a map first: kinfold explore RUN --map"
        )
        return {}
    values = np.asarray(matrix[:], dtype=np.float32)
    return {"vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])}


def _neighbor_column(takeaway: Takeaway, features: Features) -> dict[str, pa.Array]:
    """Return the nearest neighbours of every image, as many as all images have, at most 15."""
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


def _image_columns(job: Job) -> dict[str, pa.Array]:
    """Return the paths of images, and thumbnails of up to 20,000 images."""
    if job.images is None:
        return {}
    rows = job.takeaway.table["row"].to_pylist()
    paths = [job.images.path(row) for row in rows]
    columns = {}
    if any(path is not None for path in paths):
        columns["path"] = pa.array(
            [None if path is None else _path_string(path) for path in paths], pa.string()
        )
    if len(rows) <= MOST_THUMBNAILS:
        columns["image"] = pa.array(_thumbnails(job, job.images, rows), pa.struct([("bytes", pa.binary())]))
    return columns


def _path_string(path: Path) -> str | None:
    """Return a path as a string; None where it isn't valid Unicode."""
    try:
        return str(path).encode("utf-8").decode("utf-8")
    except UnicodeEncodeError:
        return None


def _thumbnails(job: Job, images: ImageSource, rows: list[int]) -> list[dict[str, bytes] | None]:
    def shrink(row: int) -> dict[str, bytes] | str:
        try:
            thumbnail = make_thumbnail(images.read(row), _THUMBNAIL_SIDE)
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


LABELS_NAME = "labels.csv"
_RESERVED = (UNSORTED, LABELS_NAME, "missing.csv", "manifest.json")

METADATA_NAME = "metadata.jsonl"
_IMAGES = "images"

ANNOTATIONS_NAME = "annotations.json"

FIFTYONE_LABELS_NAME = "labels.json"
_FIFTYONE_ATTRIBUTES = ("row", "key", "cluster", "name", "original_cluster", "mark", "by_hand", "typicality")


def write_folders(job: Job) -> None:
    """Write a folder for each group that has images, ``unsorted`` for marked images, and ``labels.csv``.

    With levels, there is a folder around it for each of their groups, ``level-5-group-3/level-20-group-7/``.
    The table has a row for every image and a first column ``file``, empty where the original is missing.
    """
    takeaway = job.takeaway
    labels = {group.id: safe_name(group.label) for group in takeaway.groups}
    folders = {**tell_apart(labels, reserved=_RESERVED), NO_GROUP: UNSORTED}
    clusters = takeaway.clusters
    around = [(n, takeaway.table[f"level_{n}"].to_numpy()) for n in takeaway.levels]
    free: dict[Path, FreeNames] = {}

    def name(line: int, key: str, suffix: str) -> Path:
        cluster = int(clusters[line])
        stem = safe_name(stem_of(key, suffix))
        levels = [] if cluster == NO_GROUP else [f"level-{n}-group-{groups[line]}" for n, groups in around]
        folder = Path(*levels, folders[cluster])
        return folder / free.setdefault(folder, FreeNames()).take(stem, suffix)

    files: list[str | None] = [None] * len(clusters)
    # group by group, in the order of rows, so that files of one name get the same numbers at every export
    for line, file, _ in job.place_images(np.argsort(clusters, kind="stable"), name):
        files[line] = file.as_posix()
    write_labels(job, files)


def stem_of(key: str, suffix: str) -> str:
    """Return the last part of a key without its suffix, which the file gets again."""
    last = key.rsplit("/", 1)[-1]
    return os.path.splitext(last)[0] if suffix and last.lower().endswith(suffix.lower()) else last


def write_labels(job: Job, files: Sequence[str | None]) -> None:
    """Write ``labels.csv``: the table with the file of every image as first column."""
    table = job.takeaway.table.select(job.takeaway.columns)
    warn_of_formulas(table)
    write_csv_table(table.add_column(0, "file", pa.array(files, pa.string())), job.target / LABELS_NAME)


def write_imagefolder(job: Job) -> None:
    """Write ``images/`` and ``metadata.jsonl``, for ``load_dataset("imagefolder", data_dir=…)``.

    Files are named by row: ``datasets`` takes words like *test* in a path for a split. Images whose original
    is missing have no line; those in no group have no label.
    """
    labels = job.takeaway.labels
    with (job.target / METADATA_NAME).open("w", encoding="utf-8", newline="\n") as stream:
        for record, file, _ in job.number_images(_IMAGES):
            label = labels[record["cluster"]] if record["cluster"] >= 0 else None
            line = {"file_name": f"{_IMAGES}/{file.as_posix()}", "label": label, **record}
            stream.write(json.dumps(line) + "\n")


def write_coco(job: Job) -> None:
    """Write ``images/`` and ``annotations.json``.

    Ids of images are rows. Ids of categories are groups plus one, and ids of annotations rows plus one,
    because COCO's tools reserve 0. An image in no group has no annotation. Width and height are those of the
    stored pixels, without regard to an orientation tag, as COCO's tools read them.
    """
    # Annotations follow the list of all images in the file, so they wait in a file beside it: a million of
    # them would fill memory.
    aside = job.target / "annotations.part"
    info = {"description": f"Groups of {job.takeaway.run.path.name}", "version": f"kinfold {__version__}"}
    with (
        (job.target / ANNOTATIONS_NAME).open("w", encoding="utf-8") as stream,
        aside.open("w+", encoding="utf-8") as annotations,
    ):
        stream.write(f'{{"info": {json.dumps(info)},\n"licenses": [],\n"images": [')
        _write_coco_images(job, stream, annotations)
        stream.write('],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, stream)
        stream.write(f'],\n"categories": {json.dumps(_categories(job))}}}\n')
    aside.unlink()


def _write_coco_images(job: Job, images: IO[str], annotations: IO[str]) -> None:
    """Write all images, and to the other file their annotations, one line each."""
    between, between_annotations = "\n", "\n"
    for record, file, original in job.number_images(_IMAGES):
        size = _image_size(original)
        if size is None:
            (job.target / _IMAGES / file).unlink()
            reason = f"{SkipReason.CORRUPT.value}: its width and height can't be read"
            job.missing.append(Missing(record["row"], record["key"], reason))
            continue
        line = {"id": record["row"], "file_name": file.as_posix(), "width": size[0], "height": size[1]}
        images.write(between + json.dumps({**line, "key": record["key"], "mark": record["mark"]}))
        between = ",\n"
        if record["cluster"] >= 0:
            levels = {name: record[name] for name in job.takeaway.level_columns}
            annotations.write(between_annotations + json.dumps({**_annotate(record, size), **levels}))
            between_annotations = ",\n"


def _categories(job: Job) -> list[dict[str, Any]]:
    return [
        {"id": group.id + 1, "name": group.label, "supercategory": "", "cluster": group.id}
        for group in job.takeaway.groups
    ]


def _annotate(record: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": record["row"] + 1,
        "image_id": record["row"],
        "category_id": record["cluster"] + 1,
        "bbox": [0, 0, *size],
        "area": size[0] * size[1],
        "iscrowd": 0,
        "score": record["confidence"],
        "original_cluster": record["original_cluster"],
        "by_hand": record["by_hand"],
        "typicality": record["typicality"],
    }


def _image_size(original: Original) -> tuple[int, int] | None:
    """Return width and height from the header; None where it can't be read."""
    try:
        # By the decoder that read the image for the run: Pillow alone knows neither HEIC nor all TIFFs.
        return read_size(original.data if original.path is None else original.path.read_bytes())
    except (OSError, UnusableImage):
        return None


def write_fiftyone(job: Job) -> None:
    """Write ``data/`` and ``labels.json``.

    A label is an index into ``classes``. Images in no group have the label ``unsorted``, which isn't a class,
    because an image without a label could carry no mark.
    """
    groups = job.takeaway.groups
    numbers = {group.id: number for number, group in enumerate(groups)}
    between = "\n"
    with (job.target / FIFTYONE_LABELS_NAME).open("w", encoding="utf-8") as stream:
        stream.write(f'{{"classes": {json.dumps([group.label for group in groups])},\n"labels": {{')
        for record, file, _ in job.number_images("data"):
            name = file.with_suffix("").as_posix()
            label = _fiftyone_label(record, numbers, job.takeaway.level_columns)
            stream.write(f"{between}{json.dumps(name)}: {json.dumps(label)}")
            between = ",\n"
        stream.write("}}\n")


def _fiftyone_label(
    record: dict[str, Any], numbers: dict[int, int], levels: tuple[str, ...]
) -> dict[str, Any]:
    return {
        "label": numbers.get(record["cluster"], UNSORTED),
        "confidence": record["confidence"],
        "attributes": {name: record[name] for name in (*_FIFTYONE_ATTRIBUTES, *levels)},
    }
