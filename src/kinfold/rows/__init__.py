"""Rows on demand: matrices that may be larger than memory, facts about them, and readers of their rows.

Nothing here brings PyTorch but :mod:`kinfold.rows.readers`.
"""

from __future__ import annotations

from kinfold.rows.facts import ALL_ZERO, NOT_FINITE, RowFacts, scan_rows, unusable_in_block, unusable_rows
from kinfold.rows.matrix import (
    LazyMatrix,
    RowMatrix,
    SelectedRows,
    ShardedMatrix,
    as_native,
    as_row_matrix,
    check_matrix,
    let_go,
    map_npy,
    to_array,
)

__all__ = [
    "ALL_ZERO",
    "NOT_FINITE",
    "LazyMatrix",
    "RowFacts",
    "RowMatrix",
    "SelectedRows",
    "ShardedMatrix",
    "as_native",
    "as_row_matrix",
    "check_matrix",
    "let_go",
    "map_npy",
    "scan_rows",
    "to_array",
    "unusable_in_block",
    "unusable_rows",
]
