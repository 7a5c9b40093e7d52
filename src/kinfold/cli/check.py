"""``kinfold check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_table

if TYPE_CHECKING:
    pass


@app.command(
    epilog="Examples: [bold]kinfold check run[/bold], [bold]kinfold check run/features --json[/bold]"
)
def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|STORE|GRAPH",
            help="A run, feature store, neighbor graph, benchmark, relabeling, export, or noun features.",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read all files of a run or store and compare them with their hashes; exit code 2 if one is damaged."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.check(path)
    summary = {
        "path": str(found.path),
        "kind": found.kind,
        "whole": found.is_whole,
        "files": [vars(file) for file in found.files],
    }
    rows = [(file.name, file.state, file.reason) for file in found.files]
    verdict = f"{'all' if found.is_whole else 'not all'} files are as they were written"
    terminal.show(summary, make_table(("file", "state", "reason"), rows), "", f"{found.kind}: {verdict}")
    if not found.is_whole:
        for name, state, reason in rows if quiet and not as_json else ():
            if state in ("damaged", "missing"):
                typer.echo(f"{found.path}: {name} is {state}{f' ({reason})' if reason else ''}", err=True)
        raise typer.Exit(options.EXIT_INPUT)
