"""report.html: a run as one page that opens from disk, now and in ten years."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
from markupsafe import Markup

from kinfold.gallery._groups import MAX_SHEETS, Grouping, arrange_groups, plan_sheets
from kinfold.gallery._page import Page, build_page
from kinfold.gallery._thumbnails import Thumbnail, make_thumbnails
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.images import ImageSource
    from kinfold.run import Run


def write_report(run: Run, images: ImageSource | None, path: Path, *, progress: Progress = SILENT) -> Path:
    """Write the page of a run: its groups as contact sheets, its figures, its facts.

    The page is one file whose only script is its own (named by hash in its content security policy). It asks
    nothing of the network and holds at most 25 MB whatever the number of images and groups: the groups of a
    larger run show fewer and smaller thumbnails, and beyond 1,000 groups only the most confident have a
    sheet. The same run and images give the same bytes.

    Parameters
    ----------
    run : Run
        An opened run.
    images : ImageSource or None
        The images the run was made of; only those shown are read. None where the source was ready features or
        the originals are gone: the page then lists keys.
    path : Path
        The file to write, whole or not at all; usually ``RUN/report.html``.
    progress : Progress
        Shown while thumbnails are made.

    Returns
    -------
    Path
        ``path``.
    """
    n_groups = run.n_clusters
    plan = plan_sheets(min(n_groups, MAX_SHEETS))
    confidence = run.assignments.column("confidence").to_numpy()
    grouping = arrange_groups(run.labels, confidence, n_groups, plan)
    thumbnails: dict[int, Thumbnail] | None = None
    if images is not None:
        thumbnails = make_thumbnails(
            images, _rows_shown(run, grouping), plan.side, plan.max_bytes, progress=progress
        )
    text = render_page(build_page(run, grouping, thumbnails))
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_page(page: Page) -> str:
    """Return the HTML of a page."""
    style, script = _static("report.css"), _static("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            style=Markup(style),  # ours, not the user's: the only texts that are not escaped
            script=Markup(script),
            style_hash=_csp_hash(style),
            script_hash=_csp_hash(script),
        )
    )


def _rows_shown(run: Run, grouping: Grouping) -> list[int]:
    places = [np.concatenate([sheet.top, sheet.least]) for sheet in grouping.sheets]
    rows = run.assignments.column("row").to_numpy()
    return [int(row) for row in rows[np.concatenate(places)]] if places else []


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("kinfold.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )


def _static(name: str) -> str:
    return resources.files("kinfold.gallery").joinpath("static").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
