"""Opening features by path, whatever their form."""

from __future__ import annotations

from pathlib import Path

from kinfold.errors import InputError
from kinfold.features.base import Features
from kinfold.features.ready import ARRAY_SUFFIXES, TABLE_SUFFIXES, has_feature_column, read_array_features
from kinfold.features.store import FeatureStore, is_feature_store


def is_features(path: str | Path) -> bool:
    """Tell whether a path holds features rather than images.

    True for the folder of a feature store, for ``.npy``, ``.npz`` and ``.safetensors`` files, and for Parquet
    files that have a column of vectors and no image bytes. A path that doesn't exist gives False.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return is_feature_store(path)
        suffix = path.suffix.lower()
        if not path.is_file():
            return False
    except (OSError, ValueError):
        return False
    return suffix in ARRAY_SUFFIXES or (suffix in TABLE_SUFFIXES and has_feature_column(path))


def open_features(path: str | Path, *, column: str | None = None) -> Features:
    """Open a feature store, or ready features.

    Parameters
    ----------
    path : path
        The folder of a feature store; a ``.npy`` file (stays memory-mapped); an ``.npz`` file with
        ``features`` and perhaps ``keys`` or ``paths``; a ``.safetensors`` file with ``features`` or one 2-D
        tensor alone; a Parquet file with a column of vectors and perhaps one named ``key``.
    column : str, optional
        The column of a Parquet file; needed where several hold vectors.

    Raises
    ------
    InputError
        There is nothing at ``path``, or it holds no features.
    FormatError
        The store or file is damaged, unfinished, or of a newer format.

    Examples
    --------
    >>> open_features("embeddings.npy").matrix().shape  # doctest: +SKIP
    (50000, 1280)
    """
    path = Path(path)
    if path.is_dir():
        if column is not None:
            raise InputError(f"a column can be named for a Parquet file only, and {path} is a folder")
        return FeatureStore.open(path)
    if not path.exists():
        raise InputError(f"there is nothing at {path}")
    return read_array_features(path, column)
