"""The run directory, the product's file format: writing it, and :meth:`Run.open` to read it back."""

from __future__ import annotations

from kinfold.locks import lock_directory
from kinfold.run._manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    is_run,
    read_manifest,
    write_manifest,
)
from kinfold.run._names import NAMES_NAME, write_names
from kinfold.run._replacing import finish_replacing, replace_files, stage_files
from kinfold.run._run import Run
from kinfold.run._tables import (
    ASSIGNMENTS_NAME,
    SKIPPED_NAME,
    is_predictions,
    is_skipped,
    read_table,
    write_assignments,
    write_named_assignments,
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
