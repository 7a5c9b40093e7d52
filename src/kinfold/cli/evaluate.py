"""``kinfold evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list

if TYPE_CHECKING:
    from kinfold.pipeline import Evaluation


@app.command(
    epilog="Examples: [bold]kinfold evaluate run --labels labels.csv[/bold], or "
    "[bold]kinfold evaluate run --labels folder[/bold] where every kind has a folder of its own"
)
def evaluate(
    run: options.RunPath,
    labels: Annotated[
        str,
        typer.Option(
            "--labels",
            "-l",
            metavar="FILE|folder",
            help="CSV or Parquet with the columns key and label, a benchmark's folder, or the word folder.",
            show_default=False,
        ),
    ],
    tree: Annotated[
        str | None,
        typer.Option(
            "--tree",
            metavar="wordnet|FILE",
            help="Count a label's ancestors as right too: the synsets of WordNet, or a table child,parent.",
            show_default=False,
        ),
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Let a key have several rows, a label each.")
    ] = False,
    draws: Annotated[
        int,
        typer.Option(
            "--draws", min=1, help="Of several labels: how often one per image is drawn to map groups."
        ),
    ] = 50,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare the groups of a run, as corrected, with known labels; kinfold report shows the figures."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.evaluate(
        run, labels, tree=tree, multi_label=multi_label, n_draws=draws, random_state=seed
    )
    facts = {
        **_describe_single(found),
        **_describe_several(found),
        **_describe_uncorrected(found),
        "groups, classes": f"{found.n_groups:,}, {found.n_classes:,}",
        "labeled images": f"{found.n_matched:,}",
        "without label": f"{found.n_without_label:,}",
        "labels without image": _describe_missing(found.n_without_image, found.labels_without_image),
    }
    terminal.show(found.as_dict(), make_list(facts))


def _describe_single(found: Evaluation) -> dict[str, str]:
    """Return the figures by one label per image."""
    figures = {
        "accuracy (ACC)": found.accuracy,
        "ACC, many to one": found.accuracy_majority,
        "ACC, mean over classes": found.mean_class_accuracy,
        **{f"top-{k}": value for k, value in found.top_k.items() if k == max(found.top_k) > 1},
        "NMI": found.nmi,
        "AMI": found.ami,
        "ARI": found.ari,
        "purity": found.purity,
        "calibration error": found.calibration_error,
    }
    return {name: f"{value:.4f}" for name, value in figures.items() if value is not None}


def _describe_several(found: Evaluation) -> dict[str, str]:
    """Return the figures by several right labels, and by depth."""
    facts: dict[str, str] = {}
    if found.several is not None:
        accuracies, deviations = found.several.accuracies, found.several.deviations
        for k in sorted({1, max(accuracies)}):
            spread = f" ± {deviations[k]:.4f} of {found.several.n_draws} draws" if k in deviations else ""
            facts[f"top-{k}L ({found.several.kind})"] = f"{accuracies[k]:.4f}{spread}"
        facts["right labels per image"] = f"{found.several.mean_labels:.2f}"
    for line in found.by_depth:
        facts[f"ACC, top-1L at depth {line.depth}"] = (
            f"{line.accuracy:.4f}, {line.accuracy_ancestors:.4f} "
            f"({line.n_classes:,} classes, {line.n_images:,} images)"
        )
    return facts


def _describe_uncorrected(found: Evaluation) -> dict[str, str]:
    """Return what the figures were before people corrected the groups."""
    if found.uncorrected is None:
        return {}
    before = {**_describe_single(found.uncorrected), **_describe_several(found.uncorrected)}
    return {
        "corrections": f"{found.n_corrections:,}",
        "marked, in no group": f"{found.n_marked:,}",
        "before the corrections": ", ".join(f"{name} {value}" for name, value in list(before.items())[:1]),
    }


def _describe_missing(n_missing: int, first: tuple[str, ...]) -> str:
    if not n_missing:
        return "0"
    named = ", ".join(map(repr, first)) + (", …" if n_missing > len(first) else "")
    return f"{n_missing:,} ({named})"
