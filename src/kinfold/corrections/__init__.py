"""Corrections of a run by people: an append-only log of edits, and the groups that result from it."""

from __future__ import annotations

from kinfold.corrections._additions import add_to_splits, read_additions
from kinfold.corrections._carry import reshaped
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
from kinfold.corrections._journal import Entry
from kinfold.corrections._level import LevelChange, change_level, switch_level, tell_counts
from kinfold.corrections._places import (
    corrections_name,
    count_edits,
    has_corrections,
    list_corrected_levels,
    list_corrections,
    set_aside,
)
from kinfold.corrections._refine import (
    PROPOSALS_NAME,
    PROPOSALS_SCHEMA,
    Proposals,
    check_confidence,
    read_proposals,
    refine,
    write_proposals,
)
from kinfold.corrections._state import (
    CORRECTED_SCHEMA,
    Group,
    State,
    changed_groups,
    corrected_table,
    first_state,
    hash_base,
    names_of,
)
from kinfold.corrections._store import CORRECTIONS_NAME

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
    "LevelChange",
    "Lock",
    "Mark",
    "Merge",
    "Move",
    "Proposals",
    "Rename",
    "Split",
    "State",
    "add_to_splits",
    "change_level",
    "changed_groups",
    "check_confidence",
    "corrected_table",
    "corrections_name",
    "count_edits",
    "first_state",
    "has_corrections",
    "hash_base",
    "list_corrected_levels",
    "list_corrections",
    "names_of",
    "read_additions",
    "read_edit",
    "read_proposals",
    "refine",
    "reshaped",
    "set_aside",
    "switch_level",
    "tell_counts",
    "write_proposals",
]
