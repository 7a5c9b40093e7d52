"""Open features by path: a feature store, or ready features (.npy, .npz, safetensors, a Parquet column)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.features.store import DEFAULT_VARIANT, SKIPPED_SCHEMA, Features, FeatureStore, is_feature_store
from kinfold.images import holds_images, natural_key, open_source
from kinfold.paths import arrow_path, utf8_path
from kinfold.reading import open_arrays, reading
from kinfold.rows import (
    RowMatrix,
    SelectedRows,
    ShardedMatrix,
    as_native,
    check_matrix,
    map_npy,
    unusable_rows,
)
from kinfold.storage import hash_array, hash_json
from kinfold.tables import PARQUET_SUFFIXES, is_list

ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
_NOTES = (".json", ".txt", ".md", ".csv", ".yaml")  # what may lie beside .npy files in a folder of them
_NPZ_KEYS = ("keys", "paths")  # arrays that may name the rows, in order of preference


class ArrayFeatures(Features):
    """A matrix that was computed elsewhere, with one variant, named ``cls`` as the default is.

    Rows that hold NaN or infinity, and rows of zeros, are skipped with that reason and keep their number.
    They are looked for when they are first needed, in one pass over the matrix.

    Parameters
    ----------
    path : path
        Where the matrix comes from.
    matrix : RowMatrix of shape (n_rows, dim)
        Real numbers of any type.
    keys : sequence of str, optional
        One per row; by default the row number.
    images : Mapping, optional
        How the images that stand beside the vectors are opened: options of
        :func:`~kinfold.images.open_source`. None where there are none.

    Raises
    ------
    InputError
        The matrix is not 2-D, empty, or not of real numbers; or the number of keys differs from that of rows.
    """

    variants = (DEFAULT_VARIANT,)

    def __init__(
        self,
        path: str | Path,
        matrix: RowMatrix,
        keys: Sequence[str] | Any = None,
        images: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.image_options = dict(images or {})
        if images is not None:
            self.source_uri = os.path.abspath(path)
        check_matrix(tuple(matrix.shape), matrix.dtype, f"the features in {path}")
        self._stored, self._all = matrix, as_native(matrix)
        if keys is not None and len(keys) != matrix.shape[0]:
            raise InputError(
                f"{path} has {matrix.shape[0]} rows, but {len(keys)} keys; give one key for each row"
            )
        self._keys = keys

    @property
    def n_rows(self) -> int:
        """Rows of the matrix, unusable ones counted."""
        return int(self._all.shape[0])

    @cached_property
    def keys(self) -> Any:
        """Key of every row."""
        if self._keys is None:
            return pa.array(np.arange(self.n_rows)).cast(pa.string())
        return self._keys if isinstance(self._keys, pa.Array) else pa.array(self._keys, pa.string())

    @cached_property
    def _unusable(self) -> dict[int, str]:
        return unusable_rows(self._all)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row number of every line of :meth:`matrix`, ascending."""
        usable = np.ones(self.n_rows, dtype=bool)
        usable[list(self._unusable)] = False
        if not usable.any():
            raise InputError(
                f"no row of {self.path} can be used: all are zero or not finite; check how the vectors "
                "were made"
            )
        return np.flatnonzero(usable).astype(np.int64)

    @cached_property
    def skipped(self) -> Any:
        """Rows that are all zero or not finite, with their reasons."""
        rows = pa.array(list(self._unusable), pa.int64())
        reasons = pa.array(list(self._unusable.values()), pa.string())
        return pa.table([rows, self.keys.take(rows), reasons], schema=SKIPPED_SCHEMA)

    def matrix(self, variant: str | None = None) -> RowMatrix:
        """Return the usable rows: the matrix itself where all are."""
        self.choose_variant(variant)
        return self._all if len(self.rows) == self.n_rows else SelectedRows(self._all, self.rows)

    def fingerprint(self, variant: str | None = None) -> str:
        """Return the SHA-256 of the whole matrix and its keys, reading it once."""
        self.choose_variant(variant)
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        content = hash_array(cast("NDArray[Any]", self._stored))
        return hash_json([content, None if self._keys is None else self.keys.to_pylist()])


def read_array_features(path: Path, column: str | None = None) -> ArrayFeatures:
    """Open a file of ready features by its suffix.

    Raises
    ------
    InputError
        The file has none of the known forms, or holds no feature matrix.
    FormatError
        The file is damaged.
    """
    suffix = path.suffix.lower()  # cameras and Windows programs write upper case
    if suffix in PARQUET_SUFFIXES:
        return _read_parquet(path, column)
    if column is not None:
        raise InputError(f"column applies to Parquet files only, and {path} isn't one")
    if suffix == ".npy":
        return ArrayFeatures(path, map_npy(path))
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".safetensors":
        return ArrayFeatures(path, _read_safetensors(path))
    known = ", ".join((*ARRAY_SUFFIXES, PARQUET_SUFFIXES[0]))
    raise InputError(f"{path} is not a feature file; supported are {known} and the folder of a feature store")


def has_feature_column(path: Path) -> bool:
    """Tell whether a Parquet file holds vectors and no image bytes."""
    try:
        with reading(path):
            schema = pq.read_schema(arrow_path(path))
    except (FormatError, InputError):
        return False
    return bool(_vector_columns(schema)) and not any(holds_images(field.type) for field in schema)


def _read_npz(path: Path) -> ArrayFeatures:
    with open_arrays(path) as arrays:
        if "features" not in arrays:
            held = ", ".join(arrays.names) or "nothing"
            raise InputError(f"{path} has no array named 'features'; it holds {held}")
        keys = next((_npz_keys(arrays, name, path) for name in _NPZ_KEYS if name in arrays), None)
        return ArrayFeatures(path, arrays["features"], keys)


def _npz_keys(archive: Any, name: str, path: Path) -> list[str]:
    keys = archive[name]
    if keys.ndim != 1 or keys.dtype.kind not in "US":
        raise InputError(f"{name!r} in {path} must be a list of strings, one per row of 'features'")
    if keys.dtype.kind == "S":
        return [key.decode("utf-8", "backslashreplace") for key in keys.tolist()]
    found = [str(key) for key in keys.tolist()]
    for row, key in enumerate(found):
        if any("\ud800" <= char <= "\udfff" for char in key):
            raise InputError(
                f"{name!r} in {path}, row {row}: {key!r} is no text, for it holds half of a surrogate pair; "
                "save the keys as bytes (dtype 'S')"
            )
    return found


def _read_safetensors(path: Path) -> NDArray[Any]:
    import torch
    from safetensors import safe_open

    with reading(path), utf8_path(path) as place, safe_open(place, framework="pt") as archive:
        name = _choose_tensor(archive, path)
        tensor = archive.get_tensor(name)
    if tensor.dtype == torch.bfloat16 or "float8" in str(tensor.dtype):
        tensor = tensor.to(torch.float32)  # NumPy has no such type
    array: NDArray[Any] = tensor.numpy()
    return array


def _choose_tensor(archive: Any, path: Path) -> str:
    names = list(archive.keys())
    if "features" in names:
        return "features"
    matrices = [name for name in names if len(archive.get_slice(name).get_shape()) == 2]
    if len(matrices) == 1:
        return str(matrices[0])
    held = ", ".join(names) or "nothing"
    raise InputError(
        f"{path} must hold a tensor named 'features', or one two-dimensional tensor alone; it holds {held}"
    )


def _read_parquet(path: Path, column: str | None) -> ArrayFeatures:
    with reading(path):
        file = pq.ParquetFile(arrow_path(path))
        name = _choose_column(file.schema_arrow, column, path)
        named = [name, "key"] if "key" in file.schema_arrow.names and name != "key" else [name]
        table = file.read(columns=named)
    keys = None
    if "key" in named:
        keys = table.column("key").cast(pa.string()).combine_chunks()
        if keys.null_count:
            raise InputError(
                f"the column 'key' of {path} has {keys.null_count} rows without a key; give each row one, "
                "or leave the column out"
            )
    images = None
    if any(holds_images(field.type) for field in file.schema_arrow):
        # Keys of vectors and images must be the same ones, or the page would show nothing.
        images = {"key_column": "key"} if keys is not None and len(pc.unique(keys)) == len(keys) else {}
        keys = pa.array(open_source(path, **images).keys, pa.string())
    return ArrayFeatures(path, _stack(table.column(name), name, path), keys, images)


def _read_folder(path: Path) -> ArrayFeatures:
    """Open the ``.npy`` files of a folder as one matrix, in natural order, as clip-retrieval leaves them."""
    files = sorted(_find_shards(path), key=lambda file: natural_key(file.name))
    shards = [map_npy(file) for file in files]
    for file, shard in zip(files, shards, strict=True):
        check_matrix(shard.shape, shard.dtype, f"the features in {file}")
        if shard.shape[1:] != shards[0].shape[1:] or shard.dtype != shards[0].dtype:
            raise InputError(
                f"{file} holds vectors of {shard.shape[1]} {shard.dtype} values, but {files[0].name} of "
                f"{shards[0].shape[1]} {shards[0].dtype}; give a folder of .npy files of one kind"
            )
    lengths, dim = [len(shard) for shard in shards], shards[0].shape[1]
    return ArrayFeatures(path, ShardedMatrix(files, lengths, dim, shards[0].dtype))


def _find_shards(path: Path) -> list[Path]:
    """Return the ``.npy`` files of a folder that holds nothing else but notes; else none."""
    files = []
    with os.scandir(path) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith(".") or suffix in _NOTES:
                continue
            if suffix != ".npy" or not entry.is_file():
                return []
            files.append(Path(entry.path))
    return files


def _choose_column(schema: Any, column: str | None, path: Path) -> str:
    vectors = _vector_columns(schema)
    if column is None:
        if len(vectors) == 1:
            return vectors[0]
        if not vectors:
            raise InputError(f"{path} has no column of vectors (lists of numbers); write one list per row")
        raise InputError(
            f"{path} has several columns of vectors: {', '.join(vectors)}; name one (column=, --column)"
        )
    if column not in schema.names:
        hint = nearest_name(column, schema.names)
        raise InputError(f"{path} has no column {column!r}{hint}; it has: {', '.join(schema.names)}")
    if column not in vectors:
        held = schema.field(column).type
        raise InputError(
            f"the column {column!r} of {path} holds {held}, not lists of numbers; name a column of "
            "vectors (column=, --column)"
        )
    return column


def _vector_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if _is_vector(field.type)]


def _is_vector(kind: Any) -> bool:
    if not is_list(kind):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _stack(column: Any, name: str, path: Path) -> NDArray[Any]:
    """Turn a column of lists into a matrix; a missing list or number becomes NaN, and so a skipped row."""
    if str(column.type).startswith(("list_view", "large_list_view")):
        column = column.cast(pa.large_list(column.type.value_type))  # few of Arrow's functions take views
    lengths = pc.list_value_length(column)
    dims = pc.unique(lengths.drop_null() if hasattr(lengths, "drop_null") else lengths).to_pylist()
    if len(dims) > 1:
        wrong = pc.index(pc.not_equal(lengths, dims[0]), True).as_py()
        raise InputError(
            f"the vectors in {name!r} of {path} differ in length: row {wrong} has not {dims[0]} numbers; "
            "make all of one length, as one model gives them"
        )
    dim = dims[0] if dims else 0
    present = column.is_valid().to_numpy()
    values = pc.list_flatten(column)
    numbers = np.concatenate([part.to_numpy(zero_copy_only=False) for part in values.chunks] or [np.zeros(0)])
    numbers = numbers.reshape(int(present.sum()), dim) if dim else np.zeros((int(present.sum()), 0))
    if present.all():
        return numbers
    matrix = np.full((len(present), dim), np.nan, dtype=np.result_type(numbers.dtype, np.float32))
    matrix[present] = numbers
    return matrix


def is_features(path: str | Path) -> bool:
    """Tell whether a path holds features rather than images.

    True for the folder of a feature store or of ``.npy`` files alone, for ``.npy``, ``.npz`` and
    ``.safetensors`` files, and for Parquet files that have a column of vectors and no image bytes. A path
    that doesn't exist gives False.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return is_feature_store(path) or bool(_find_shards(path))
        suffix = path.suffix.lower()
        if not path.is_file():
            return False
    except (OSError, ValueError):
        return False
    return suffix in ARRAY_SUFFIXES or (suffix in PARQUET_SUFFIXES and has_feature_column(path))


def open_features(path: str | Path, *, column: str | None = None) -> Features:
    """Open a feature store, or ready features.

    Parameters
    ----------
    path : path
        The folder of a feature store; a ``.npy`` file or a folder of these alone (stay memory-mapped); an
        ``.npz`` file with ``features`` and perhaps ``keys`` or ``paths``; a ``.safetensors`` file with
        ``features`` or one 2-D tensor alone; a Parquet file with a column of vectors and perhaps one named
        ``key``.
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
            raise InputError(f"column applies to Parquet files only, and {path} is a folder")
        if not is_feature_store(path) and _find_shards(path):
            return _read_folder(path)
        return FeatureStore.open(path)
    if not path.exists():
        raise InputError(f"there is nothing at {path}; check the path")
    return read_array_features(path, column)
