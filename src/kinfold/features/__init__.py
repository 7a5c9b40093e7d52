"""Features: one vector per image, extracted into a store on disk, or read from a file."""

from __future__ import annotations

from kinfold.features._contents import Known, hash_files
from kinfold.features.extraction import adopt_unchanged, continue_store, extract_features, lock_store
from kinfold.features.ready import ArrayFeatures, is_features, open_features
from kinfold.features.store import Features, FeatureStore
from kinfold.rows import LazyMatrix, RowMatrix, ShardedMatrix, as_row_matrix, let_go

__all__ = [
    "ArrayFeatures",
    "FeatureStore",
    "Features",
    "Known",
    "LazyMatrix",
    "RowMatrix",
    "ShardedMatrix",
    "adopt_unchanged",
    "as_row_matrix",
    "continue_store",
    "extract_features",
    "hash_files",
    "is_features",
    "let_go",
    "lock_store",
    "open_features",
]
