"""Images from tables: a column of paths (CSV, TSV, Parquet), or a column of images (Parquet)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.images._folder import fingerprint_files
from kinfold.images._keys import KeyList, different_keys, encode_key, natural_key, unique_keys
from kinfold.images._source import FileReader, LocatedSource, SkipReason, UnusableImage
from kinfold.paths import arrow_path, is_image_name, is_web_address, strip_uri
from kinfold.tables import TextTable, is_bytes, is_parquet, is_text

# Usual names of columns, the most telling first.
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

_IMAGE_NAMES = ("image", "img", "jpg", "png", "image_bytes", "bytes", "picture", "photo")
_AHEAD = 32  # images that are unpacked together: a whole row group may hold gigabytes
_SAMPLE = 64  # paths of a table that are looked for before it is decided where paths begin
_MOST_BESIDE = 200  # entries of the table's folder that are looked at for folders where paths may begin

_log = logging.getLogger(__name__)


def column_types(path: str, is_path: Callable[[str], bool] = is_image_name) -> dict[str, Any]:
    """Return the columns of a CSV, TSV or Parquet file with their Arrow types (all text in a CSV)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not is_parquet(path):
        return dict.fromkeys(TextTable.open(path, is_path).names, pa.string())
    try:
        schema = pq.read_schema(arrow_path(path))
    except Exception as error:  # names that are not UTF-8 among others
        raise InputError(f"{path} can't be read as a table: {error}") from error
    return dict(zip(schema.names, schema.types, strict=True))


def holds_images(kind: Any) -> bool:
    """Tell whether a column of this type can hold images: binary, or a struct with binary ``bytes``."""
    return is_bytes(kind.field("bytes").type if has_field(kind, "bytes") else kind)


def read_columns(path: str, columns: list[str]) -> dict[str, Any]:
    """Return columns of a Parquet file as chunked arrays."""
    import pyarrow.parquet as pq

    names = list(column_types(path))
    for column in columns:
        require_column(path, column if column in names else column.rsplit(".", 1)[0], names)
    try:
        table = pq.ParquetFile(arrow_path(path)).read(columns=columns)
    except Exception as error:  # names that are not UTF-8 among others
        raise InputError(f"{path} can't be read as a table: {error}") from error
    return {name: table[name] for name in table.column_names}


def column_values(column: Any) -> Iterator[Any]:
    """Yield the values of a chunked array, a few at a time in memory."""
    # In pieces: Python objects take several times the memory of the column.
    for chunk in column.chunks:
        for start in range(0, len(chunk), 65536):
            yield from chunk.slice(start, 65536).to_pylist()


def choose_column(uri: str, usual: Sequence[str], candidates: list[str]) -> str:
    """Return the candidate with a usual name, or the only one; raise :class:`InputError` if there is none."""
    lowered = {name.strip().lower(): name for name in reversed(candidates)}
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


def has_field(kind: Any, name: str) -> bool:
    """Tell whether an Arrow type is a struct with this field."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index(name) >= 0)


class PathTableSource(LocatedSource):
    """Images whose paths stand in a column of a CSV, TSV or Parquet file, in the order of the table.

    Relative paths begin at the table's folder. Where none of them is there, but most are from the folder
    above it, from the current folder, from ``base`` or from a folder beside the table, they begin there, and
    a warning says so. Backslashes and ``file://`` addresses are understood. The key is the path as written,
    or the value of ``key_column``. A path that occurs twice becomes the key ``path#2``; keys of a column of
    their own must differ.

    Parameters
    ----------
    path : str or Path
        The table. A text table may lack its header where its first line names an image.
    path_column, key_column : str, optional
        Names of columns; without ``path_column`` a column with a usual name is taken, or the only one.
    base : str or Path, optional
        Where relative paths begin, if they don't begin at the table.

    Attributes
    ----------
    base : str
        Where relative paths begin.

    Raises
    ------
    InputError
        The table can't be read, or has no such column, or keys occur twice.
    """

    kind = "table"

    def __init__(
        self,
        path: str | Path,
        *,
        path_column: str | None = None,
        key_column: str | None = None,
        base: str | Path | None = None,
    ) -> None:
        self.uri = os.path.abspath(path)
        self._folder = os.path.dirname(self.uri)
        types = column_types(self.uri, self._names_an_image)
        texts = [name for name, kind in types.items() if is_text(kind)]
        column = path_column or choose_column(self.uri, _PATH_NAMES, texts)
        require_column(self.uri, column, list(types))
        if column not in texts:
            raise InputError(f"column {column!r} of {self.uri} holds {types[column]}, not paths")
        if key_column is not None:
            require_column(self.uri, key_column, list(types))
        self._paths = KeyList(self._read(column))
        if key_column is None:
            self.keys = unique_keys(path or f"row-{row}" for row, path in enumerate(self._paths))
        else:
            self.keys = different_keys(self._read(key_column), self.uri)
        self.base, self._way = self._find_base(base)
        self._fingerprint: str | None = None

    def path(self, row: int) -> Path | None:
        """Return the file's path."""
        return Path(os.fsdecode(self._path(row))) if self._paths[row] else None

    def locate(self, row: int) -> bytes:
        """Return the file's path as bytes; raises :class:`UnusableImage` where the table has none."""
        written = self._paths[row]
        if not written:
            raise UnusableImage(SkipReason.MISSING, "the table has no path for it")
        if is_web_address(written):
            detail = "it lies on the web, and nothing is downloaded; fetch the images first"
            raise UnusableImage(SkipReason.MISSING, detail)
        return self._path(row)

    def reader(self) -> FileReader:
        """Return a reader of paths."""
        return FileReader(shows_path=True)

    def fingerprint(self) -> str:
        """Return the SHA-256 of keys, and of sizes and modification times of the files."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_files((key, self._path(row)) for row, key in enumerate(self.keys))
        return self._fingerprint

    def _read(self, column: str) -> Iterator[str]:
        """Yield the cells of a column as strings, empty ones for null."""
        if is_parquet(self.uri):
            values = column_values(read_columns(self.uri, [column])[column])
            yield from ("" if value is None else str(value) for value in values)
        else:
            table = TextTable.open(self.uri, self._names_an_image)
            place = table.names.index(column)
            yield from (row[place] for row in table.rows(strict=True))

    def _names_an_image(self, cell: str) -> bool:
        """Tell whether a cell of the first line is a path: it ends as images do, or a file is there."""
        if not cell.strip() or cell.strip().lower() in _PATH_NAMES:
            return False
        return is_image_name(cell) or any(_is_file(way(cell), self._folder) for way in _WAYS)

    def _path(self, row: int) -> bytes:
        return _place(self._way(self._paths[row]), self.base)

    def _find_base(self, given: str | Path | None) -> tuple[str, Callable[[str], str]]:
        """Return where paths begin, and how they are written: the first choice where most of some exist."""
        rows = np.unique(np.linspace(0, len(self._paths) - 1, min(_SAMPLE, len(self._paths))).astype(int))
        some = [path for row in rows.tolist() if (path := self._paths[row]) and not is_web_address(path)]
        default = self._folder if given is None else os.path.abspath(given)
        for base in self._bases(default):
            for way in _WAYS:
                n_there = sum(_is_file(way(path), base) for path in some)
                # One is enough where paths begin as documented: others may have gone. A guess needs more.
                if n_there > (0 if base == default and way is _as_written else len(some) // 2):
                    if base != default:
                        _log.warning(
                            "%s: no path is there from %s, where relative paths begin; they are read from %s",
                            self.uri,
                            default,
                            base,
                        )
                    return base, way
        if some:
            _log.warning(
                "%s: none of its paths is there; the first one, %s, was looked for at %s. Relative paths "
                "begin at the table's folder",
                self.uri,
                some[0],
                os.fsdecode(_place(_as_path(some[0]), default)),
            )
        return default, _as_path

    def _bases(self, default: str) -> Iterator[str]:
        yield from dict.fromkeys([default, self._folder, os.path.dirname(self._folder), os.getcwd()])
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            folders = [entry.path for entry in islice(entries, _MOST_BESIDE) if entry.is_dir()]
            yield from sorted(folders)


def _as_written(path: str) -> str:
    return os.path.expanduser(path)


def _as_path(path: str) -> str:
    """Return the path of a ``file://`` address, and of one with backslashes what it means here."""
    return os.path.expanduser(strip_uri(path.strip()).replace("\\", os.sep))


def _as_western(path: str) -> str:
    """Return a path whose file is named in ISO 8859-1, as the table was before it was read."""
    try:
        return os.fsdecode(_as_path(path).encode("latin-1"))
    except UnicodeError:
        return path


_WAYS: tuple[Callable[[str], str], ...] = (_as_written, _as_path, _as_western)


def _place(path: str, base: str) -> bytes:
    return os.path.join(os.fsencode(base), path.encode("utf-8", "surrogateescape"))


def _is_file(path: str, base: str) -> bool:
    try:
        return os.path.isfile(_place(path, base))
    except (ValueError, UnicodeError):  # a NUL, or half of a surrogate pair
        return False


class ImageLocator(NamedTuple):
    """Number of the shard, row group in it, place in the row group."""

    shard: int
    group: int
    place: int


class ImageTableSource(LocatedSource):
    """Images inside Parquet files: a column of bytes, or of Hugging Face's ``struct<bytes, path>``.

    Rows keep the order of the tables, which keep the natural order of their names. The key is the value of
    ``key_column``, else the struct's path, else ``table.parquet/<row in it>``. A struct without bytes is
    read from its path.

    Parameters
    ----------
    paths : sequence of str or Path
        The Parquet files, all of one schema.
    image_column, key_column : str, optional
        Names of columns; without ``image_column`` one with a usual name is taken, or the only one of such a
        type.
    uri : str, optional
        What was opened, if not the one path.

    Raises
    ------
    InputError
        A file can't be read, or has no such column, or keys of a column of their own occur twice.
    """

    kind = "table"

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        image_column: str | None = None,
        key_column: str | None = None,
        uri: str | None = None,
    ) -> None:
        self._shards = sorted(
            (os.path.abspath(path) for path in paths), key=lambda p: natural_key(encode_key(p))
        )
        self.uri = uri or self._shards[0]
        types = column_types(self._shards[0])
        known = [name for name, kind in types.items() if holds_images(kind)]
        self._column = image_column or choose_column(self.uri, _IMAGE_NAMES, known)
        require_column(self.uri, self._column, list(types))
        if not holds_images(types[self._column]):
            raise InputError(
                f"column {self._column!r} of {self.uri} holds {types[self._column]}, not image bytes"
            )
        self._groups, self._starts = _row_groups(self._shards)
        self.keys = self._list_keys(key_column, has_path=has_field(types[self._column], "path"))

    def locate(self, row: int) -> ImageLocator:
        """Return shard, row group and place."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        shard, group = self._groups[at].tolist()
        return ImageLocator(shard, group, int(row - self._starts[at]))

    def reader(self) -> ImageTableReader:
        """Return a reader of row groups."""
        return ImageTableReader(tuple(self._shards), self._column)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the keys, and of the tables' sizes and modification times."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(key.encode("utf-8", "surrogatepass") + b"\n")
        shards = ((os.path.basename(shard), os.fsencode(shard)) for shard in self._shards)
        digest.update(fingerprint_files(shards).encode())
        return digest.hexdigest()

    def _list_keys(self, key_column: str | None, *, has_path: bool) -> KeyList:
        if key_column is not None:
            require_column(self.uri, key_column, list(column_types(self._shards[0])))
            columns = (read_columns(shard, [key_column])[key_column] for shard in self._shards)
            keys = (str(value) for column in columns for value in column_values(column))
            return different_keys(keys, self.uri)
        return unique_keys(self._named_rows(f"{self._column}.path" if has_path else None))

    def _named_rows(self, column: str | None) -> Iterator[str]:
        counts = np.diff(self._starts)
        for shard, path in enumerate(self._shards):
            base = os.path.basename(path)
            if column is None:
                rows = int(counts[self._groups[:, 0] == shard].sum())
                yield from (f"{base}/{row}" for row in range(rows))
            else:
                structs = read_columns(path, [column])[self._column]
                for row, value in enumerate(column_values(structs)):
                    yield (value or {}).get("path") or f"{base}/{row}"


class ImageTableReader:
    """Reads images out of row groups; going forward is fast, going back unpacks the row group anew."""

    def __init__(self, shards: tuple[str, ...], column: str) -> None:
        self._shards = shards
        self._column = column
        self._cursor: _Cursor | None = None

    def read(self, locator: ImageLocator) -> bytes:
        """Return an image's bytes; raises :class:`UnusableImage`."""
        import pyarrow as pa

        shard, group, place = locator
        try:
            if self._cursor is None or not self._cursor.can_reach(shard, group, place):
                self._cursor = _Cursor(self._shards[shard], self._column, shard, group)
            value = self._cursor.get(place)
        except (OSError, pa.ArrowException) as error:
            self._cursor = None
            detail = f"in the table: {' '.join(str(error).split())[:200]}"
            raise UnusableImage(SkipReason.UNREADABLE, detail) from error
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                folder = os.fsencode(os.path.dirname(self._shards[shard]))
                return FileReader().read(os.path.join(folder, os.fsencode(value["path"])))
            value = value.get("bytes")
        if value is None:
            raise UnusableImage(SkipReason.MISSING, "the table has no image for it")
        return bytes(value)

    def __getstate__(self) -> dict[str, Any]:
        return {"_shards": self._shards, "_column": self._column, "_cursor": None}


class _Cursor:
    """A place in a row group that moves forward."""

    def __init__(self, path: str, column: str, shard: int, group: int) -> None:
        import pyarrow.parquet as pq

        self._where = (shard, group)
        self._file = pq.ParquetFile(arrow_path(path))
        # Without threads: there is a reader in every worker process already.
        self._batches = self._file.iter_batches(
            _AHEAD, row_groups=[group], columns=[column], use_threads=False
        )
        self._start = 0
        self._batch: Any = next(self._batches).column(0)

    def can_reach(self, shard: int, group: int, place: int) -> bool:
        return (shard, group) == self._where and place >= self._start

    def get(self, place: int) -> Any:
        while place >= self._start + len(self._batch):
            self._start += len(self._batch)
            self._batch = next(self._batches).column(0)
        return self._batch[place - self._start].as_py()


def _row_groups(shards: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (shard, row group) of every row group, and the first row of each with the end as one more."""
    import pyarrow.parquet as pq

    groups, starts = [], [0]
    for shard, path in enumerate(shards):
        try:
            metadata = pq.read_metadata(arrow_path(path))
        except Exception as error:
            raise InputError(f"{path} can't be read as a Parquet file: {error}") from error
        for group in range(metadata.num_row_groups):
            groups.append((shard, group))
            starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return np.array(groups, dtype=np.int64).reshape(-1, 2), np.array(starts, dtype=np.int64)
