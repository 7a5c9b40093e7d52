"""Another level of a run becomes its groups."""

from __future__ import annotations

from pathlib import Path

from kinfold.corrections import LevelChange, change_level
from kinfold.pipeline._report import run_report_stage
from kinfold.progress import SILENT, Progress
from kinfold.run import Run, open_run_stages
from kinfold.validation import check_integer


def level(
    run: Run | str | Path,
    n_groups: int | None,
    *,
    features: str | Path | None = None,
    source: str | Path | None = None,
    progress: Progress = SILENT,
) -> LevelChange:
    """Make another level of a finished run its groups, in seconds: fewer and larger, or more within them.

    Coarser groups join those of the fit, finer ones lie within them. Names and corrections of groups that
    hold the same images at both levels are carried over; the others stay with their level, and are there
    again when it is chosen again. What an evaluation found is dropped, the page is written anew if there is
    one. Interrupted anywhere, the run shows the old level or the new one; the same call goes on.

    Parameters
    ----------
    run : Run or path
        A finished run. Open it again afterwards to read its groups: a :class:`~kinfold.Run` that was opened
        before is of the groups of then. Commands that are given it take those of now.
    n_groups : int or None
        How many groups with images, 1 to as many as the tree has leaves; the number of the fit, or None, goes
        back to the groups of the fit.
    features : path, optional
        Where the run's features are now, if they were moved.
    source : path, optional
        Where the images are now, if they were moved; for the page alone.
    progress : Progress
        Shows the work.

    Returns
    -------
    LevelChange
        What was carried over, and what stays with the level that was left.

    Raises
    ------
    InputError
        There is no such level, the run has none, its features are gone, or another process writes into it.
    FormatError
        The levels, the model or the corrections are damaged; nothing was changed.

    Examples
    --------
    >>> import kinfold
    >>> kinfold.level("photos.kinfold", 40).n_groups  # doctest: +SKIP
    40
    """
    path = run.path if isinstance(run, Run) else Path(run)
    if n_groups is not None:
        check_integer(1, n_groups=n_groups)
    Run.open(path)  # refuses what isn't finished
    with open_run_stages(path) as stages:
        change = change_level(stages, n_groups, features=features)
        if Run(path, stages.manifest).report_path.exists():
            run_report_stage(stages, progress, source)
    return change
