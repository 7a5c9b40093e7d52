"""Features: one vector per image, on disk and resumable, or brought along ready-made."""

from __future__ import annotations

from kinfold.features.matrix import RowMatrix, ShardedMatrix, as_row_matrix

__all__ = ["RowMatrix", "ShardedMatrix", "as_row_matrix"]
