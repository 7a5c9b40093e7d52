"""The run directory, the product's file format: writing it, and :meth:`Run.open` to read it back."""

from __future__ import annotations

from kinfold.locks import lock_directory
from kinfold.run._pictures import join_pictures
from kinfold.run.level_names import level_names_name, read_level_names, write_level_names
from kinfold.run.manifest import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    Manifest,
    finish_replacing,
    is_run,
    locate_whole,
    read_manifest,
    replace_files,
    stage_files,
    write_manifest,
)
from kinfold.run.run import GIVEN_PREFIX, Run
from kinfold.run.stages import STAGES, Stages, open_run_stages, open_stages
from kinfold.run.tables import (
    ASSIGNMENTS_NAME,
    N_TOP,
    NAMED_PREDICTIONS_SCHEMA,
    NAMES_NAME,
    SKIPPED_NAME,
    SKIPPED_SCHEMA,
    is_predictions,
    is_skipped,
    make_assignments,
    make_predictions,
    read_table,
    write_assignments,
    write_named_assignments,
    write_names,
    write_predictions,
    write_skipped,
    write_table,
)

__all__ = [
    "ASSIGNMENTS_NAME",
    "FORMAT",
    "FORMAT_VERSION",
    "GIVEN_PREFIX",
    "MANIFEST_NAME",
    "NAMED_PREDICTIONS_SCHEMA",
    "NAMES_NAME",
    "N_TOP",
    "SKIPPED_NAME",
    "SKIPPED_SCHEMA",
    "STAGES",
    "Manifest",
    "Run",
    "Stages",
    "finish_replacing",
    "is_predictions",
    "is_run",
    "is_skipped",
    "join_pictures",
    "level_names_name",
    "locate_whole",
    "lock_directory",
    "make_assignments",
    "make_predictions",
    "open_run_stages",
    "open_stages",
    "read_level_names",
    "read_manifest",
    "read_table",
    "replace_files",
    "stage_files",
    "write_assignments",
    "write_level_names",
    "write_manifest",
    "write_named_assignments",
    "write_names",
    "write_predictions",
    "write_skipped",
    "write_table",
]
