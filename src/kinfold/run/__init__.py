"""The run directory, the product's file format: writing it, and :meth:`Run.open` to read it back."""

from __future__ import annotations

from kinfold.locks import lock_directory
from kinfold.run.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Manifest,
    finish_replacing,
    is_run,
    read_manifest,
    replace_files,
    stage_files,
    write_manifest,
)
from kinfold.run.run import Run
from kinfold.run.tables import (
    ASSIGNMENTS_NAME,
    NAMES_NAME,
    SKIPPED_NAME,
    is_predictions,
    is_skipped,
    read_table,
    write_assignments,
    write_named_assignments,
    write_names,
    write_predictions,
    write_skipped,
)

__all__ = [
    "ASSIGNMENTS_NAME",
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "NAMES_NAME",
    "SKIPPED_NAME",
    "Manifest",
    "Run",
    "finish_replacing",
    "is_predictions",
    "is_run",
    "is_skipped",
    "lock_directory",
    "read_manifest",
    "read_table",
    "replace_files",
    "stage_files",
    "write_assignments",
    "write_manifest",
    "write_named_assignments",
    "write_names",
    "write_predictions",
    "write_skipped",
]
