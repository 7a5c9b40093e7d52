"""Tables with a column of paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kinfold.errors import InputError
from kinfold.images._columns import (
    choose_column,
    column_types,
    column_values,
    is_text,
    read_columns,
    require_column,
)
from kinfold.images._folder import fingerprint_files
from kinfold.images._keys import KeyList, different_keys, unique_keys
from kinfold.images._reasons import SkipReason, UnusableImage
from kinfold.images._source import FileReader, LocatedSource

_PATH_NAMES = (
    "path",
    "file_path",
    "filepath",
    "image_path",
    "file",
    "file_name",
    "filename",
    "image",
    "img",
    "key",
)


class PathTableSource(LocatedSource):
    """Images whose paths stand in a column of a CSV, TSV or Parquet file, in the order of the table.

    Relative paths begin at the table's folder. The key is the path as written, or the value of
    ``key_column``. A path that occurs twice becomes the key ``path#2``; keys of a column of their own must
    differ.

    Parameters
    ----------
    path : str or Path
        The table.
    path_column, key_column : str, optional
        Names of columns; without ``path_column`` a column with a usual name is taken, or the only one.

    Raises
    ------
    InputError
        The table can't be read, or has no such column, or keys occur twice.
    """

    kind = "table"

    def __init__(
        self, path: str | Path, *, path_column: str | None = None, key_column: str | None = None
    ) -> None:
        self.uri = os.path.abspath(path)
        types = column_types(self.uri)
        texts = [name for name, kind in types.items() if is_text(kind)]
        column = path_column or choose_column(self.uri, _PATH_NAMES, texts)
        require_column(self.uri, column, list(types))
        if column not in texts:
            raise InputError(f"column {column!r} of {self.uri} holds {types[column]}, not paths")
        columns = read_columns(self.uri, [column] if key_column is None else [column, key_column])
        self._paths = KeyList(value or "" for value in column_values(columns[column]))
        self.keys = _keys_of(self.uri, self._paths, None if key_column is None else columns[key_column])
        self._folder = os.fsencode(os.path.dirname(self.uri))
        self._fingerprint: str | None = None

    def path(self, row: int) -> Path | None:
        """Return the file's path."""
        return Path(os.fsdecode(self._path(row))) if self._paths[row] else None

    def locate(self, row: int) -> bytes:
        """Return the file's path as bytes; raises :class:`UnusableImage` where the table has none."""
        if not self._paths[row]:
            raise UnusableImage(SkipReason.MISSING, "the table has no path for it")
        return self._path(row)

    def reader(self) -> FileReader:
        """Return a reader of paths."""
        return FileReader()

    def fingerprint(self) -> str:
        """Return the SHA-256 of keys, and of sizes and modification times of the files."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_files((key, self._path(row)) for row, key in enumerate(self.keys))
        return self._fingerprint

    def _path(self, row: int) -> bytes:
        return os.path.join(
            self._folder, os.path.expanduser(self._paths[row]).encode("utf-8", "surrogateescape")
        )


def _keys_of(uri: str, paths: KeyList, column: Any) -> KeyList:
    if column is not None:
        return different_keys((str(value) for value in column_values(column)), uri)
    return unique_keys(path or f"row-{row}" for row, path in enumerate(paths))
