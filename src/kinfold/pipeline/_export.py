"""Taking a run away, in the formats of other programs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.errors import InputError
from kinfold.progress import SILENT, Progress
from kinfold.run import Run

if TYPE_CHECKING:
    from kinfold.exports import Exported
    from kinfold.images import ImageSource

logger = logging.getLogger(__name__)


def export(
    run: Run | str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    source: str | Path | None = None,
    link: str = "auto",
    force: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write a run for other programs: groups and names as corrected, confidence, marks.

    Parameters
    ----------
    run : Run or path
        A finished run. Nothing in it changes, and no original does.
    to : str
        ``"csv"`` or ``"parquet"``: a table; ``"folders"``: a folder per group; ``"imagefolder"`` (of Hugging
        Face), ``"coco"``, ``"fiftyone"``: folders as these programs read them; ``"html"``: a page;
        ``"onnx"``: the classifier; ``"embedding-atlas"``: its Parquet. See docs/formats.md.
    out : path, optional
        The file or folder to write, outside the run; by default ``<name of the run>.csv``, or
        ``<name of the run>-folders`` and so on, in the current folder.
    source : path, optional
        Where the images are now, if they were moved.
    link : {"auto", "hard", "symlink", "copy"}, default "auto"
        How image files get into a folder. ``"auto"`` makes hard links where that is possible, else copies.
        Images inside archives and tables are always written out.
    force : bool, default False
        Replace an earlier export of the same kind. Anything else is never replaced.
    progress : Progress
        Shows the work.

    Returns
    -------
    Exported
        ``path``, ``n_images``, ``n_groups``, ``n_unsorted``, and ``missing``: the images whose originals were
        not to be had, each with ``row``, ``key`` and ``reason``; all others are exported.

    Raises
    ------
    InputError
        There is no such format; something is at ``out``; or images are needed that can't be found.
    FormatError
        The run or its corrections are damaged.
    MissingExtraError
        ``"onnx"`` without the package onnx.
    """
    from kinfold.exports import export as write
    from kinfold.exports import find_format

    form = find_format(to)
    run = run if isinstance(run, Run) else Run.open(run)
    if out is None:
        stem = run.path.resolve().name.removesuffix(".kinfold")
        out = f"{stem}{form.endings[0]}" if form.endings else f"{stem}-{to}"
    images = _find_images(run, source, needed=form.needs_images) if form.uses_images else None
    return write(run, to, Path(out), images=images, link=link, force=force, progress=progress)


def _find_images(run: Run, source: str | Path | None, *, needed: bool) -> ImageSource | None:
    if source is not None or needed:
        return run.images(source)
    try:
        return run.images()
    except InputError as error:
        logger.warning("the export will have no pictures: %s", error)
        return None
