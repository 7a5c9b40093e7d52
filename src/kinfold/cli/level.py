"""``kinfold level``."""

from __future__ import annotations

from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, show_groups
from kinfold.errors import InputError

FIT = "fit"


def read_groups(text: str) -> int | None:
    """Return the number of groups that was asked for, None for those of the fit.

    Raises
    ------
    InputError
        It is none.
    """
    if text == FIT:
        return None
    if not text.isascii() or not text.isdecimal():
        raise InputError(f"-k {text!r} is no number of groups; write -k 40, or -k fit to go back")
    return int(text)


@app.command(
    epilog="Examples: [bold]kinfold level run -k 40[/bold], and back again with [bold]kinfold level run -k "
    "fit[/bold]"
)
def level(
    run: options.RunPath,
    n_groups: Annotated[
        str,
        typer.Option(
            "--groups",
            "-k",
            metavar="N|fit",
            help="How many groups with images the run shows from now on; fit goes back to those that "
            "kinfold cluster found.",
            show_default=False,
        ),
    ],
    features: options.MovedFeatures = None,
    source: options.MovedSource = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show a run more coarsely or more finely: other groups of the same tree, without another fit.

    Names and corrections of groups that stay the same are kept, the others until you come back.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    wanted = read_groups(n_groups)
    from kinfold import pipeline
    from kinfold.run import Run

    change = pipeline.level(run, wanted, features=features, source=source, progress=terminal.progress)
    opened = Run.open(run)
    groups = pipeline.CorrectedGroups.of(opened).count()
    page = str(opened.report_path) if opened.report_path.exists() else None
    summary = {**change.as_dict(), "path": None, "run": str(opened.path), "groups": groups, "report": page}
    del summary["path"]
    facts = {
        "level": f"{change.n_groups:,} groups" + (", those of the fit" if change.level is None else ""),
        "before": "those of the fit" if change.before is None else f"{change.before:,} groups",
        "report": page or "none",
    }
    if not change.changed:
        facts = {"level": f"{facts['level']}, as before", "report": facts["report"]}
    if change.carried:
        facts["carried over"] = pipeline.tell_counts(change.carried)
    if change.left:
        facts["left there"] = pipeline.tell_counts(change.left)
    terminal.show(summary, show_groups(groups), "", make_list(facts))
