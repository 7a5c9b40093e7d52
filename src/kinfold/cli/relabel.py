"""``kinfold relabel``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table

if TYPE_CHECKING:
    pass

DEFAULT_CHECK_ROWS = 200_000
RULES = ("leaf", "parent")
LEMMAS = ("vote", "first")


@app.command(
    epilog="Examples: [bold]kinfold relabel photos/ --labels folder --out finer[/bold] where folders are "
    "named by WordNet ids, or "
    "[bold]kinfold relabel photos/ --labels labels.csv --tree tree.csv --rule parent --out finer[/bold]"
)
def relabel(
    source: options.Source,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            metavar="FILE|folder",
            help="CSV or Parquet with the columns key and label, or the word folder.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.", show_default=False)
    ],
    tree: Annotated[
        str,
        typer.Option(
            "--tree",
            metavar="wordnet|FILE",
            help="Which classes lie below which: WordNet, where labels are its ids, or a table with the "
            "columns child and parent.",
        ),
    ] = "wordnet",
    rule: Annotated[
        str,
        typer.Option(
            "--rule",
            help="leaf: down to a class with nothing below. parent: as far as the finer class fits better.",
            autocompletion=options.complete_from(RULES),
            metavar="|".join(RULES),
        ),
    ] = "leaf",
    names: Annotated[
        Path | None,
        typer.Option(
            "--names",
            metavar="FILE",
            help="CSV with the columns id and name: what classes are called, in one row or several each.",
            show_default=False,
        ),
    ] = None,
    lemmas: Annotated[
        str,
        typer.Option(
            "--lemmas",
            help="Which name stands for a class of several: vote, the one that most of its images take, or "
            "first.",
            autocompletion=options.complete_from(LEMMAS),
            metavar="|".join(LEMMAS),
        ),
    ] = "vote",
    backbone: options.Backbone = options.DEFAULT_JOINT_BACKBONE,
    text_model: options.TextModel = None,
    check_rows: Annotated[
        int,
        typer.Option(
            "--check-rows",
            min=0,
            metavar="N",
            help="Most images that calibration and the accuracy of choices are measured on; 0 measures "
            "nothing.",
        ),
    ] = DEFAULT_CHECK_ROWS,
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
    """Refine labels to finer classes of a class tree, by a vision-language model."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    arguments: dict[str, Any] = {"rule": rule, "lemmas": lemmas}  # checked there, and refused by name
    found = pipeline.relabel(
        source,
        labels,
        out,
        tree=tree,
        names=names,
        backbone=backbone,
        text_model=text_model,
        check_rows=check_rows,
        device=device,
        precision=precision,
        n_workers=workers,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        on_estimate=None if quiet else terminal.tell_estimate,
        progress=terminal.progress,
        **arguments,
    )
    terminal.show(
        {"folder": str(found.path), **found.report}, *_describe_relabeling(found.path, found.report)
    )


def _describe_relabeling(folder: Path, report: dict[str, Any]) -> list[Any]:
    moved, joined, checks = report["relabeling"], report["labels"], report["checks"]
    facts = {
        "labeled images": f"{moved['n_labeled']:,}",
        "without label": f"{joined['n_without_label']:,}",
        "labels without image": f"{joined['n_without_image']:,}",
        "could move": f"{moved['n_inner']:,}",
        "moved": f"{moved['n_moved']:,} ({100 * moved['share_of_inner_moved']:.1f} % of these)",
        "classes": f"{moved['n_classes_before']:,}, now {moved['n_classes_after']:,} "
        f"({len(moved['vanished']):,} vanished, {len(moved['appeared']):,} appeared)",
        "sheet": str(folder / "sheet.html"),
    }
    shown: list[Any] = [make_list(facts)]
    if checks["n_rows"]:
        rows = [
            (
                name,
                f"{one['accuracy']:.3f}",
                f"{one['mean_confidence']:.3f}",
                f"{one['expected_calibration_error']:.3f}",
            )
            for name, one in checks["calibration"].items()
        ]
        shown += ["", make_table(("zero-shot among", "accuracy", "confidence", "ECE"), rows)]
    return shown
