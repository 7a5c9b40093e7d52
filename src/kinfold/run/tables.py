"""The Parquet files of a run: assignments, predictions, skipped images, names; equal content, equal bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError
from kinfold.paths import arrow_path
from kinfold.reading import reading
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.language import ClusterNames
    from kinfold.methods import TopClusters

ASSIGNMENTS_NAME = "assignments.parquet"
SKIPPED_NAME = "skipped.parquet"
NAMES_NAME = "names.parquet"
TYPICALITY_NAME = "typicality.parquet"
N_TOP = 5  # groups kept per image: what the page offers as a second choice, and top-5 accuracy needs

ASSIGNMENTS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("cluster", pa.int32()),
        ("confidence", pa.float32()),
        ("top_clusters", pa.list_(pa.int32())),
        ("top_probabilities", pa.list_(pa.float32())),
        ("name", pa.string()),
    ]
)
PREDICTIONS_SCHEMA = pa.schema([ASSIGNMENTS_SCHEMA.field(i) for i in range(4)])
NAMED_PREDICTIONS_SCHEMA = PREDICTIONS_SCHEMA.append(ASSIGNMENTS_SCHEMA.field("name"))
TYPICALITY_COLUMN = pa.field("typicality", pa.float32())
TYPICALITY_SCHEMA = pa.schema(
    [*(ASSIGNMENTS_SCHEMA.field(i) for i in range(2)), pa.field("closeness", pa.float32()), TYPICALITY_COLUMN]
)
SKIPPED_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("reason", pa.string())])
NAMES_SCHEMA = pa.schema(
    [
        ("cluster", pa.int32()),
        ("place", pa.int32()),
        ("noun", pa.string()),
        ("score", pa.float64()),
        ("similarity", pa.float64()),
        ("separation", pa.float64()),
        ("synset", pa.string()),
        ("path", pa.list_(pa.string())),
        ("reason", pa.string()),
    ]
)

_LATER = ("name",)  # columns that files of older versions don't have
_LEVEL_COLUMN = re.compile(r"level_[1-9][0-9]*")
_ROW_GROUP_SIZE = 1 << 17  # fixed, since it is part of the bytes; large enough to compress well


def write_assignments(path: Path, rows: NDArray[np.int64], keys: pa.Array, top: TopClusters) -> None:
    """Write which group every usable image is in, see :func:`make_assignments`."""
    write_table(path, make_assignments(rows, keys, top))


def make_assignments(rows: NDArray[np.int64], keys: pa.Array, top: TopClusters) -> pa.Table:
    """Return the table of the groups of all usable images, ``RUN/assignments.parquet``.

    Parameters
    ----------
    rows : ndarray of int64, shape (n,)
        Row number in the source of every usable image, ascending.
    keys : pyarrow.Array of string, length n
        Its key.
    top : TopClusters
        Its best clusters and their probabilities, each of shape (n, n_top), best first. The first cluster is
        the image's group, its probability the confidence, between 0 and 1.

    Notes
    -----
    The column ``name`` is null until the groups are named, see :func:`write_named_assignments`.
    """
    columns = [*_first_columns(rows, keys, top), _as_lists(top.clusters), _as_lists(top.probabilities)]
    columns.append(pa.nulls(len(rows), pa.string()))
    return pa.Table.from_arrays(columns, schema=ASSIGNMENTS_SCHEMA)


def write_named_assignments(path: Path, assignments: pa.Table, nouns: Sequence[str | None]) -> None:
    """Write assignments anew with the name of every image's group; ``nouns`` has one, or None, per group."""
    labels = assignments["cluster"].to_numpy()
    place = ASSIGNMENTS_SCHEMA.get_field_index("name")
    write_table(
        path, assignments.set_column(place, ASSIGNMENTS_SCHEMA.field("name"), _names_of(labels, nouns))
    )


def write_predictions(
    path: Path,
    rows: NDArray[np.int64],
    keys: pa.Array,
    top: TopClusters,
    nouns: Sequence[str | None] | None = None,
) -> pa.Table:
    """Write groups of new images as Parquet and return the table, see :func:`make_predictions`."""
    table = make_predictions(rows, keys, top, nouns)
    write_table(path, table)
    return table


def make_predictions(
    rows: NDArray[np.int64], keys: pa.Array, top: TopClusters, nouns: Sequence[str | None] | None = None
) -> pa.Table:
    """Return the table of the groups of new images.

    The columns are row, key, cluster, confidence, and name where ``nouns`` are given: one or None per group.
    """
    columns, schema = _first_columns(rows, keys, top), PREDICTIONS_SCHEMA
    if nouns is not None:
        columns.append(_names_of(top.clusters[:, 0], nouns))
        schema = NAMED_PREDICTIONS_SCHEMA
    return pa.Table.from_arrays(columns, schema=schema)


def add_levels(table: pa.Table, levels: Mapping[int, NDArray[np.int32]]) -> pa.Table:
    """Return a table with a column ``level_K`` behind the others for every level of K groups."""
    for n_groups, labels in levels.items():
        table = table.append_column(f"level_{n_groups}", pa.array(labels, pa.int32()))
    return table


def add_typicality(table: pa.Table, typicality: NDArray[np.float32] | None) -> pa.Table:
    """Return a table with the column ``typicality`` behind the others: null where None or NaN."""
    n = len(table)
    values = pa.nulls(n, pa.float32()) if typicality is None else pa.array(typicality, from_pandas=True)
    return table.append_column(TYPICALITY_COLUMN, values)


def leave_out_further(names: Sequence[str]) -> list[str]:
    """Return names of columns without those that :func:`add_typicality` and :func:`add_levels` added."""
    found = list(names)
    while found and _LEVEL_COLUMN.fullmatch(found[-1]):
        found.pop()
    return found[:-1] if found and found[-1] == TYPICALITY_COLUMN.name else found


def write_skipped(path: Path, skipped: pa.Table) -> None:
    """Write the images that could not be used: row, key and reason of each."""
    write_table(path, skipped.select(SKIPPED_SCHEMA.names).cast(SKIPPED_SCHEMA).replace_schema_metadata(None))


def read_table(path: Path, schema: pa.Schema, mend: str) -> pa.Table:
    """Read a Parquet file that must have ``schema``; ``mend`` says what to do if it's damaged.

    Raises
    ------
    FormatError
        The file is missing, damaged, or has other columns.
    """
    if not path.is_file():
        raise FormatError(f"{path} is missing; {mend}")
    with reading(path, mend):
        table = pq.read_table(arrow_path(path))
        for name in _LATER:
            if name in schema.names and name not in table.column_names:
                table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)


def write_names(path: Path, names: ClusterNames) -> None:
    """Write the names of all groups, see :func:`make_names`."""
    write_table(path, make_names(names))


def make_names(names: ClusterNames) -> pa.Table:
    """Return the names of all groups: a line per name, the best first, or one with the reason for none."""
    lines: list[dict[str, Any]] = []
    for one in names.clusters:
        if not one.names:
            lines.append({"cluster": one.cluster, "reason": one.reason})
        for place, name in enumerate(one.names):
            lines.append({"cluster": one.cluster, "place": place, **vars(name), "path": list(name.path)})
    return pa.Table.from_pylist(lines, schema=NAMES_SCHEMA)


def read_names(path: Path, n_clusters: int, parameters: Mapping[str, Any], mend: str) -> ClusterNames:
    """Read what :func:`write_names` wrote.

    Raises
    ------
    FormatError
        The file is missing or damaged; ``mend`` says what to do.
    """
    from kinfold.language import ClusterName, ClusterNames, Name

    table = read_table(path, NAMES_SCHEMA, mend)
    # Of a corrected run, groups that people made have names too; every group has a line at least.
    n_groups = min(
        max(n_clusters, (pc.max(table["cluster"]).as_py() or 0) + 1), max(n_clusters, table.num_rows)
    )
    names: list[list[Name]] = [[] for _ in range(n_groups)]
    reasons = [""] * n_groups
    for line in table.to_pylist():
        cluster, place, reason = line.pop("cluster"), line.pop("place"), line.pop("reason")
        if cluster is None or not 0 <= cluster < n_groups:
            raise FormatError(f"{path} is damaged: it names a group {cluster!r} of {n_clusters}; {mend}")
        if place is None:
            reasons[cluster] = reason or ""
        else:
            names[cluster].append(Name(**{**line, "path": tuple(line["path"] or ())}))
    clusters = (
        ClusterName(cluster, tuple(found), reason)
        for cluster, (found, reason) in enumerate(zip(names, reasons, strict=True))
    )
    return ClusterNames(tuple(clusters), parameters)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all."""
    with atomic_file(path) as partial:
        pq.write_table(
            table,
            arrow_path(partial, "wb"),
            compression="zstd",
            row_group_size=_ROW_GROUP_SIZE,
            store_schema=False,
        )


def is_predictions(path: Path) -> bool:
    """Tell whether ``path`` is a file of predictions, by its columns."""
    return _has_columns(path, PREDICTIONS_SCHEMA) or _has_columns(path, NAMED_PREDICTIONS_SCHEMA)


def is_skipped(path: Path) -> bool:
    """Tell whether ``path`` is a file that :func:`write_skipped` may have written, by its columns."""
    return _has_columns(path, SKIPPED_SCHEMA)


def _has_columns(path: Path, schema: pa.Schema) -> bool:
    try:
        with reading(path):
            return bool(leave_out_further(pq.read_schema(arrow_path(path)).names) == schema.names)
    except (FormatError, InputError):
        return False


def _first_columns(rows: NDArray[np.int64], keys: pa.Array, top: TopClusters) -> list[pa.Array]:
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    return [
        pa.array(rows, type=pa.int64()),
        keys.cast(pa.string()),
        pa.array(np.ascontiguousarray(top.clusters[:, 0]), type=pa.int32()),
        pa.array(np.ascontiguousarray(top.probabilities[:, 0]), type=pa.float32()),
    ]


def _names_of(labels: NDArray[np.integer], nouns: Sequence[str | None]) -> pa.Array:
    names = pa.array(list(nouns), pa.string())
    return names.take(pa.array(np.ascontiguousarray(labels), pa.int64()))


def _as_lists(matrix: NDArray[np.generic]) -> pa.ListArray:
    n, width = matrix.shape
    offsets = np.arange(n + 1, dtype=np.int64) * width
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(np.ascontiguousarray(matrix).reshape(-1))
    )
