"""``kinfold cluster``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import (
    Terminal,
    describe_skipped,
    explain_skipped,
    make_list,
    show_groups,
    summarize_run,
)


@app.command(
    epilog="Example: [bold]kinfold cluster photos/ -k 10 --out run[/bold]  "
    "(then [bold]kinfold explore run[/bold], or open run/report.html)"
)
def cluster(
    source: options.Source,
    n_clusters: Annotated[
        str,
        typer.Option(
            "-k",
            "--n-clusters",
            metavar="K",
            help="How many groups: a number, a range like 5..50 in which to find one, or auto, which finds "
            "one and says why; where none is clear, it is one on the fine side. Other levels: kinfold level.",
        ),
    ] = "auto",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            help="icce (heads and the neighbour graph, their consensus, a classifier), graph (the neighbour "
            "graph alone, quick), temi or scan (heads alone), turtle (labels that are easily learnt), "
            "kmeans (quick), tac (nouns guide it; needs a backbone like "
            "clip-vit-b32), or auto (the one that looks best without labels).",
            autocompletion=options.complete_from(options.METHODS),
        ),
    ] = "icce",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="RUN",
            help="The folder to write; SOURCE's name with .kinfold here, if not given.",
            show_default=False,
        ),
    ] = None,
    backbone: options.Backbone = options.DEFAULT_BACKBONE,
    variant: Annotated[
        str,
        typer.Option("--variant", help="Which vectors of the backbone: cls, cls+patches, last4."),
    ] = "cls",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    engine: options.Engine = "auto",
    neighbors: Annotated[
        int | None,
        typer.Option(
            "--neighbors",
            min=1,
            help="Neighbours per image in the graph (for icce at least).",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Named parameters of the method: paper for those that its authors report, others in the "
            "guide. --set and --neighbors win over it.",
            autocompletion=options.complete_from(options.PRESETS),
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter of the method, like n_heads=8, or space_dims=8,8 for a list; may be repeated.",
            show_default=False,
        ),
    ] = None,
    text_model: options.TextModel = None,
    nouns: options.Nouns = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace the groups of a run that was corrected; its corrections are put aside."
        ),
    ] = False,
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    column: options.FeatureColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Sort images into groups and write a run: groups, model, report.

    Killed or stopped, the same command goes on where it was.
    """
    first = options.is_first_process()
    terminal = Terminal(as_json=as_json and first, quiet=quiet or not first, verbose=verbose)
    from kinfold import pipeline

    run = pipeline.cluster(
        source,
        n_clusters,
        method=method,
        out=out,
        backbone=backbone,
        variant=variant,
        random_state=seed,
        device=device,
        precision=precision,
        engine=engine,
        n_neighbors=neighbors,
        n_workers=workers,
        method_parameters=options.read_parameters(settings or []),
        preset=preset,
        text_model=text_model,
        nouns=nouns,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        report=report,
        force=force,
        on_estimate=terminal.tell_estimate,
        progress=terminal.progress,
    )
    summary = summarize_run(run)
    facts = {
        "images": f"{summary['n_images']:,}",
        **({"groups": f"{choice['chosen']}: {choice['reason']}"} if (choice := summary["choice"]) else {}),
        "skipped": describe_skipped(run.skipped),
        **explain_skipped(run.skipped),
        "run": summary["run"],
        "report": summary["report"] or "none",
        "look": f"kinfold explore {shlex.quote(summary['run'])}",
    }
    terminal.show(summary, show_groups(summary["groups"]), "", make_list(facts))
