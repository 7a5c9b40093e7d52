"""The page of a run with corrected groups, as one file."""

from __future__ import annotations

from pathlib import Path

from kinfold.exports._job import Job

_GENERATOR = '<meta name="generator" content="kinfold '


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
