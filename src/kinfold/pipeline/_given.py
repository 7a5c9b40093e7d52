"""Sources in memory (lists, frames, arrays, images, data sets), written to a file and then given by path.

What lies in a file can be resumed, read by worker processes, and opened later by every command.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kinfold.errors import InputError
from kinfold.features import Features
from kinfold.features.store import is_feature_store
from kinfold.images import ImageSource
from kinfold.paths import arrow_path
from kinfold.rows import check_matrix, to_array
from kinfold.run import GIVEN_PREFIX, is_run, read_manifest
from kinfold.storage import PARTIAL_PREFIX, hash_file

_SOME_TIME = 1_000_000_000  # seconds; the same for all
_BATCH = 256  # images that are encoded together
_IMAGE_NAMES = ("image", "img", "picture", "photo")
_PATH_NAMES = ("path", "file_path", "filepath", "image_path", "file", "file_name", "filename", "image", "img")
_LABEL_NAMES = frozenset(["label", "labels", "target", "targets", "class", "y"])
_CHANNELS = (1, 3, 4)
_WAYS = (
    "a path or a pattern; a list of paths, of images or of vectors; an array or tensor of vectors (N, D) or "
    "of images "
    "(N, height, width, 3); a DataFrame of pandas or polars; or a data set of Hugging Face"
)


@dataclass(frozen=True)
class Given:
    """A source as it can be opened: a path, or something open already.

    Attributes
    ----------
    source : path, ImageSource or Features
        What to open.
    options : Mapping
        How to open it.
    out : Path or None
        Where the run is to be, where that follows from what was given.
    """

    source: Any
    options: Mapping[str, Any] | None
    out: Path | None = None


@contextmanager
def given_source(source: Any, options: Mapping[str, Any] | None) -> Iterator[Given]:
    """Yield what to open in place of ``source``; what is in memory lies in a temporary file meanwhile."""
    if _is_open_or_path(source):
        yield Given(source, options)
        return
    with tempfile.TemporaryDirectory(prefix="kinfold-") as folder:
        content = read_given(source, options)
        written = content.write(Path(folder))
        # A table is known by its age too, and the same content given again should go on with what was done.
        os.utime(written, (_SOME_TIME, _SOME_TIME))
        yield Given(written, content.options)


@contextmanager
def kept_source(
    source: Any, options: Mapping[str, Any] | None, out: Path | None, prefix: str | None = None
) -> Iterator[Given]:
    """Yield what to open in place of ``source``; what is in memory is kept in a file named after its content.

    Parameters
    ----------
    source : object
        What the user named.
    options : Mapping or None
        How to open it.
    out : Path or None
        The run, which the file is kept in; None names one after the content, in the current folder.
    prefix : str, optional
        Keep it beside ``out`` instead, under a name that begins so.
    """
    if _is_open_or_path(source):
        yield Given(source, options, out)
        return
    content = read_given(source, options)
    parent = Path.cwd() if out is None else out.absolute().parent
    new_parent = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}given-", dir=parent))
    try:
        written = content.write(partial)
        if out is None:
            out = parent / f"{content.kind}-{written.stem.removeprefix(GIVEN_PREFIX)[:8]}.kinfold"
        home = out if prefix is None else out.absolute().parent
        if prefix is None and out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; give a folder for a run (out=)")
        new_home = new_parent if home == parent else not home.exists()
        home.mkdir(parents=True, exist_ok=True)
        kept = home / f"{prefix or ''}{written.name}"
        is_new = not kept.exists()
        # Else it stays as old as it is: its age is part of what a table is known by.
        if is_new or hash_file(kept) != hash_file(written):
            os.replace(written, kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    try:
        yield Given(kept, content.options, out)
    except BaseException:
        # Of work that was refused nothing is left; what was begun goes on from its file.
        begun = _is_run_of(home, kept) if prefix is None else is_feature_store(out)
        if is_new and not begun:
            kept.unlink(missing_ok=True)
            if new_home and not any(home.iterdir()):
                home.rmdir()
        raise


def _is_run_of(home: Path, kept: Path) -> bool:
    return is_run(home) and read_manifest(home).source.get("uri") == str(kept.absolute())


def _is_open_or_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike | ImageSource | Features)


@dataclass(frozen=True)
class Content:
    """What was given, ready to be written.

    Attributes
    ----------
    kind : str
        "images" or "vectors".
    suffix : str
        Of the file.
    writer : callable
        Writes it to a path.
    options : Mapping
        How the file is to be opened.
    """

    kind: str
    suffix: str
    writer: Callable[[Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write the file and return its path, which is named after its content."""
        partial = folder / f"{PARTIAL_PREFIX}given{self.suffix}"
        try:
            self.writer(partial)
        except UnicodeEncodeError as error:
            raise InputError(
                f"a path or key can't be written down, as it isn't valid Unicode ({error.object[:100]!r}); "
                f"give the "
                "folder itself as the source, which takes any name"
            ) from error
        named = folder / f"{GIVEN_PREFIX}{hash_file(partial)[:16]}{self.suffix}"
        os.replace(partial, named)
        return named


def read_given(source: Any, options: Mapping[str, Any] | None) -> Content:
    """Understand a source in memory.

    Raises
    ------
    InputError
        It is none, or empty, or holds what can't be used; the message says what can.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    if _is_dataset(source):
        return _from_columns(_Columns.of_dataset(source), options)
    if isinstance(source, pa.Table) or _is_frame(source):
        return _from_columns(_Columns.of_frame(source), options)
    if options:
        raise InputError(f"{next(iter(options))} is for tables; what was given is a {type(source).__name__}")
    if isinstance(source, Mapping):
        return _from_items(list(source.values()), [str(key) for key in source])
    array = to_array(source)
    if hasattr(array, "toarray"):
        raise InputError("source is a sparse matrix; give a dense one (X.toarray())")
    if isinstance(array, np.ndarray):
        return _from_array(array, None)
    if isinstance(source, Sized) and hasattr(source, "__getitem__") and not isinstance(source, bytes):
        return _from_items(source, None)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        raise InputError(
            f"source is a {type(source).__name__}, which can be read once only; make it a list (list(source))"
        )
    raise InputError(f"source is a {type(source).__name__}; give {_WAYS}")


def _from_array(array: NDArray[Any], keys: Sequence[str] | None) -> Content:
    if array.dtype == object:
        return _from_items(list(array), keys)
    if array.ndim == 2:
        return _vectors(array, keys)
    if array.ndim in (3, 4) and len(array):
        return _images([_as_picture(one, place) for place, one in enumerate(array)], keys)
    raise InputError(f"source is an array of the shape {array.shape}; give {_WAYS}")


def _vectors(matrix: NDArray[Any], keys: Sequence[str] | None) -> Content:
    check_matrix(tuple(matrix.shape), matrix.dtype, "source")
    if matrix.dtype.kind == "f" and matrix.dtype.itemsize > 8:
        raise InputError("source holds numbers of more than 64 bits; make them float32 (X.astype('float32'))")

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            if keys is None:
                np.save(stream, np.ascontiguousarray(matrix), allow_pickle=False)
            else:
                np.savez(stream, features=np.ascontiguousarray(matrix), keys=np.array(keys, dtype=str))

    return Content("vectors", ".npy" if keys is None else ".npz", write)


def _from_items(items: Any, keys: Sequence[str] | None) -> Content:
    """Understand a sequence by its first element."""
    if not len(items):
        raise InputError("source is empty; give at least one image or vector")
    first = _unpack(items[0])
    if isinstance(first, str | os.PathLike):
        return _paths([items[place] for place in range(len(items))], keys)
    if isinstance(first, Image.Image | bytes) or (_is_array(first) and np.ndim(to_array(first)) in (2, 3)):
        return _images((_unpack(items[place]) for place in range(len(items))), keys, len(items))
    if _is_array(first) or isinstance(first, Sequence):
        return _vectors(_stack([to_array(items[place]) for place in range(len(items))]), keys)
    raise InputError(f"source is a {type(items).__name__} of {type(first).__name__}; give {_WAYS}")


def _unpack(item: Any) -> Any:
    """Return the image of an item of a data set: the first of (image, label)."""
    if isinstance(item, tuple) and item and isinstance(item[0], Image.Image | str | os.PathLike | np.ndarray):
        return item[0]
    if isinstance(item, tuple) and item and hasattr(item[0], "detach"):
        return item[0]
    return item


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _stack(rows: list[Any]) -> NDArray[Any]:
    lengths = {np.shape(row) for row in rows}
    if len(lengths) > 1:
        place = next(i for i, row in enumerate(rows) if np.shape(row) != np.shape(rows[0]))
        raise InputError(
            f"the vectors of source differ in length: element {place} has the shape {np.shape(rows[place])}, "
            f"the first has {np.shape(rows[0])}; make all of one shape"
        )
    return np.asarray(rows)


def _paths(items: list[Any], keys: Sequence[str] | None) -> Content:
    for place, item in enumerate(items):
        if not isinstance(item, str | os.PathLike):
            raise InputError(f"source is a list of paths, but element {place} is a {type(item).__name__}")
    texts = [os.fsdecode(item) for item in items]
    if texts[0] and Path(texts[0]).is_dir():
        raise InputError(
            f"source is a list, and {texts[0]} in it is a folder; give one folder by its path, several as a "
            f"pattern "
            "(photos/{a,b}/**), or a list of files"
        )
    absolute = [os.path.abspath(os.path.expanduser(text)) if text else "" for text in texts]
    named = _different(list(keys) if keys is not None else texts)

    def write(path: Path) -> None:
        columns = {"path": pa.array(absolute, pa.string()), "key": pa.array(named, pa.string())}
        pq.write_table(pa.table(columns), arrow_path(path, "wb"), compression="zstd")

    return Content("images", ".parquet", write, {"path_column": "path", "key_column": "key"})


def _images(items: Iterable[Any], keys: Sequence[str] | None, n: int | None = None) -> Content:
    n_items = len(items) if isinstance(items, Sized) else n
    assert n_items is not None
    named = _different(list(keys)) if keys is not None else [str(place) for place in range(n_items)]

    def write(path: Path) -> None:
        schema = pa.schema([("image", pa.binary()), ("key", pa.string())])
        with pq.ParquetWriter(
            arrow_path(path, "wb"), schema, compression="none"
        ) as writer:  # images are compressed already
            batch: list[bytes | None] = []
            start = 0
            for place, item in enumerate(items):
                batch.append(_encode(item, place))
                if len(batch) == _BATCH or place == n_items - 1:
                    block = [pa.array(batch, pa.binary()), pa.array(named[start : place + 1], pa.string())]
                    writer.write_table(pa.table(block, schema=schema))
                    batch, start = [], place + 1

    return Content("images", ".parquet", write, {"image_column": "image", "key_column": "key"})


def _encode(item: Any, place: int) -> bytes | None:
    """Return an image as the bytes of a file; None where there is none."""
    if item is None or isinstance(item, bytes):
        return item
    if isinstance(item, Mapping):  # of Hugging Face
        data, path = item.get("bytes"), item.get("path")
        if data is None and path:
            try:
                return Path(path).read_bytes()
            except OSError:
                return None
        return None if data is None else bytes(data)
    picture = item if isinstance(item, Image.Image) else _as_picture(to_array(item), place)
    picture = ImageOps.exif_transpose(picture)  # the file won't say any more how the camera was held
    stream = io.BytesIO()
    try:
        picture.save(stream, "PNG", compress_level=1)
    except OSError:  # PNG has no such mode: CMYK, floating point
        stream = io.BytesIO()
        picture.save(stream, "TIFF")
    return stream.getvalue()


def _as_picture(pixels: Any, place: int) -> Image.Image:
    """Return an array of pixels as an image: height × width, with channels last or first."""
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and pixels.shape[-1] not in _CHANNELS and pixels.shape[0] in _CHANNELS:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in _CHANNELS)) or not pixels.size:
        raise InputError(f"image {place} has the shape {pixels.shape}; give height × width × 3 (or 1, or 4)")
    if pixels.dtype.kind == "f" and np.nanmin(pixels) >= 0 and np.nanmax(pixels) <= 1:
        pixels = np.rint(np.nan_to_num(pixels) * 255).astype(np.uint8)
    elif pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise InputError(
            f"image {place} has pixels of the type {pixels.dtype}, from {pixels.min()} to {pixels.max()}; "
            f"give uint8 "
            "from 0 to 255, or floating point from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _different(keys: list[str]) -> list[str]:
    """Return keys, the second of a name as ``name#2``."""
    taken, found = set(keys), []
    seen: set[str] = set()
    for key in keys:
        name, number = key, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{key}#{number}"
        seen.add(name)
        found.append(name)
    return found


def _is_frame(source: Any) -> bool:
    return type(source).__module__.split(".")[0] in ("pandas", "polars") and hasattr(source, "columns")


def _is_dataset(source: Any) -> bool:
    return type(source).__module__.split(".")[0] == "datasets" and hasattr(source, "column_names")


@dataclass(frozen=True)
class _Columns:
    """A table in memory, whatever its library."""

    names: list[str]
    n_rows: int
    values: Callable[[str], Iterator[Any]]
    index: list[str] | None = None

    @classmethod
    def of_frame(cls, frame: Any) -> _Columns:
        if isinstance(frame, pa.Table):
            return cls(list(frame.column_names), frame.num_rows, lambda name: _python_values(frame[name]))
        index = None
        if type(frame).__module__.split(".")[0] == "pandas":
            if type(frame.index).__name__ != "RangeIndex":
                index = [str(value) for value in frame.index]
            if len(set(frame.columns)) < len(frame.columns):
                raise InputError("source has two columns of one name; rename one")
        names = {str(name): name for name in frame.columns}
        return cls(list(names), len(frame), lambda name: iter(frame[names[name]].to_list()), index)

    @classmethod
    def of_dataset(cls, dataset: Any) -> _Columns:
        if not isinstance(dataset.column_names, list) or not hasattr(dataset, "__len__"):
            if isinstance(dataset, Mapping):
                raise InputError(
                    f"source holds several splits ({', '.join(map(str, dataset))}); give one of them"
                )
            raise InputError(
                "source is a streamed data set; load it whole (load_dataset(…, streaming=False))"
            )

        def values(name: str) -> Iterator[Any]:
            for start in range(0, len(dataset), _BATCH):
                # As Arrow: images stay the bytes that they are.
                some = arrow[start : start + _BATCH]
                yield from some[name].to_pylist()

        arrow = dataset.with_format("arrow")
        return cls(list(dataset.column_names), len(dataset), values)

    def kind(self, name: str) -> str:
        """Return what a column holds: image, vector, text, number, or nothing that is known."""
        value = next((value for value in self.values(name) if not _is_missing(value)), None)
        if isinstance(value, Image.Image | bytes) or (isinstance(value, Mapping) and "bytes" in value):
            return "image"
        if isinstance(value, str | os.PathLike):
            return "text"
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return "number"
        shape = np.shape(to_array(value)) if _is_array(value) or isinstance(value, Sequence) else ()
        return {1: "vector", 2: "image", 3: "image"}.get(len(shape), "other")


def _python_values(column: pa.ChunkedArray) -> Iterator[Any]:
    for start in range(0, len(column), _BATCH):
        yield from column.slice(start, _BATCH).to_pylist()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _from_columns(table: _Columns, options: Mapping[str, Any]) -> Content:
    if not table.n_rows:
        raise InputError("source is empty: it has no rows; give one image or vector, or more")
    for option, name in options.items():
        if name not in table.names:
            raise InputError(f"source has no column {name!r} ({option}); it has {', '.join(table.names)}")
    kinds = {name: table.kind(name) for name in table.names}
    keys = _find_keys(table, options)
    chosen = next(
        (options[name] for name in ("column", "image_column", "path_column") if name in options), None
    )
    name = chosen or _choose(kinds, options.get("key_column"))
    if name is None:
        return _vectors(_numbers(table, kinds, options.get("key_column")), keys)
    if kinds[name] == "image":
        return _images(table.values(name), keys, table.n_rows)
    if kinds[name] == "text":
        listed = ["" if _is_missing(value) else os.fspath(value) for value in table.values(name)]
        return _paths(listed, keys)
    if kinds[name] == "vector":
        return _vectors(_rows_of(table, name), keys)
    raise InputError(
        f"column {name!r} of source holds neither images, paths nor vectors; name another column"
    )


def _find_keys(table: _Columns, options: Mapping[str, Any]) -> list[str] | None:
    name = options.get("key_column") or ("key" if "key" in table.names else None)
    if name is None or name == options.get("path_column"):
        return table.index
    return [str(value) for value in table.values(name)]


def _choose(kinds: Mapping[str, str], key_column: str | None) -> str | None:
    """Return the column that holds the images, vectors or paths; None where all are numbers."""
    for kind, usual in (("image", _IMAGE_NAMES), ("vector", ()), ("text", _PATH_NAMES)):
        names = [name for name, found in kinds.items() if found == kind and name not in ("key", key_column)]
        lowered = {name.lower(): name for name in reversed(names)}
        known = next((lowered[name] for name in usual if name in lowered), None)
        if known is not None:
            return known
        if len(names) == 1 and not (kind == "text" and names[0].lower() in _LABEL_NAMES):
            return names[0]
        if len(names) > 1:
            raise InputError(
                f"which column of source holds the {kind}s? It has {', '.join(names)}; name it "
                f"(source_options="
                "{'image_column': …}, 'path_column' or 'column' for vectors)"
            )
    if "key" in kinds and kinds["key"] == "text" and "number" not in kinds.values():
        return "key"
    return None


def _numbers(table: _Columns, kinds: Mapping[str, str], key_column: str | None) -> NDArray[Any]:
    """Return a table of numbers as vectors, refusing labels among them."""
    names = [name for name in table.names if name not in ("key", key_column)]
    wrong = [name for name in names if kinds[name] != "number"]
    if wrong or not names:
        raise InputError(
            f"source has no column of images, paths or vectors, and not all of its columns are numbers "
            f"({', '.join(wrong) or 'it has none'}); it has {', '.join(table.names)}"
        )
    labels = [name for name in names if name.lower() in _LABEL_NAMES]
    if labels:
        raise InputError(
            f"the column {labels[0]!r} of source looks like labels, which no method may see; leave it out"
        )
    return np.column_stack([np.array(list(table.values(name)), np.float64) for name in names])


def _rows_of(table: _Columns, name: str) -> NDArray[Any]:
    """Return a column of vectors as a matrix; a missing one becomes NaN, and so a skipped row."""
    rows = [None if _is_missing(value) else to_array(value) for value in table.values(name)]
    width = next(len(row) for row in rows if row is not None)
    missing = np.full(width, np.nan, np.float32)
    return _stack([missing if row is None else np.asarray(row) for row in rows])
