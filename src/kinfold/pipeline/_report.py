"""Writing the page of a run anew."""

from __future__ import annotations

import logging
from pathlib import Path

from kinfold.errors import InputError
from kinfold.images import ImageSource
from kinfold.pipeline._stages import Stages
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, lock_directory

REPORT_NAME = "report.html"

logger = logging.getLogger(__name__)


def report(run: Run | str | Path, *, source: str | Path | None = None, progress: Progress = SILENT) -> Path:
    """Write ``report.html`` of a finished run, with its metrics if it was evaluated.

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
    run = run if isinstance(run, Run) else Run.open(run)
    images = run.images(source) if source is not None else find_images(run)
    with lock_directory(run.path):
        return render(run, images, progress)


def find_images(run: Run) -> ImageSource | None:
    """Open the images of ``run`` where they were; None, with a warning, if they are gone."""
    try:
        return run.images()
    except InputError as error:
        logger.warning("the report will show no pictures: %s", error)
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
        **{name: getattr(manifest, name) for name in sections},
    }

    def work() -> None:
        run = Run.open(stages.path)
        render(run, run.images(source) if source is not None else find_images(run), progress)

    stages.run("report", inputs, (REPORT_NAME,), work)


def render(run: Run, images: ImageSource | None, progress: Progress) -> Path:
    """Write the page."""
    from kinfold.gallery import write_report

    return write_report(run, images, run.report_path, progress=progress)
