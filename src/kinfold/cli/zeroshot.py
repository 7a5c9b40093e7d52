"""``kinfold zeroshot``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import MOST_ROWS, Terminal, count_groups, make_list, make_table

if TYPE_CHECKING:
    pass


@app.command(
    epilog="Example: [bold]kinfold zeroshot photos/ --classes names.txt --out classes.parquet[/bold]"
)
def zeroshot(
    source: options.Source,
    classes: Annotated[
        Path,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Names of the classes, one per line; or ids of WordNet, like n02084071.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The Parquet file to write: row, key, cluster (number of the class), confidence, name.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            "-l",
            metavar="FILE|folder",
            help="Known classes, for the accuracy and for the choice of a synset's lemma.",
            show_default=False,
        ),
    ] = None,
    backbone: options.Backbone = options.DEFAULT_JOINT_BACKBONE,
    text_model: options.TextModel = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    column: options.FeatureColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put images into classes by their names alone, which needs a model like CLIP; nothing is learned.

    Killed or stopped, the same command goes on where it was.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.zero_shot(
        source,
        classes,
        out,
        backbone=backbone,
        text_model=text_model,
        labels=labels,
        device=device,
        precision=precision,
        n_workers=workers,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        progress=terminal.progress,
    )
    named = list(zip(found.classes, found.texts, count_groups(found.table, len(found.classes)), strict=True))
    summary = {
        "predictions": str(out),
        "n_images": found.table.num_rows,
        "accuracy": found.accuracy,
        "n_labeled": found.n_labeled,
        "classes": [{"class": name, "text": text, **facts} for name, text, facts in named],
    }
    ranked = sorted(named, key=lambda entry: -entry[2]["size"])
    rows = [
        (name, text, f"{facts['size']:,}", f"{facts['mean_confidence']:.2f}" if facts["size"] else "")
        for name, text, facts in ranked[:MOST_ROWS]
    ]
    if len(ranked) > MOST_ROWS:
        rest = sum(facts["size"] for _, _, facts in ranked[MOST_ROWS:])
        rows.append((f"{len(ranked) - MOST_ROWS:,} more", "", f"{rest:,}", ""))
    judged = {}
    if found.accuracy is not None:
        judged = {"accuracy": f"{found.accuracy:.4f} on {found.n_labeled:,} labeled images"}
    table = make_table(("class", "read as", "size", "confidence"), rows)
    facts = {"images": f"{found.table.num_rows:,}", **judged, "predictions": str(out)}
    terminal.show(summary, table, "", make_list(facts))
