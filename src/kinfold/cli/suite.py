"""``kinfold benchmark run``: features × methods × benchmarks × seeds as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from kinfold.cli import _options as options
from kinfold.cli._tables import make_list, make_table
from kinfold.cli._terminal import Terminal
from kinfold.cli.benchmark import group
from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.benchmark import SuiteRun


def _complete_suite(incomplete: str) -> list[str]:
    from kinfold.benchmark import list_suites

    return [name for name in list_suites() if name.startswith(incomplete)]


@group.command(
    "run",
    epilog="Examples: [bold]kinfold benchmark run digits[/bold], or "
    "[bold]kinfold benchmark run my-suite.toml --out results --only kmeans,temi --minutes 60[/bold]",
)
def run(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE.toml|NAME",
            help="A suite of your own, or one that kinfold benchmark list shows.",
            autocompletion=_complete_suite,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The folder to write, or to go on with; suite-NAME if not given.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Features, methods or benchmarks to keep, several between commas; a kind of which none is "
            "named stays whole.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="0,1,2", help="In place of the suite's.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of each fit; one per core if not given.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            min=0,
            help="Start no fit that is expected to end later; 0 only writes the tables of what there is.",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run fits again that failed.")] = False,
    figures: Annotated[
        bool, typer.Option("--figures/--no-figures", help="Draw figures; needs kinfold[figures].")
    ] = True,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run a suite: features × methods × benchmarks × seeds, one table with the published figures beside.

    Everything is checked before the first fit. A finished fit is never repeated: stopped or killed, the same
    command goes on.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold.benchmark import run_suite

    found = run_suite(
        suite,
        out,
        only=[name for one in only or () for name in one.split(",")] or None,
        seeds=None if seeds is None else _read_seeds(seeds),
        threads=threads,
        minutes=minutes,
        retry=retry,
        figures=figures,
        say=terminal.tell,
        progress=terminal.progress,
    )
    terminal.show(found.as_dict(), *_show(found))


def _read_seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--seeds must be whole numbers with commas between, like 0,1,2, not {text!r}"
        ) from error
    if len(set(seeds)) < len(seeds) or not all(0 <= seed <= options.MOST_SEED for seed in seeds):
        raise InputError(f"--seeds must be different numbers from 0 to {options.MOST_SEED}, not {text!r}")
    return seeds


def _show(found: SuiteRun) -> list[RenderableType]:
    rows = []
    several = len({row.titles["features"] for row in found.summaries}) > 1
    for row in found.summaries:
        accuracy = row.figures.get("acc") or next(iter(row.figures.values()), None)
        spread = "" if accuracy is None or accuracy.spread is None else f" ± {100 * accuracy.spread:.2f}"
        shown = (
            ("failed" if row.n_failed else "") if accuracy is None else f"{100 * accuracy.mean:.2f}{spread}"
        )
        printed = row.published.get("acc")
        rows.append(
            (
                row.titles["benchmark"],
                *([row.titles["features"]] if several else []),
                row.titles["method"],
                f"{row.n_clusters:,}",
                shown,
                "" if printed is None else f"{printed[0]:g}",
                f"{row.n_seeds} of {row.n_wanted}",
                "" if row.seconds is None else f"{row.seconds:,.0f}",
            )
        )
    heads = (
        "benchmark",
        *(["features"] if several else []),
        "method",
        "K",
        "ACC %",
        "published",
        "seeds",
        "seconds",
    )
    facts = {
        "fits run now": str(found.n_run),
        "done, failed, left": f"{found.n_done}, {found.n_failed}, {found.n_left}",
        "tables": f"{found.path}/table.md, .tex, .csv",
    }
    if found.figures:
        facts["figures"] = f"{len(found.figures)} in {found.path / 'figures'}"
    return [make_table(heads, rows), "", make_list(facts)]
