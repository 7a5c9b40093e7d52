"""One door to every kind of source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from kinfold.errors import InputError
from kinfold.images._archives import TarSource, ZipSource
from kinfold.images._folder import FolderSource, has_magic, is_clutter, is_own_folder, parse_pattern
from kinfold.images._formats import EXTENSIONS
from kinfold.images._keys import encode_key
from kinfold.images._source import ImageSource, describe_os_error
from kinfold.images._tables import ImageTableSource, PathTableSource, column_types, holds_images

_TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")
_TARS = (".tar",)
_PARQUETS = (".parquet", ".pq")
_FEATURES = (".npy", ".npz", ".safetensors")
_SUGGESTION = "; give a folder, an archive or a table of images, or a pattern such as photos/*.jpg"
_BESIDE_SHARDS = (".json", ".jsonl", ".md", ".txt", ".yaml", ".yml", ".csv", ".index", ".idx")


def open_source(
    spec: str | Path,
    *,
    path_column: str | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
) -> ImageSource:
    """Open whatever holds images.

    Parameters
    ----------
    spec : str or Path
        A folder, one image, a zip archive, a tar file, a CSV, TSV or Parquet file, or a pattern such as
        ``photos/**/*.jpg``, ``shard-{000..099}.tar``, ``data/*.parquet``. A folder in which there are only
        ``.tar`` or only ``.parquet`` files (and notes such as ``README.md``) is read as shards.
    path_column, image_column, key_column : str, optional
        Columns of a table: of the paths, of the images themselves, and of the keys.

    Returns
    -------
    ImageSource
        With one row at least.

    Raises
    ------
    InputError
        There is no such thing, it can't be read, or there is nothing in it.
    """
    columns = {"path_column": path_column, "image_column": image_column, "key_column": key_column}
    text = os.path.expanduser(os.fspath(spec))
    if os.path.lexists(text):
        source = _open_path(text, columns)
    elif has_magic(text):
        source = _open_pattern(text, columns)
    else:
        raise InputError(f"{text} doesn't exist; check the path{_SUGGESTION}")
    if len(source) == 0:
        raise InputError(f"{source.uri} holds no files that could be images{_SUGGESTION}")
    if source.kind != "table" and any(columns.values()):
        given = ", ".join(name for name, value in columns.items() if value)
        raise InputError(f"{given} is for tables, but {source.uri} is read as {source.kind}")
    return source


def _open_path(path: str, columns: dict[str, str | None]) -> ImageSource:
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        shards = _find_shards(path)
        return _open_shards(shards, path, columns) if shards else FolderSource(path)
    if not os.path.isfile(path):
        raise InputError(f"{path} is neither a folder nor a file")
    if suffix == ".zip":
        return ZipSource(path)
    if suffix in _TARS or path.lower().endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return TarSource([path])
    if suffix in _TABLES:
        return _open_tables([path], path, columns)
    if suffix in _FEATURES:
        raise InputError(f"{path} holds features, not images")
    if suffix in EXTENSIONS:
        return _one_image(path)
    raise InputError(
        f"{path} is no source that is known; use a folder, an image, a pattern such as photos/*.jpg, "
        "or a .zip, .tar, .csv, .tsv or .parquet file"
    )


def _one_image(path: str) -> FolderSource:
    folder, name = os.path.split(os.path.abspath(path))
    only = re.compile(re.escape(encode_key(name)))
    return FolderSource(folder, pattern=only, max_depth=1, kind="glob", uri=os.path.abspath(path))


def _open_pattern(text: str, columns: dict[str, str | None]) -> ImageSource:
    pattern = parse_pattern(text)
    if not pattern.root.is_dir():
        raise InputError(f"{text} can't match anything: there is no folder {pattern.root}")
    uri = os.path.abspath(text)
    source = FolderSource(
        pattern.root, pattern=pattern.regex, max_depth=pattern.max_depth, kind="glob", uri=uri
    )
    if len(source) == 0:
        raise InputError(f"{text} matches no file")
    suffixes = {os.path.splitext(key)[1].lower() for key in source.keys}
    if suffixes <= {*_TARS, *_PARQUETS} and len(suffixes) == 1:
        return _open_shards([os.fspath(source.path(row)) for row in range(len(source))], uri, columns)
    return source


def _find_shards(folder: str) -> list[str]:
    """Return the paths of a folder's shards, if it is a folder of shards."""
    shards: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if is_clutter(os.fsencode(entry.name)) or suffix in _BESIDE_SHARDS:
                    continue
                if entry.is_dir() and is_own_folder(os.fsencode(entry.path)):
                    continue
                if suffix not in (*_TARS, *_PARQUETS) or not entry.is_file():
                    return []
                shards.setdefault(suffix, []).append(entry.path)
    except OSError as error:
        raise InputError(f"{folder} can't be opened: {describe_os_error(error)}") from error
    return next(iter(shards.values())) if len(shards) == 1 else []


def _open_shards(paths: list[str], uri: str, columns: dict[str, str | None]) -> ImageSource:
    if paths[0].lower().endswith(_TARS):
        return TarSource(paths, uri=os.path.abspath(uri))
    return _open_tables(paths, uri, columns)


def _open_tables(paths: list[str], uri: str, columns: dict[str, str | None]) -> ImageSource:
    image_column, path_column, key_column = (
        columns["image_column"],
        columns["path_column"],
        columns["key_column"],
    )
    if image_column and path_column:
        raise InputError("name either path_column or image_column, not both")
    types = column_types(os.path.abspath(paths[0]))
    if image_column or (not path_column and any(holds_images(kind) for kind in types.values())):
        opener: Callable[..., ImageSource] = ImageTableSource
        return opener(paths, image_column=image_column, key_column=key_column, uri=os.path.abspath(uri))
    if len(paths) > 1:
        raise InputError(f"{uri} matches {len(paths)} tables of paths; open one table at a time")
    return PathTableSource(paths[0], path_column=path_column, key_column=key_column)
