"""``kinfold predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, count_groups, make_list, show_groups


@app.command(epilog="Example: [bold]kinfold predict run new-photos/ --out predictions.parquet[/bold]")
def predict(
    run: options.RunPath,
    source: options.Source,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The Parquet file to write: row, key, cluster, confidence.",
            show_default=False,
        ),
    ],
    backbone: options.MovedBackbone = None,
    device: options.Device = "auto",
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    column: options.FeatureColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put new images into the groups of a run; its own images and features are not needed."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline
    from kinfold.run import Run

    opened = Run.open(run)
    table = pipeline.predict(
        opened,
        source,
        out,
        backbone=backbone,
        device=device,
        n_workers=workers,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        progress=terminal.progress,
    )
    groups = count_groups(table, opened.n_clusters)
    summary = {"predictions": str(out), "n_images": table.num_rows, "groups": groups}
    facts = {"images": f"{table.num_rows:,}", "predictions": str(out)}
    terminal.show(summary, show_groups(groups), "", make_list(facts))
