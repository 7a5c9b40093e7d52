"""Take a run to people and to other programs: its page, and exports."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.corrections import first_state
from kinfold.errors import InputError, KinfoldError, count_of
from kinfold.images import ImageSource
from kinfold.pipeline._corrected import CorrectedGroups
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, Stages, lock_directory, read_manifest, write_manifest
from kinfold.storage import hash_file

if TYPE_CHECKING:
    from kinfold.exports import Exported

REPORT_NAME = "report.html"
_MOST_SHOWN = 30  # groups in a notebook, about a screen

logger = logging.getLogger(__name__)


def report(run: Run | str | Path, *, source: str | Path | None = None, progress: Progress = SILENT) -> Path:
    """Write ``report.html`` of a finished run: its groups as corrected, and its metrics if it was evaluated.

    Parameters
    ----------
    run : Run or path
        A finished run.
    source : path, optional
        Where the images are now, if they were moved. Images that can't be found at their recorded place
        are left out of the page with a warning; at a place given here they must be found.
    progress : Progress
        Shows the work.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        ``source`` holds other images than the run was made from.
    """
    run = Run.latest(run)
    images = find_images(run, source, "the report")
    with lock_directory(run.path):
        page = _render(Run.latest(run), images, progress)
        _record_page(run.path)
        return page


def _record_page(path: Path) -> None:
    """Renew the hash of the page where a stage recorded that of an earlier one."""
    manifest = read_manifest(path)
    outputs = manifest.stages.get("report", {}).get("outputs", {})
    if REPORT_NAME in outputs and outputs[REPORT_NAME] != (written := hash_file(path / REPORT_NAME)):
        outputs[REPORT_NAME] = written
        write_manifest(path, manifest)


def find_images(
    run: Run, source: str | Path | None, what: str, *, needed: bool = False
) -> ImageSource | None:
    """Open the images of ``run``.

    Images at a place that is given, or that are needed, must be found; others may be gone from their recorded
    place, which a warning says: ``what`` will show no pictures.
    """
    if source is not None or needed:
        return run.images(source)
    try:
        return run.images()
    except InputError as error:
        logger.warning("%s will show no pictures: %s", what, error)
        return None


def run_report_stage(stages: Stages, progress: Progress, source: str | Path | None = None) -> None:
    """Write the page of the run that ``stages`` are of, unless it shows all there is.

    ``source`` is where the images are, if they were moved.
    """
    manifest = stages.manifest
    recorded = manifest.stages
    sections = ("metrics", "source", "backbone", "features", "parameters")
    inputs = {
        "assignments": recorded["assign"]["outputs"],
        **({"names": recorded["name"]["outputs"]} if "name" in recorded else {}),
        **CorrectedGroups.of(Run.open(stages.path)).describe(),
        **{name: getattr(manifest, name) for name in sections},
    }

    def work() -> None:
        run = Run.open(stages.path)
        _render(run, find_images(run, source, "the report"), progress)

    stages.run("report", inputs, (REPORT_NAME,), work)


def _render(run: Run, images: ImageSource | None, progress: Progress) -> Path:
    """Write the page."""
    from kinfold.gallery import write_report

    shown = CorrectedGroups.of(run).shown()
    return write_report(run, images, run.report_path, shown=shown, progress=progress)


def view_run(run: Run) -> str:
    """Return a run as HTML for a notebook: its groups as corrected, the largest first.

    A view never fails: where the corrections can't be read, it shows the method's groups and says so.
    """
    try:
        groups, note = CorrectedGroups.of(run), ""
    except KinfoldError as error:
        groups = CorrectedGroups(run, first_state(run), 0)
        note = f"<p>without its corrections: {escape(str(error))}</p>"
    counted = sorted(groups.count(), key=lambda group: (-group["size"], group["cluster"]))
    n_images = max(len(groups.labels), 1)
    lines = "".join(
        f"<tr><td>{group['cluster']}</td><td style='text-align:left'>{escape(group['name'] or '')}</td>"
        f"<td>{group['size']:,}</td><td>{100 * group['size'] / n_images:.1f} %</td></tr>"
        for group in counted[:_MOST_SHOWN]
    )
    rest = len(counted) - _MOST_SHOWN
    more = f"<p>and {rest:,} more groups</p>" if rest > 0 else ""
    method = escape(str(run.manifest.parameters.get("method", "?")))
    corrected = f", {count_of(groups.n_corrections, 'correction')}" if groups.n_corrections else ""
    return (
        f"<div><p><b>{len(groups.labels):,} images in {count_of(len(counted), 'group')}</b> by {method}"
        f"{corrected}, {run.skipped.num_rows:,} skipped, <code>{escape(str(run.path))}</code></p>"
        "<table><thead><tr><th>group</th><th>name</th><th>images</th><th>share</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>{more}{note}</div>"
    )


def export(
    run: Run | str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    levels: Sequence[int] = (),
    strays: float | None = None,
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
    levels : sequence of int, default none
        Numbers of groups of further levels, for all formats but ``"html"`` and ``"onnx"``: each image has its
        group there too, before any correction, as ``level_K``. ``"folders"`` have a folder for each, from
        coarse to fine, around those of the run's groups.
    strays : float, optional
        Images less typical than this share of their group belong nowhere: they are in no group (−1), with
        the mark ``stray``. 0.01 takes out about 1 % of each group, and as many of new images of the same
        kinds: it is the rate of false alarms. No group is emptied, and what people placed stays. Not for
        ``"onnx"``.
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
    from kinfold.exports import check_takes, find_format
    from kinfold.exports import export as write
    from kinfold.levels import label_levels

    form = find_format(to)
    check_takes(form, levels, strays)
    run = Run.latest(run)
    if out is None:
        stem = run.path.resolve().name.removesuffix(".kinfold")
        out = f"{stem}{form.endings[0]}" if form.endings else f"{stem}-{to}"
    images = None
    if form.uses_images:
        images = find_images(run, source, "the export", needed=form.needs_images)
    further = label_levels(run, levels)
    return write(
        run,
        to,
        Path(out),
        images=images,
        link=link,
        levels=further,
        strays=strays,
        force=force,
        progress=progress,
    )
