"""Features: one vector per image, on disk and resumable, or brought along ready-made."""

from __future__ import annotations

from kinfold.features.base import Features
from kinfold.features.extraction import extract_features
from kinfold.features.matrix import LazyMatrix, RowMatrix, ShardedMatrix, as_row_matrix, let_go
from kinfold.features.opening import is_features, open_features
from kinfold.features.ready import ArrayFeatures
from kinfold.features.store import FeatureStore

__all__ = [
    "ArrayFeatures",
    "FeatureStore",
    "Features",
    "LazyMatrix",
    "RowMatrix",
    "ShardedMatrix",
    "as_row_matrix",
    "extract_features",
    "is_features",
    "let_go",
    "open_features",
]
