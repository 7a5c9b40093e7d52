"""``kinfold name``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import MOST_ROWS, Terminal, make_list, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from kinfold.run import Run

_PATH_NAMES = 3


@app.command(
    epilog="Examples: [bold]kinfold name run[/bold], or for a run whose backbone knows no words "
    "[bold]kinfold name run --text-model clip-vit-b32[/bold]"
)
def name(
    run: options.RunPath,
    text_model: options.TextModel = None,
    nouns: options.Nouns = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Words per group at most.")] = 5,
    min_separation: Annotated[
        float,
        typer.Option(
            "--min-separation",
            min=0.0,
            max=1.0,
            help="How often an image of the group must lie closer to the word than one of the groups beside "
            "it; 0.5 is chance, 0 asks for nothing.",
        ),
    ] = 0.6,
    levels: Annotated[
        str | None,
        typer.Option(
            "--levels",
            metavar="K,K",
            help="Also name the groups of these levels, numbers of groups such as 5,20: kinfold level shows "
            "them with their names at once.",
            show_default=False,
        ),
    ] = None,
    source: options.MovedSource = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Name the groups of a run by the nouns that fit them and tell them apart.

    Killed or stopped, the same command goes on where it was.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    further = sorted(set(options.read_levels(levels)))
    from kinfold import pipeline
    from kinfold.run import Run

    pipeline.name(
        run,
        text_model=text_model,
        nouns=nouns,
        n_names=top,
        min_separation=min_separation,
        levels=further,
        source=source,
        device=device,
        precision=precision,
        n_workers=workers,
        progress=terminal.progress,
    )
    opened = Run.open(run)
    groups = _summarize(opened)
    n_named = sum(group["name"] is not None for group in groups)
    page = str(opened.report_path) if opened.report_path.exists() else None
    summary = {
        "run": str(opened.path),
        "n_named": n_named,
        "groups": groups,
        "report": page,
        "levels": further,
    }
    facts = {
        "named": f"{n_named:,} of {len(groups):,} groups",
        **({"further levels": ", ".join(map(str, further))} if further else {}),
        "names": str(opened.path / "names.parquet"),
        "report": page or "none",
    }
    terminal.show(summary, _show_names(groups), "", make_list(facts))


def _summarize(run: Run) -> list[dict[str, Any]]:
    """Return every group, as corrected, with its words."""
    from kinfold.pipeline import CorrectedGroups

    words = run.names
    return [
        {
            "cluster": one["cluster"],
            "size": one["size"],
            "name": one["name"],
            "reason": words[one["cluster"]].reason or None,
            "words": [{**vars(word), "path": list(word.path)} for word in words[one["cluster"]].names],
        }
        for one in CorrectedGroups.of(run).count()
    ]


def _show_names(groups: Sequence[dict[str, Any]]) -> Table:
    """Return the names as a table, the largest groups first."""
    ranked = sorted(groups, key=lambda group: (-group["size"], group["cluster"]))
    rows = []
    for group in ranked[:MOST_ROWS]:
        first, *more = group["words"] or [None]
        rows.append(
            (
                str(group["cluster"]),
                f"{group['size']:,}",
                f"{first['separation']:.2f}" if first else "",
                group["name"] or "no name fits",
                ", ".join(word["noun"] for word in more),
                " > ".join(first["path"][1 : 1 + _PATH_NAMES]) if first else group["reason"],
            )
        )
    if len(ranked) > MOST_ROWS:
        rows.append((f"{len(ranked) - MOST_ROWS:,} more", "", "", "", "", ""))
    table = make_table(("group", "size", "separation", "name", "further words", "a kind of"), rows)
    for column in table.columns[3:]:
        column.justify = "left"
    return table
