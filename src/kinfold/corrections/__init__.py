"""What people correct in a run: kept as rows that are only ever added, and the groups that come of it."""

from __future__ import annotations

from kinfold.corrections._corrections import Corrections
from kinfold.corrections._edits import (
    EDITS,
    MARKS,
    Accept,
    Confirm,
    Edit,
    Lock,
    Mark,
    Merge,
    Move,
    Rename,
    Split,
    read_edit,
)
from kinfold.corrections._proposals import (
    PROPOSALS_NAME,
    PROPOSALS_SCHEMA,
    Proposals,
    check_confidence,
    read_proposals,
    write_proposals,
)
from kinfold.corrections._refine import refine
from kinfold.corrections._state import Group, State, changed_groups, first_state
from kinfold.corrections._store import CORRECTIONS_NAME
from kinfold.corrections._table import CORRECTED_SCHEMA, corrected_table, names_of
from kinfold.corrections._words import Entry

__all__ = [
    "CORRECTED_SCHEMA",
    "CORRECTIONS_NAME",
    "EDITS",
    "MARKS",
    "PROPOSALS_NAME",
    "PROPOSALS_SCHEMA",
    "Accept",
    "Confirm",
    "Corrections",
    "Edit",
    "Entry",
    "Group",
    "Lock",
    "Mark",
    "Merge",
    "Move",
    "Proposals",
    "Rename",
    "Split",
    "State",
    "changed_groups",
    "check_confidence",
    "corrected_table",
    "first_state",
    "names_of",
    "read_edit",
    "read_proposals",
    "refine",
    "write_proposals",
]
