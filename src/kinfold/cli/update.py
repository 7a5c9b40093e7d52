"""``kinfold update``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import MOST_ROWS, Terminal, make_list, make_table
from kinfold.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kinfold.pipeline import Updated
    from kinfold.run import Run

_WORDS = {
    "came": "new images, in groups now",
    "went": "no longer there",
    "moved": "renamed or moved: rows, groups and corrections kept",
    "changed": "other content under the same name: new images",
    "returned": "there again, with the rows that they had",
    "unreadable": "new files that can't be used: see skipped.parquet",
    "unread": "can't be read now: kept as they are",
    "embedded": "vectors computed",
}


@app.command(
    epilog="Examples: [bold]kinfold update run[/bold] after files came or went, "
    "[bold]kinfold update run --undo[/bold]"
)
def update(
    run: options.RunPath,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="The images as they are now; where they were, if not given.",
            show_default=False,
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last update back.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show what all updates did, and do nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where fewer than half of the run's images are there.")
    ] = False,
    backbone: options.MovedBackbone = None,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    workers: options.Workers = None,
    path_column: options.PathColumn = None,
    image_column: options.ImageColumn = None,
    key_column: options.KeyColumn = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Take in what became of a run's images: new, gone, renamed and replaced files. Its groups stay.

    Only new content is embedded; names and corrections stay with their images.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    if undo and (history or source is not None):
        raise InputError("--undo takes the last update back; give it without SOURCE and --history")
    from kinfold import pipeline
    from kinfold.run import Run

    if history:
        _show_history(terminal, Run.open(run))
        return
    if undo:
        done = pipeline.undo_update(run, progress=terminal.progress)
        _show(terminal, done, {"taken back": f"update {done.number}"})
        return
    columns = {"path_column": path_column, "image_column": image_column, "key_column": key_column}
    done = pipeline.update(
        run,
        source,
        force=force,
        source_options=columns if any(columns.values()) else None,
        backbone=backbone,
        device=device,
        engine=engine,
        n_workers=workers,
        progress=terminal.progress,
    )
    if not done.changed:
        told = f"nothing changed in {done.source}"
        unread = done.counts.get("unread", 0)
        terminal.show(
            done.as_dict(), make_list({"update": told, **({"unread": f"{unread:,}"} if unread else {})})
        )
        return
    _show(terminal, done, {"update": f"{done.number}, of {done.source}"})


def _show(terminal: Terminal, done: Updated, facts: Mapping[str, str]) -> None:
    counts = [(what, f"{done.counts[what]:,}", _WORDS[what]) for what in _WORDS if done.counts.get(what)]
    what = make_table(("what", "images", ""), counts)
    if counts:
        what.columns[2].justify = "left"
    touched = sorted(
        (group for group in done.groups if group["came"] or group["went"]),
        key=lambda group: (-group["came"], -group["went"], group["cluster"]),
    )
    rows: list[tuple[str, ...]] = [
        (
            str(group["cluster"]),
            f"{group['came']:,}",
            f"{group['went']:,}",
            f"{group['size']:,}",
            group["name"] or "",
        )
        for group in touched[:MOST_ROWS]
    ]
    if len(touched) > MOST_ROWS:
        rows.append((f"{len(touched) - MOST_ROWS:,} more", "", "", "", ""))
    groups = make_table(("group", "came", "went", "size now", "name"), rows)
    tables: list[RenderableType] = []
    for table, lines in ((what, counts), (groups, rows)):
        tables += [table, ""] if lines else []
    terminal.show(done.as_dict(), *tables, make_list(facts))


def _show_history(terminal: Terminal, run: Run) -> None:
    entries: list[dict[str, Any]] = (run.manifest.updates or {}).get("history", [])
    rows = []
    for entry in entries:
        told = ", ".join(f"{what} {entry['counts'][what]:,}" for what in _WORDS if entry["counts"].get(what))
        undone = "" if entry["undone"] is None else "; taken back"
        rows.append((str(entry["number"]), entry["time"].removesuffix("+00:00"), f"{told}{undone}"))
    if rows:
        table = make_table(("update", "time (UTC)", "images"), rows)
        table.columns[2].justify = "left"
        terminal.show(entries, table)
    else:
        terminal.show(entries, make_list({"history": "this run was never updated"}))
