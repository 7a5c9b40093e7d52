"""``kinfold export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list

FORMATS = ("csv", "parquet", "folders", "imagefolder", "coco", "fiftyone", "html", "onnx", "embedding-atlas")
_FIRST_MISSING = 5


@app.command(
    epilog="Example: [bold]kinfold export run --to folders --out sorted[/bold]  (a folder for every group)"
)
def export(
    run: options.RunPath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            "-t",
            metavar="FORMAT",
            help=f"One of {', '.join(FORMATS)}.",
            autocompletion=options.complete_from(FORMATS),
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The file or folder to write; named after the run, in the current folder, if not given.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export; nothing else is ever replaced.")
    ] = False,
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="HOW",
            help="How image files get into a folder: auto (hard links where possible, else copies), hard, "
            "symlink, copy.",
            autocompletion=options.complete_from(options.LINKS),
        ),
    ] = "auto",
    copy: Annotated[bool, typer.Option("--copy", help="The same as --link copy.")] = False,
    levels: options.Levels = None,
    strays: options.Strays = None,
    source: options.MovedSource = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Take a run away for other programs, with names and groups as corrected."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.export(
        run,
        to,
        out,
        levels=options.read_levels(levels),
        strays=strays,
        source=source,
        link="copy" if copy else link,
        force=force,
        progress=terminal.progress,
    )
    summary = {
        "to": found.to,
        "path": str(found.path),
        "n_images": found.n_images,
        "n_groups": found.n_groups,
        "n_unsorted": found.n_unsorted,
        "missing": [vars(one) for one in found.missing],
    }
    facts = {"images": f"{found.n_images:,}", "groups": f"{found.n_groups:,}", to: str(found.path)}
    if found.n_unsorted:
        facts["unsorted"] = f"{found.n_unsorted:,}"
    terminal.show(summary, make_list(facts))
    for one in found.missing[:_FIRST_MISSING]:
        terminal.tell(f"not exported: {one.key} ({one.reason})")
    if (rest := len(found.missing) - _FIRST_MISSING) > 0:
        terminal.tell(f"and {rest:,} more" + (", in missing.csv" if found.path.is_dir() else ""))
