"""Exports of a run for other programs: tables, folders of images, a page and an ONNX model.

:func:`export` writes any format whole or not at all, and never over other files; over an earlier export only
by force. The room isn't called ``export/`` because ``kinfold.export(...)`` is the function.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kinfold import storage
from kinfold._version import __version__
from kinfold.errors import FormatError, InputError
from kinfold.exports._job import Job, Missing, check_link
from kinfold.exports._onnx import is_our_onnx, write_onnx
from kinfold.exports._takeaway import COLUMNS, NO_GROUP, STRAY, Takeaway, take_out
from kinfold.exports._writers import (
    is_csv_of,
    is_our_atlas,
    is_our_csv,
    is_our_parquet,
    write_atlas,
    write_coco,
    write_csv,
    write_csv_file,
    write_csv_table,
    write_fiftyone,
    write_folders,
    write_imagefolder,
    write_parquet,
)
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_directory, atomic_file, hold_output, read_json, write_json
from kinfold.typicality import check_strays
from kinfold.validation import check_choice

if TYPE_CHECKING:
    from kinfold.images import ImageSource
    from kinfold.run import Run

__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "check_link",
    "check_predicted_place",
    "check_takes",
    "export",
    "export_predicted",
    "find_format",
    "is_csv_of",
    "take_out",
    "write_csv_file",
]


MANIFEST_NAME = "manifest.json"
FORMAT = "kinfold-export"
FORMAT_VERSION = 1
# written by file managers when someone looks into a folder; not a change of the export
_CLUTTER = frozenset([".DS_Store", "Thumbs.db", "desktop.ini", ".directory"])
_ELSEWHERE = "choose another place (out=, --out)"


def check_place(out: Path, home: Path) -> None:
    """Raise :class:`InputError` for a path inside the run at ``home``, or below a file."""
    if out.resolve().is_relative_to(home.resolve()):
        raise InputError(f"{out} is inside the run {home}; {_ELSEWHERE}")
    storage.check_place(out)


def check_file(out: Path, is_ours: Callable[[Path], bool], suffixes: tuple[str, ...], *, force: bool) -> None:
    """Check that a file may be written: nothing is there, or by ``force`` an earlier export of its format.

    Raises
    ------
    InputError
        Something else is there, or the suffix is another one.
    """
    if out.is_dir() and not out.is_symlink():
        raise InputError(f"{out} is a folder; give the {suffixes[0]} file to write (out=, --out)")
    if out.suffix.lower() not in suffixes:
        raise InputError(f"{out} must end in {' or '.join(suffixes)}; change its name (out=, --out)")
    if not _is_taken(out):
        return
    if out.is_symlink() or not out.is_file() or not is_ours(out):
        raise InputError(_foreign(out))
    _ask_for_force(out, force)


def check_folder(out: Path, *, force: bool) -> None:
    """Check that a folder may be written: nothing or an empty folder is there, or by ``force`` an export.

    Raises
    ------
    InputError
        Something else is there, or an export that files were added to or removed from.
    """
    if not _is_taken(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise InputError(_foreign(out))
    if next(out.iterdir(), None) is None:
        return
    manifest = read_manifest(out)
    if manifest is None:
        raise InputError(_foreign(out))
    _ask_for_force(out, force)
    if fingerprint(out) != manifest.get("files"):
        raise InputError(
            f"{out} is an export of Kinfold, but files were added or removed since; it was left as it is. "
            f"Move or remove it yourself, or {_ELSEWHERE}"
        )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of an exported folder; None for any other folder."""
    try:
        content = read_json(folder / MANIFEST_NAME)
    except (OSError, FormatError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names of all files below a folder, except the manifest.

    Names are hashed, not contents, so that an export of a million images is checked in seconds. Files that
    file managers write, like ``.DS_Store``, are left out.
    """
    digest = hashlib.sha256()
    for name in _files(os.fsencode(folder)):  # bytes, because a name needn't be valid Unicode
        digest.update(name + b"\0")
    return digest.hexdigest()


def _files(top: bytes) -> Iterator[bytes]:
    for folder, folders, files in os.walk(top):
        folders.sort()  # in place, which os.walk follows: its own order depends on the file system
        inside = os.path.relpath(folder, top)
        if not folders and not files:
            yield inside + b"/"
        for name in sorted(files + [name for name in folders if os.path.islink(os.path.join(folder, name))]):
            if os.fsdecode(name) in _CLUTTER or (inside == b"." and os.fsdecode(name) == MANIFEST_NAME):
                continue
            yield inside + b"/" + name


def _is_taken(out: Path) -> bool:
    return out.exists() or out.is_symlink()


def _foreign(out: Path) -> str:
    return f"{out} exists and isn't an earlier export of this kind; it was left as it is; {_ELSEWHERE}"


def _ask_for_force(out: Path, force: bool) -> None:
    if not force:
        raise InputError(f"{out} is an earlier export; --force (force=True) replaces it, or {_ELSEWHERE}")


_GENERATOR = '<meta name="generator" content="kinfold '

MISSING_NAME = "missing.csv"


def write_html(job: Job) -> None:
    """Write the HTML report of the run, with the corrected groups and names."""
    from kinfold.gallery import Shown, write_report

    takeaway = job.takeaway
    shown = Shown(takeaway.clusters, takeaway.names)
    write_report(takeaway.run, job.images, job.target, shown=shown, progress=job.progress)


def is_our_html(path: Path) -> bool:
    """Tell whether a file is an HTML report of Kinfold."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return _GENERATOR in stream.read(4096)  # it stands in the head, before styles and images
    except OSError:
        return False


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes
    ----------
    name : str
        Name, as ``to=`` and ``--to`` take it.
    title : str
        Description in a few words.
    write : callable
        Function that writes it.
    endings : tuple of str
        Suffixes that the file may have, the usual one first; empty for a folder.
    is_ours : callable
        Function that tells whether a file is an earlier export of this format.
    needs_images, uses_images : bool
        Whether it can't be written without the original images; whether it shows them where it can.
    takes_levels, takes_strays : bool
        Whether it can hold the groups of further levels, and images in no group.
    """

    name: str
    title: str
    write: Callable[[Job], None]
    endings: tuple[str, ...] = ()
    is_ours: Callable[[Path], bool] = lambda path: False
    needs_images: bool = False
    uses_images: bool = False
    takes_levels: bool = True
    takes_strays: bool = True


FORMATS = {
    one.name: one
    for one in (
        Format("csv", "a table", write_csv, (".csv",), is_our_csv),
        Format("parquet", "a table", write_parquet, (".parquet",), is_our_parquet),
        Format("folders", "a folder per group", write_folders, needs_images=True, uses_images=True),
        Format("imagefolder", "Hugging Face", write_imagefolder, needs_images=True, uses_images=True),
        Format("coco", "COCO", write_coco, needs_images=True, uses_images=True),
        Format("fiftyone", "FiftyOne", write_fiftyone, needs_images=True, uses_images=True),
        Format(
            "html",
            "a page",
            write_html,
            (".html", ".htm"),
            is_our_html,
            uses_images=True,
            takes_levels=False,
        ),
        Format(
            "onnx",
            "the classifier",
            write_onnx,
            (".onnx",),
            is_our_onnx,
            takes_levels=False,
            takes_strays=False,
        ),
        Format(
            "embedding-atlas", "Embedding Atlas", write_atlas, (".parquet",), is_our_atlas, uses_images=True
        ),
    )
}


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes
    ----------
    to : str
        Name of the format.
    path : Path
        The file or folder.
    n_images, n_groups : int
        Number of all images of the run, and of its groups as corrected.
    n_unsorted : int
        Number of images that are marked as wrong or noise, or fit no group, and so are in none.
    missing : tuple of Missing
        Images whose originals could not be exported; in a folder ``missing.csv`` lists them too.
    """

    to: str
    path: Path
    n_images: int
    n_groups: int
    n_unsorted: int
    missing: tuple[Missing, ...]


def find_format(to: str) -> Format:
    """Return a format by its name; :class:`InputError` for an unknown one names the nearest."""
    check_choice(list(FORMATS), to=to)
    return FORMATS[to]


def export(
    run: Run,
    to: str,
    out: Path,
    *,
    images: ImageSource | None = None,
    link: str = "auto",
    levels: Mapping[int, NDArray[np.int32]] = MappingProxyType({}),
    strays: float | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Export the corrected groups of a run for other programs: whole or not at all.

    Parameters
    ----------
    run : Run
        The run; its corrections are read when this is called.
    to : str
        Name of a format in :data:`FORMATS`.
    out : Path
        File or folder to write, outside the folder of the run.
    images : ImageSource, optional
        The original images; required by formats with ``needs_images``.
    link : {"auto", "hard", "symlink", "copy"}, default "auto"
        How image files get into a folder. ``"auto"``: hard links where possible, else copies.
    levels : mapping of int to ndarray (N,), default none
        Groups of further levels by their number of groups, from coarse to fine.
    strays : float, optional
        Images less typical than this share of their group are in none, but for those that people placed.
    force : bool, default False
        Replace an earlier export of the same format; anything else is never replaced.
    progress : Progress, default silent
        Shows the steps.

    Returns
    -------
    Exported
        What was written and which images are missing.

    Raises
    ------
    InputError
        The format or way of linking is unknown, ``out`` is taken, inside the run or being written by another
        process, or images are needed and weren't given.
    MissingExtraError
        For ``"onnx"``, where the package onnx isn't installed.
    """
    # all checks come before the run is read, which takes a while for millions of images
    form = find_format(to)
    check_link(link)
    check_takes(form, levels, strays)
    check_strays(run, strays)
    _check_out(form, out, run.path, force)
    if form.needs_images and images is None:
        raise InputError(
            f"format {to!r} needs the original images, and {run.path} doesn't record where they are; say "
            "where (source=, --source)"
        )
    with hold_output(out):
        _check_out(form, out, run.path, force)  # again: another export may have ended here meanwhile
        takeaway = Takeaway.of(run, levels, strays)
        job = Job(takeaway, out, images, link, progress)
        if form.endings:
            with atomic_file(out) as job.target:
                form.write(job)
        else:
            with atomic_directory(out, replace=force) as job.target:
                form.write(job)
                _finish_folder(job, to)
    return Exported(
        to=to,
        path=out,
        n_images=takeaway.table.num_rows,
        n_groups=len(takeaway.groups),
        n_unsorted=int((takeaway.clusters < 0).sum()),
        missing=tuple(job.missing),
    )


def check_takes(form: Format, levels: Collection[int], strays: float | None) -> None:
    """Raise :class:`InputError` where levels or strays are asked for that a format has no place for."""
    if strays is not None and not form.takes_strays:
        raise InputError(
            f"format {form.name!r} has a group for every image; leave strays out (strays=, --strays)"
        )
    if levels and not form.takes_levels:
        raise InputError(
            f"format {form.name!r} has the groups that the run shows alone; leave the levels out (levels=, "
            "--levels), or let the run show another one: kinfold level"
        )


def _check_out(form: Format, out: Path, home: Path, force: bool) -> None:
    check_place(out, home)
    if form.endings:
        check_file(out, form.is_ours, form.endings, force=force)
    else:
        check_folder(out, force=force)


def check_predicted_place(run: Run, out: Path, *, force: bool) -> None:
    """Raise :class:`InputError` unless a folder for :func:`export_predicted` may be written at ``out``."""
    check_place(out, run.path)
    check_folder(out, force=force)


def export_predicted(
    run: Run,
    table: pa.Table,
    names: Mapping[int, str],
    images: ImageSource,
    out: Path,
    *,
    version: int,
    link: str = "auto",
    force: bool = False,
    progress: Progress = SILENT,
) -> tuple[Missing, ...]:
    """Put new images into a folder per group of a run, as the format ``"folders"`` does those of the run.

    Parameters
    ----------
    run : Run
        The run that predicted them.
    table : pyarrow.Table
        The predictions: row, key, cluster (−1: fits no group), confidence, name, typicality, and columns
        ``level_K``.
    names : Mapping of int to str
        Name of every group, empty for one without.
    images : ImageSource
        The new images.
    out : Path
        The folder.
    version : int
        Version of the run's corrections.
    link, force, progress
        As for :func:`export`.

    Returns
    -------
    tuple of Missing
        The images whose originals were not to be had.
    """
    check_predicted_place(run, out, force=force)
    n = len(table)
    columns = {
        **{name: table[name] for name in table.column_names},
        "original_cluster": table["cluster"],
        "mark": pc.if_else(pc.equal(table["cluster"], NO_GROUP), STRAY, pa.scalar(None, pa.string())),
        "by_hand": pa.array([False], pa.bool_()).take(pa.array([0] * n, pa.int8())),
    }
    levels = tuple(
        int(name.removeprefix("level_")) for name in table.column_names if name.startswith("level_")
    )
    ordered = {name: columns[name] for name in (*COLUMNS, *(f"level_{n}" for n in levels))}
    takeaway = Takeaway(run, pa.table(ordered), names, version, levels)
    job = Job(takeaway, out, images, link, progress)
    with atomic_directory(out, replace=force) as job.target:
        write_folders(job)
        _finish_folder(job, "folders")
    return tuple(job.missing)


def _finish_folder(job: Job, to: str) -> None:
    """Write the list of missing images and the manifest of an exported folder."""
    if job.missing:
        lines = [vars(one) for one in job.missing]
        write_csv_table(pa.Table.from_pylist(lines), job.target / MISSING_NAME)
    write_json(job.target / MANIFEST_NAME, {**_describe(job, to), "files": fingerprint(job.target)})


def _describe(job: Job, to: str) -> dict[str, Any]:
    takeaway = job.takeaway
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kinfold": __version__,
        "to": to,
        "run": takeaway.run.path.name,
        "corrections": takeaway.version,
        "link": job.link,
        "n_images": takeaway.table.num_rows,
        "n_missing": len(job.missing),
        **({"levels": list(takeaway.levels)} if takeaway.levels else {}),
        "groups": [vars(group) for group in takeaway.groups],
    }
