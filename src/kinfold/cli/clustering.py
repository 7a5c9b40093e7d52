"""The commands that make groups: ``kinfold embed``, ``cluster``, ``predict`` and ``demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import (
    Terminal,
    count_groups,
    count_reasons,
    describe_skipped,
    explain_skipped,
    make_list,
    make_table,
    show_groups,
    summarise_run,
)

# Said here again, so that `kinfold --help` loads no Arrow; a test holds them against the library.
FORMS = ("parquet", "csv", "folders")
LINKS = ("auto", "hard", "symlink", "copy")


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


@app.command(
    epilog="Example: [bold]kinfold cluster photos/ -k 10 --out run[/bold]  "
    "(then [bold]kinfold explore run[/bold], or open run/report.html)"
)
def cluster(
    source: options.Source,
    n_clusters: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--n-clusters",
            min=1,
            metavar="K",
            help="How many groups; must be said. If you don't know, try several, and rather more than fewer.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            help="icce (heads, their consensus, a classifier), temi or scan (heads alone), turtle (labels "
            "that are easily learnt), kmeans (quick), tac (nouns guide it; needs a backbone like "
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
    summary = summarise_run(run)
    facts = {
        "images": f"{summary['n_images']:,}",
        "skipped": describe_skipped(run.skipped),
        **explain_skipped(run.skipped),
        "run": summary["run"],
        "report": summary["report"] or "none",
        "look": f"kinfold explore {shlex.quote(summary['run'])}",
    }
    terminal.show(summary, show_groups(summary["groups"]), "", make_list(facts))


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
            help="What to write: a table (.parquet or .csv: row, key, cluster, confidence, name), or a "
            "folder; predictions.parquet in the current folder, if not given.",
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
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="HOW",
            help="How image files get into folders: auto (hard links where possible, else copies), hard, "
            "symlink, copy.",
            autocompletion=options.complete_from(LINKS),
        ),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace earlier folders of predictions.")] = False,
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
        backbone=backbone,
        device=device,
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
    facts = {"images": f"{table.num_rows:,}", "predictions": str(place if out else place.absolute())}
    terminal.show(summary, show_groups(groups), "", make_list(facts))


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
