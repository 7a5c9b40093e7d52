"""All formats, and the function that writes any of them: whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kinfold._version import __version__
from kinfold.errors import InputError, nearest_name
from kinfold.exports._folders import write_coco, write_fiftyone, write_folders, write_imagefolder
from kinfold.exports._job import Job, Missing, check_link
from kinfold.exports._onnx import is_our_onnx, write_onnx
from kinfold.exports._place import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST_NAME,
    check_file,
    check_folder,
    check_place,
    fingerprint,
)
from kinfold.exports._tables import (
    is_our_atlas,
    is_our_csv,
    is_our_parquet,
    write_atlas,
    write_csv,
    write_csv_table,
    write_parquet,
)
from kinfold.exports._takeaway import Takeaway
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_directory, atomic_file, write_json

if TYPE_CHECKING:
    from kinfold.images import ImageSource
    from kinfold.run import Run

_GENERATOR = '<meta name="generator" content="kinfold '

MISSING_NAME = "missing.csv"


def write_html(job: Job) -> None:
    """Write the page of the run, with groups and names as corrected."""
    from kinfold.gallery import Shown, write_report

    takeaway = job.takeaway
    shown = Shown(takeaway.clusters, takeaway.names)
    write_report(takeaway.run, job.images, job.target, shown=shown, progress=job.progress)


def is_our_html(path: Path) -> bool:
    """Tell whether a file is a page that Kinfold made."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return _GENERATOR in stream.read(4096)
    except OSError:
        return False


@dataclass(frozen=True)
class Format:
    """One of the formats.

    Attributes
    ----------
    name : str
        What it is asked for by.
    title : str
        What it is, in a few words.
    write : callable
        Writes it.
    endings : tuple of str
        What the file may end in, the usual one first; empty: it is a folder.
    is_ours : callable
        Tells whether a file is an earlier export of this kind.
    needs_images, uses_images : bool
        It can't be written without the originals; it shows them where they are.
    """

    name: str
    title: str
    write: Callable[[Job], None]
    endings: tuple[str, ...] = ()
    is_ours: Callable[[Path], bool] = lambda path: False
    needs_images: bool = False
    uses_images: bool = False


FORMATS = {
    one.name: one
    for one in (
        Format("csv", "a table", write_csv, (".csv",), is_our_csv),
        Format("parquet", "a table", write_parquet, (".parquet",), is_our_parquet),
        Format("folders", "a folder per group", write_folders, needs_images=True, uses_images=True),
        Format("imagefolder", "Hugging Face", write_imagefolder, needs_images=True, uses_images=True),
        Format("coco", "COCO", write_coco, needs_images=True, uses_images=True),
        Format("fiftyone", "FiftyOne", write_fiftyone, needs_images=True, uses_images=True),
        Format("html", "a page", write_html, (".html", ".htm"), is_our_html, uses_images=True),
        Format("onnx", "the classifier", write_onnx, (".onnx",), is_our_onnx),
        Format(
            "embedding-atlas", "Embedding Atlas", write_atlas, (".parquet",), is_our_atlas, uses_images=True
        ),
    )
}


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    to : str
        The format.
    path : Path
        The file or folder.
    n_images, n_groups : int
        Images of the run, all of them, and groups that there are.
    n_unsorted : int
        Images marked as wrong or noise: they are in no group.
    missing : tuple of Missing
        Images whose originals could not be exported; also in ``missing.csv`` of a folder.
    """

    to: str
    path: Path
    n_images: int
    n_groups: int
    n_unsorted: int
    missing: tuple[Missing, ...]


def find_format(to: str) -> Format:
    """Return a format by its name; :class:`InputError` names the nearest one."""
    if to not in FORMATS:
        raise InputError(
            f"there is no format {to!r}{nearest_name(str(to), list(FORMATS))}; there are {', '.join(FORMATS)}"
        )
    return FORMATS[to]


def export(
    run: Run,
    to: str,
    out: Path,
    *,
    images: ImageSource | None = None,
    link: str = "auto",
    force: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a run, as corrected, for other programs: whole or not at all.

    Parameters
    ----------
    run : Run
        The run; its corrections are those of this moment.
    to : str
        One of :data:`FORMATS`.
    out : Path
        The file or folder to write, outside the run.
    images : ImageSource, optional
        The originals.
    link : {"auto", "hard", "symlink", "copy"}
        How image files get into a folder. ``"auto"``: hard links where possible, else copies.
    force : bool
        Replace an earlier export of ours; anything else is never replaced.
    progress : Progress
        Shows the work.

    Returns
    -------
    Exported
        What was written and what is missing.

    Raises
    ------
    InputError
        There is no such format, something is at ``out``, or images are needed and not there.
    MissingExtraError
        ``"onnx"`` without the package onnx.
    """
    form = find_format(to)
    check_link(link)
    check_place(out, run.path)
    if form.endings:
        check_file(out, form.is_ours, form.endings, force=force)
    else:
        check_folder(out, force=force)
    if form.needs_images and images is None:
        raise InputError(
            f"{to} needs the images, and {run.path} doesn't know where they are; say where "
            "(source=, --source)"
        )
    takeaway = Takeaway.of(run)
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


def _finish_folder(job: Job, to: str) -> None:
    """List what is missing, and say what the folder is."""
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
        "groups": [vars(group) for group in takeaway.groups],
    }
