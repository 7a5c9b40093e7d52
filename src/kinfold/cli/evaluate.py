"""``kinfold evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from kinfold.cli import _options as options
from kinfold.cli._app import app
from kinfold.cli._tables import make_list
from kinfold.cli._terminal import Terminal


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
            help="CSV or Parquet with the columns key and label, or the word folder.",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare the groups of a run with known labels; kinfold report then shows the figures too."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.evaluate(run, labels)
    facts = {
        "accuracy (ACC)": f"{found.accuracy:.4f}",
        "ACC, many to one": f"{found.accuracy_majority:.4f}",
        "NMI": f"{found.nmi:.4f}",
        "ARI": f"{found.ari:.4f}",
        "groups, classes": f"{found.n_groups:,}, {found.n_classes:,}",
        "labeled images": f"{found.n_matched:,}",
        "without label": f"{found.n_without_label:,}",
        "labels without image": _describe_missing(found.n_without_image, found.labels_without_image),
    }
    terminal.show(found.as_dict(), make_list(facts))


def _describe_missing(n_missing: int, first: tuple[str, ...]) -> str:
    if not n_missing:
        return "0"
    named = ", ".join(map(repr, first)) + (", …" if n_missing > len(first) else "")
    return f"{n_missing:,} ({named})"
