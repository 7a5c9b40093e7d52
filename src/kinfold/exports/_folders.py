"""One folder per group, with its images in it by link or copy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from kinfold.exports._job import Job
from kinfold.exports._names import FreeNames, safe_name, tell_apart
from kinfold.exports._tables import COLUMNS, warn_of_formulas, write_csv_table
from kinfold.exports._takeaway import NO_GROUP, UNSORTED

LABELS_NAME = "labels.csv"
_RESERVED = (UNSORTED, LABELS_NAME, "missing.csv", "manifest.json")


def write_folders(job: Job) -> None:
    """Write a folder for each group that has images, ``unsorted`` for marked ones, and ``labels.csv``.

    The table has a line for every image and a first column ``file``, empty where the original is missing.
    """
    takeaway = job.takeaway
    labels = {group.id: safe_name(group.label) for group in takeaway.groups}
    folders = {**tell_apart(labels, reserved=_RESERVED), NO_GROUP: UNSORTED}
    clusters = takeaway.clusters
    free: dict[int, FreeNames] = {}

    def name(line: int, key: str, ending: str) -> Path:
        cluster = int(clusters[line])
        stem = safe_name(stem_of(key, ending))
        return Path(folders[cluster]) / free.setdefault(cluster, FreeNames()).take(stem, ending)

    files: list[str | None] = [None] * len(clusters)
    for line, file, _ in job.place_images(np.argsort(clusters, kind="stable"), name):
        files[line] = file.as_posix()
    write_labels(job, files)


def stem_of(key: str, ending: str) -> str:
    """Return the last part of a key, without the ending that the file gets again."""
    last = key.rsplit("/", 1)[-1]
    return os.path.splitext(last)[0] if ending and last.lower().endswith(ending.lower()) else last


def write_labels(job: Job, files: Sequence[str | None]) -> None:
    """Write ``labels.csv``: the table, and in front of it the file of every image."""
    table = job.takeaway.table.select(COLUMNS)
    warn_of_formulas(table)
    write_csv_table(table.add_column(0, "file", pa.array(files, pa.string())), job.target / LABELS_NAME)
