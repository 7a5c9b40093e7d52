"""Parquet as Embedding Atlas reads it."""

from __future__ import annotations

from pathlib import Path

from kinfold.exports._job import Job
from kinfold.exports._tables import COLUMNS, is_our_parquet, write_parquet_table

NAME = "embedding-atlas"


def write_atlas(job: Job) -> None:
    """Write the table with what Embedding Atlas shows beside it."""
    write_parquet_table(job.takeaway.table.select(COLUMNS), job.target, NAME)


def is_our_atlas(path: Path) -> bool:
    """Tell whether a file is an earlier export of this kind."""
    return is_our_parquet(path, NAME)
