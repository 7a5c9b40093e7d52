"""report.html: a run as one page that opens from disk, now and in ten years."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kinfold.gallery._groups import MAX_SHEETS, Grouping, arrange_groups, plan_sheets
from kinfold.gallery._html import render_template
from kinfold.gallery._page import Page, build_page
from kinfold.gallery._thumbnails import Thumbnail, make_thumbnails
from kinfold.progress import SILENT, Progress
from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.images import ImageSource
    from kinfold.run import Run


@dataclass(frozen=True)
class Shown:
    """Other groups than the run's own, for its page to show: those that people made of them.

    Attributes
    ----------
    labels : NDArray of int (N,)
        Group of every row of the run's assignments; −1 for none.
    names : Mapping of int to str
        The groups that there are, and what each is called; empty where it has no name.
    """

    labels: NDArray[np.integer]
    names: Mapping[int, str]

    @classmethod
    def of(cls, run: Run) -> Shown:
        """Return the run's own groups."""
        names = dict.fromkeys(range(run.n_clusters), "")
        return cls(run.labels, {**names, **{group: name.noun or "" for group, name in run.names.items()}})


def write_report(
    run: Run,
    images: ImageSource | None,
    path: Path,
    *,
    shown: Shown | None = None,
    progress: Progress = SILENT,
) -> Path:
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
    shown : Shown, optional
        Corrected groups; by default the run's own.
    progress : Progress
        Shown while thumbnails are made.

    Returns
    -------
    Path
        ``path``.
    """
    corrected, shown = shown is not None, shown or Shown.of(run)
    plan = plan_sheets(min(len(shown.names), MAX_SHEETS))
    confidence = run.assignments.column("confidence").to_numpy()
    grouping = arrange_groups(shown.labels, confidence, shown.names, plan)
    thumbnails: dict[int, Thumbnail] | None = None
    if images is not None:
        thumbnails = make_thumbnails(
            images, _rows_shown(run, grouping), plan.side, plan.max_bytes, progress=progress
        )
    text = render_page(build_page(run, grouping, thumbnails, shown.names, corrected=corrected))
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_page(page: Page) -> str:
    """Return the HTML of a page."""
    return render_template("report.html.j2", styles=("report.css",), script="report.js", page=page)


def _rows_shown(run: Run, grouping: Grouping) -> list[int]:
    places = [np.concatenate([sheet.top, sheet.least]) for sheet in grouping.sheets]
    rows = run.assignments.column("row").to_numpy()
    return [int(row) for row in rows[np.concatenate(places)]] if places else []
