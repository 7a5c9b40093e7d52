"""``kinfold predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import (
    Terminal,
    count_groups,
    make_list,
    show_groups,
)

FORMS = ("parquet", "csv", "folders")


@app.command(
    epilog="Examples: [bold]kinfold predict run new-photos/ --out new.csv[/bold], "
    "[bold]kinfold predict run new-photos/ --to folders --out sorted[/bold]"
)
def predict(
    run: options.RunPath,
    source: options.Source,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="What to write: a table (.parquet or .csv: row, key, cluster, confidence, name, "
            "typicality), or a folder; predictions.parquet in the current folder, if not given.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            "-t",
            metavar="FORM",
            help="parquet, csv, or folders (one for each group, with the images); what --out ends in, if not "
            "given.",
            autocompletion=options.complete_from(FORMS),
            show_default=False,
        ),
    ] = None,
    levels: options.Levels = None,
    strays: options.Strays = None,
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="HOW",
            help="How image files get into folders: auto (hard links where possible, else copies), hard, "
            "symlink, copy.",
            autocompletion=options.complete_from(options.LINKS),
        ),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace earlier folders of predictions.")] = False,
    backbone: options.MovedBackbone = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    column: options.FeatureColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put new images into the groups of a run, as corrected; its own images are not needed."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline
    from kinfold.run import Run

    opened = Run.open(run)
    form, place = pipeline.find_predictions_place(out, to)
    table = pipeline.predict(
        opened,
        source,
        place,
        to=form,
        levels=options.read_levels(levels),
        strays=strays,
        backbone=backbone,
        device=device,
        engine=engine,
        n_workers=workers,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        link=link,
        force=force,
        progress=terminal.progress,
    )
    names = pipeline.CorrectedGroups.of(opened).names
    groups = count_groups(table, max(names, default=-1) + 1, names)
    summary = {"predictions": str(place), "to": form, "n_images": table.num_rows, "groups": groups}
    if strays is not None:
        summary["n_strays"] = table.num_rows - sum(group["size"] for group in groups)
    facts = {"images": f"{table.num_rows:,}", "predictions": str(place if out else place.absolute())}
    if strays is not None:
        facts["belong nowhere"] = f"{summary['n_strays']:,}"
    terminal.show(summary, show_groups(groups), "", make_list(facts))
