"""``kinfold embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import (
    Terminal,
    count_reasons,
    describe_skipped,
    explain_skipped,
    make_list,
)


@app.command(epilog="Example: [bold]kinfold embed photos/ --backbone hog --out features[/bold]")
def embed(
    source: options.Images,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FEATURES", help="The feature store to write.", show_default=False
        ),
    ],
    backbone: options.Backbone = options.DEFAULT_BACKBONE,
    variants: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            help="Vectors to keep: cls, cls+patches, last4; may be repeated. Default: cls.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Images per batch; found if not given.", show_default=False),
    ] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    engine: options.Engine = "auto",
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn images into vectors, to cluster them later in several ways."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    store = pipeline.embed(
        source,
        out,
        backbone=backbone,
        variants=tuple(variants or ("cls",)),
        device=device,
        precision=precision,
        engine=engine,
        batch_size=batch_size,
        n_workers=workers,
        source_options={"path_column": path_column, "image_column": image_column, "key_column": key_column},
        on_estimate=None if quiet else terminal.tell_estimate,
        progress=terminal.progress,
    )
    dimensions = {name: int(store.matrix(name).shape[1]) for name in store.variants}
    summary = {
        "features": str(store.path),
        "n_rows": store.n_rows,
        "n_usable": len(store.rows),
        "variants": dimensions,
        "skipped": {"total": store.skipped.num_rows, "reasons": count_reasons(store.skipped)},
    }
    facts = {
        "images": f"{len(store.rows):,}",
        "skipped": describe_skipped(store.skipped),
        **explain_skipped(store.skipped),
        "vectors": ", ".join(f"{name} ({dim:,} dimensions)" for name, dim in dimensions.items()),
        "features": str(store.path),
    }
    terminal.show(summary, make_list(facts))
