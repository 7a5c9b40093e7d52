"""``kinfold demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import (
    Terminal,
    make_list,
    make_table,
)


@app.command(epilog="Example: [bold]kinfold demo --out demo[/bold]  (then open demo/icce/report.html)")
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.", show_default=False)
    ],
    seed: options.Seed = 0,
    device: options.Device = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Go the whole way on handwritten digits: images, features, groups, report, evaluation. No network."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    done = pipeline.run_demo(
        out, random_state=seed, device=device, n_workers=workers, progress=terminal.progress
    )
    rows = [
        (row.method, f"{row.accuracy:.3f}", f"{row.nmi:.3f}", f"{row.ari:.3f}", f"{row.seconds:.1f}")
        for row in done.rows
    ]
    reports = {f"{row.method} report": str(row.report) for row in done.rows}
    terminal.show(
        done.as_dict(), make_table(("method", "ACC", "NMI", "ARI", "seconds"), rows), "", make_list(reports)
    )
