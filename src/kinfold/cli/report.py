"""``kinfold report``."""

from __future__ import annotations

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list


@app.command(epilog="Example: [bold]kinfold report run[/bold]  (then open run/report.html)")
def report(
    run: options.RunPath,
    source: options.MovedSource = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the page of a run anew: as corrected, with its evaluation, or with images that were moved."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    path = pipeline.report(run, source=source, progress=terminal.progress)
    terminal.show({"report": str(path)}, make_list({"report": str(path)}))
