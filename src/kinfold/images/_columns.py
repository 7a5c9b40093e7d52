"""Columns of CSV, TSV and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kinfold.errors import InputError, nearest_name


def column_types(path: str) -> dict[str, Any]:
    """Return the columns of a CSV, TSV or Parquet file with their Arrow types (all text in a CSV)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if _is_csv(path):
            from pyarrow import csv

            with csv.open_csv(path, parse_options=_csv_options(path)) as reader:
                return dict.fromkeys(reader.schema.names, pa.string())
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read as a table: {error}") from error
    return dict(zip(schema.names, schema.types, strict=True))


def holds_images(kind: Any) -> bool:
    """Tell whether a column of this type can hold images: binary, or a struct with binary ``bytes``."""
    import pyarrow as pa

    if has_field(kind, "bytes"):
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_columns(path: str, columns: list[str]) -> dict[str, Any]:
    """Return columns of a CSV, TSV or Parquet file as chunked arrays (all text from a CSV)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(column_types(path))
    for column in columns:
        require_column(path, column if column in names else column.rsplit(".", 1)[0], names)
    try:
        if _is_csv(path):
            from pyarrow import csv

            convert = csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
            )
            table = csv.read_csv(path, parse_options=_csv_options(path), convert_options=convert)
        else:
            table = pq.ParquetFile(path).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} can't be read as a table: {error}") from error
    return {name: table[name] for name in table.column_names}


def column_values(column: Any) -> Iterator[Any]:
    """Yield the values of a chunked array, a few at a time in memory."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), 65536):
            yield from chunk.slice(start, 65536).to_pylist()


def choose_column(uri: str, usual: Sequence[str], candidates: list[str]) -> str:
    """Return the candidate with a usual name, or the only one; raise :class:`InputError` if there is none."""
    lowered = {name.lower(): name for name in reversed(candidates)}
    for name in usual:
        if name in lowered:
            return lowered[name]
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(map(repr, candidates)) or "none that could"
    raise InputError(
        f"which column of {uri} holds the images? Name it (path_column or image_column); it has {columns}"
    )


def require_column(uri: str, column: str, names: list[str]) -> None:
    """Raise :class:`InputError` with the nearest name if there is no such column."""
    if column not in names:
        raise InputError(f"{uri} has no column {column!r}{nearest_name(column, names)}")


def _is_csv(path: str) -> bool:
    return not path.lower().endswith((".parquet", ".pq"))


def _csv_options(path: str) -> Any:
    from pyarrow import csv

    delimiter = "\t" if path.lower().endswith((".tsv", ".tab")) else ","
    return csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def has_field(kind: Any, name: str) -> bool:
    """Tell whether an Arrow type is a struct with this field."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(name) >= 0)


def is_text(kind: Any) -> bool:
    """Tell whether a column of this Arrow type holds text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
