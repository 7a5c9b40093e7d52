"""Open any source of images by its path or pattern."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from kinfold.errors import InputError, count_of, nearest_name
from kinfold.images._archives import TarSource, ZipSource
from kinfold.images._folder import FolderSource, has_magic, parse_pattern
from kinfold.images._formats import EXTENSIONS
from kinfold.images._keys import encode_key
from kinfold.images._source import ImageSource
from kinfold.images._tables import ImageTableSource, PathTableSource, column_types, holds_images
from kinfold.tables import PARQUET_SUFFIXES, TABLE_SUFFIXES

_TARS = (".tar",)
_ZIPS = (".zip",)
_COMPRESSED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz", ".7z", ".rar")
_FEATURES = (".npy", ".npz", ".safetensors")
_ARROW = (".arrow",)
_SUGGESTION = "; give a folder, an archive or a table of images, or a pattern such as photos/*.jpg"
# Notes that data sets keep beside their shards; anything else makes a folder a folder of images.
_NOTES = (
    ".json",
    ".jsonl",
    ".md",
    ".txt",
    ".yaml",
    ".yml",
    ".csv",
    ".tsv",
    ".index",
    ".idx",
    ".html",
    ".log",
)
_NOTE_NAMES = ("license", "licence", "readme", "checksums", "md5sums", "sha256sums")
_MOST_EXAMPLES = 3

_log = logging.getLogger(__name__)


def open_source(
    spec: str | Path,
    *,
    path_column: str | None = None,
    image_column: str | None = None,
    key_column: str | None = None,
    base: str | Path | None = None,
) -> ImageSource:
    """Open whatever holds images.

    Parameters
    ----------
    spec : str or Path
        A folder, one image, a zip archive, a tar file, a CSV, TSV or Parquet file, or a pattern such as
        ``photos/**/*.jpg``, ``shard-{000..099}.tar``, ``data/*.parquet``. A folder in which there are, at any
        depth, no images but only tar files, only zip archives or only Parquet files of images (and notes such
        as ``README.md``) is read as one source of these.
    path_column, image_column, key_column : str, optional
        Columns of a table: of the paths, of the images themselves, and of the keys.
    base : str or Path, optional
        Of a table of paths: where relative ones begin, if not at the table.

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
    if base is not None:
        columns["base"] = os.fspath(base)
    text = os.path.expanduser(os.fspath(spec))
    if os.path.lexists(text):
        source = _open_path(text, columns)
    elif has_magic(text):
        source = _open_pattern(text, columns)
    else:
        raise InputError(f"{text} doesn't exist{_find_near(text)}; check the path{_SUGGESTION}")
    if len(source) == 0:
        raise InputError(f"{source.uri} holds no files that could be images{_SUGGESTION}")
    given = ", ".join(name for name, value in columns.items() if value and name != "base")
    if source.kind != "table" and given:
        raise InputError(f"{given} is for tables, but {source.uri} is read as {source.kind}; leave it out")
    return source


def _open_path(path: str, columns: dict[str, str | None]) -> ImageSource:
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _open_folder(FolderSource(path), path, columns)
    if not os.path.isfile(path):
        raise InputError(
            f"{path} is neither a folder nor a file: a broken link, a pipe or a device; give one of the two"
        )
    if suffix in _ZIPS:
        return ZipSource(path)
    if suffix in _TARS or path.lower().endswith(_COMPRESSED):
        return TarSource([path])
    if suffix in TABLE_SUFFIXES:
        return _open_tables([path], path, columns)
    if suffix in _FEATURES:
        raise InputError(f"{path} holds features, not images; give what they were made from")
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
        raise InputError(f"{text} can't match anything: there is no folder {pattern.root}; check the path")
    uri = os.path.abspath(text)
    source = FolderSource(
        pattern.root, pattern=pattern.regex, max_depth=pattern.max_depth, kind="glob", uri=uri
    )
    if len(source) == 0:
        raise InputError(f"{text} matches no file; check the pattern (** stands for folders of any depth)")
    return _open_folder(source, uri, columns, is_pattern=True)


def _find_near(path: str) -> str:
    """Return the deepest folder above a path that isn't there, and the name in it that is nearest."""
    above, name = os.path.split(os.path.abspath(path))
    while not os.path.isdir(above) and above != os.path.dirname(above):
        above, name = os.path.split(above)
    try:
        return f": there is no {name!r} in {above}{nearest_name(name, sorted(os.listdir(above)))}"
    except OSError:
        return ""


def _open_folder(
    source: FolderSource, uri: str, columns: dict[str, str | None], *, is_pattern: bool = False
) -> ImageSource:
    """Return what lies in a folder, or matches a pattern: images, or shards where there are nothing else.

    Downloads leave containers as they were made: img2dataset tar files beside tables about them, the Hugging
    Face hub Parquet files below ``data``, Takeout zip archives. Listed as files, all would be "no image".
    """
    found: dict[str, list[int]] = {}
    for row, key in enumerate(source.keys):
        kind = _kind_of(key)
        if kind == "file" or (kind == "note" and is_pattern):
            kind = "image"
        found.setdefault(kind, []).append(row)
    containers = {kind: rows for kind, rows in found.items() if kind not in ("image", "note")}
    if not containers:
        return source
    if "image" in found:
        _warn_of_containers(source, containers)
        return source
    paths = {kind: [os.fspath(source.path(row)) for row in rows] for kind, rows in containers.items()}
    return _open_containers(paths, os.path.abspath(uri), columns)


def _kind_of(key: str) -> str:
    """Return what a file's name says that it is: image, note, a container, or just a file."""
    name = key.lower()
    suffix = os.path.splitext(name)[1]
    kinds = {
        "tar": _TARS,
        "compressed": _COMPRESSED,
        "zip": _ZIPS,
        "parquet": PARQUET_SUFFIXES,
        "features": _FEATURES,
        "arrow": _ARROW,
    }
    for kind, suffixes in kinds.items():
        if name.endswith(suffixes):
            return kind
    is_note = suffix in _NOTES or os.path.splitext(name.rpartition("/")[2])[0] in _NOTE_NAMES
    return "note" if is_note else "image" if suffix in EXTENSIONS else "file"


def _warn_of_containers(source: FolderSource, containers: dict[str, list[int]]) -> None:
    for kind in ("tar", "zip", "compressed", "parquet"):
        if rows := containers.get(kind):
            named = ", ".join(source.keys[row] for row in rows[:_MOST_EXAMPLES])
            more = ", …" if len(rows) > _MOST_EXAMPLES else ""
            _log.warning(
                "%s lie among the images of %s and aren't opened: %s%s; give them as a source of their "
                "own, or unpack them",
                count_of(len(rows), f"{kind} file") if kind != "compressed" else "compressed files",
                source.uri,
                named,
                more,
            )


def _open_containers(paths: dict[str, list[str]], uri: str, columns: dict[str, str | None]) -> ImageSource:
    """Open the containers of a folder that holds no images; say how to give those that can't be read so."""
    # Beside tar files there is a table about each: one of ten thousand tells what the others are.
    looked_at = paths.get("parquet", [])[: 1 if "tar" in paths else None]
    tables = [path for path in looked_at if _has_images(path)]
    known = [kind for kind in ("tar", "zip") if kind in paths] + ["parquet"] * bool(tables)
    if known == ["tar"]:
        return TarSource(paths["tar"], uri=uri)
    if known == ["zip"]:
        return ZipSource(paths["zip"], uri=uri)
    if known == ["parquet"]:
        return _open_tables(tables, uri, columns)
    if len(known) > 1:
        raise InputError(
            f"{uri} holds no images, but {' and '.join(f'{kind} files' for kind in known)} of them; give one "
            f"kind: {' or '.join(_as_pattern(paths[kind]) for kind in known)}"
        )
    if "compressed" in paths:
        raise InputError(
            f"{uri} holds compressed files, like {paths['compressed'][0]}, in which no image can be read on "
            "its own; unpack them first: gunzip for .tar.gz, then give the folder of .tar files"
        )
    if "arrow" in paths:
        folder = os.path.dirname(paths["arrow"][0])
        raise InputError(
            f"{uri} holds Arrow files, as save_to_disk of Hugging Face's datasets leaves them; save the "
            'images as Parquet, and give that: python -c "import datasets; '
            f"datasets.load_from_disk({folder!r}).to_parquet('images.parquet')\""
        )
    if "features" in paths:
        raise InputError(
            f"{uri} holds features, not images: {_as_pattern(paths['features'])}. Give one such file, or a "
            "folder that holds .npy files of one kind alone (of clip-retrieval: img_emb)"
        )
    if len(paths["parquet"]) == 1:
        return _open_tables(paths["parquet"], paths["parquet"][0], columns)
    raise InputError(
        f"{uri} holds Parquet files without a column of images, like {paths['parquet'][0]}; if it has a "
        "column of paths or vectors, give that file"
    )


def _as_pattern(paths: list[str]) -> str:
    """Return what the user types for some files."""
    suffix = os.path.splitext(paths[0])[1]
    folders = {os.path.dirname(path) for path in paths}
    if len(paths) == 1:
        return paths[0]
    above = folders.pop() if len(folders) == 1 else os.path.commonpath(paths) + "/**"
    return f"'{above}/*{suffix}'"


def _has_images(path: str) -> bool:
    return any(holds_images(kind) for kind in column_types(path).values())


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
    return PathTableSource(paths[0], path_column=path_column, key_column=key_column, base=columns.get("base"))
