"""Folders of images: one per group, Hugging Face's imagefolder, COCO and FiftyOne."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from kinfold._version import __version__
from kinfold.exports._job import Job, Missing, Original
from kinfold.exports._tables import COLUMNS, warn_of_formulas, write_csv_table
from kinfold.exports._takeaway import NO_GROUP, UNSORTED, FreeNames, safe_name, tell_apart
from kinfold.images import SkipReason

LABELS_NAME = "labels.csv"
_RESERVED = (UNSORTED, LABELS_NAME, "missing.csv", "manifest.json")

METADATA_NAME = "metadata.jsonl"
_IMAGES = "images"

ANNOTATIONS_NAME = "annotations.json"

FIFTYONE_LABELS_NAME = "labels.json"
_FIFTYONE_ATTRIBUTES = ("row", "key", "cluster", "name", "original_cluster", "mark", "by_hand")


def write_folders(job: Job) -> None:
    """Write a folder for each group that has images, ``unsorted`` for marked images, and ``labels.csv``.

    The table has a row for every image and a first column ``file``, empty where the original is missing.
    """
    takeaway = job.takeaway
    labels = {group.id: safe_name(group.label) for group in takeaway.groups}
    folders = {**tell_apart(labels, reserved=_RESERVED), NO_GROUP: UNSORTED}
    clusters = takeaway.clusters
    free: dict[int, FreeNames] = {}

    def name(line: int, key: str, suffix: str) -> Path:
        cluster = int(clusters[line])
        stem = safe_name(stem_of(key, suffix))
        return Path(folders[cluster]) / free.setdefault(cluster, FreeNames()).take(stem, suffix)

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
    table = job.takeaway.table.select(COLUMNS)
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
            annotations.write(between_annotations + json.dumps(_annotate(record, size)))
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
    }


def _image_size(original: Original) -> tuple[int, int] | None:
    """Return width and height from the header; None where it can't be read."""
    try:
        with Image.open(original.path or io.BytesIO(original.data)) as image:
            return int(image.width), int(image.height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
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
            stream.write(f"{between}{json.dumps(name)}: {json.dumps(_fiftyone_label(record, numbers))}")
            between = ",\n"
        stream.write("}}\n")


def _fiftyone_label(record: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    return {
        "label": numbers.get(record["cluster"], UNSORTED),
        "confidence": record["confidence"],
        "attributes": {name: record[name] for name in _FIFTYONE_ATTRIBUTES},
    }
