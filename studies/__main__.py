"""``python -m studies run | list | show``: continue the studies, say what is open, write the tables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kinfold.errors import InputError
from studies.cells import Table
from studies.report import write_page
from studies.results import Results
from studies.runner import ROOT, Settings, estimate, pending, run
from studies.tables import TABLES

RESULTS = ROOT / "studies" / "results.jsonl"
PAGE = ROOT / "docs" / "studies.md"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    options = _parse(arguments)
    results = Results(options.results)
    if options.command == "show":
        write_page(options.page, TABLES, results)
        return
    tables = choose_tables(options.table, options.row)
    if options.command == "list":
        _list(tables, options.seeds, results)
        return
    settings = Settings(options.data, options.threads, options.timeout, options.minutes, options.retry)
    count = run(tables, options.seeds, results, settings, say=lambda text: print(text, flush=True))
    left = len(pending(tables, options.seeds, results, retry=True))
    print(f"{count} cells run, {left} left")


def choose_tables(names: Sequence[str] | None, rows: Sequence[str] | None = None) -> list[Table]:
    """Return the named tables in the order of priority; without names, all that aren't made of others.

    ``rows`` keeps the rows of these names or data sets alone.
    """
    tables = [table for table in TABLES if (table.name in names if names else table.runs)]
    if rows is None:
        return tables
    kept = [tuple(row for row in table.rows if {row.name, row.data} & {*rows}) for table in tables]
    if not any(kept):
        raise InputError(
            f"no row is called {' or '.join(map(repr, rows))}; they are named as in docs/studies.md"
        )
    return [replace(table, rows=some) for table, some in zip(tables, kept, strict=True)]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run pending cells")
    listing = commands.add_parser("list", help="say what is pending")
    for command in (running, listing):
        names = [table.name for table in TABLES]
        command.add_argument("--table", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
        command.add_argument(
            "--row", nargs="+", metavar="NAME", help="rows or data sets, as the page has them"
        )
        command.add_argument("--seeds", type=_whole_numbers, default=(0, 1, 2), help="0,1,2 by default")
    given = os.environ.get("KINFOLD_DATA")
    running.add_argument("--data", type=Path, default=Path(given) if given else None, help="$KINFOLD_DATA")
    running.add_argument("--threads", type=int, default=2)
    running.add_argument("--minutes", type=float, help="start no cell that would end later")
    running.add_argument("--timeout", type=float, default=Settings.timeout, help="seconds per cell")
    running.add_argument("--retry", action="store_true", help="run cells again that failed")
    showing = commands.add_parser("show", help="write the tables into docs/studies.md")
    showing.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args(arguments)


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _list(tables: Sequence[Table], seeds: Sequence[int], results: Results) -> None:
    lines, known, unknown = results.read(), 0.0, 0
    for cell in pending(tables, seeds, results, retry=True):
        needed = estimate(cell, lines)
        failed = lines.get(cell.key, {}).get("failed")
        known, unknown = known + (needed or 0), unknown + (needed is None)
        time = "time unknown" if needed is None else f"about {needed / 60:.1f} min"
        print(f"{cell.title}: {time}{f'; failed: {failed}' if failed else ''}")
    print(f"{known / 60:.0f} minutes, and {unknown} cells of which nothing is known")


if __name__ == "__main__":
    main()
