"""``kinfold benchmark``: build benchmarks, describe them, and run suites of cells as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table
from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.benchmark import ClassCounts, LabelTable, SuiteRun

RULES = ("nearest-ancestor", "direct")

group = typer.Typer(no_args_is_help=True, help="Make and describe the papers' benchmarks, or your own.")
app.add_typer(group, name="benchmark")

Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Images in folders named by their classes, below folders train and val if there are splits.",
        show_default=False,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        "-l",
        metavar="FILE|DIR",
        help="CSV or Parquet with the columns key, label and perhaps split; a folder of kinfold relabel; or "
        "a run.",
        show_default=False,
    ),
]
Counts = Annotated[
    Path | None,
    typer.Option(
        "--counts",
        metavar="FILE",
        help="CSV or Parquet with the columns class and count, instead of labels.",
        show_default=False,
    ),
]
Tree = Annotated[
    str | None,
    typer.Option(
        "--tree",
        metavar="published|wordnet|FILE",
        help="Which classes lie below which: the tree published with ImageNet-21K-P, WordNet, a parent table "
        "(columns child and parent), or a published tree file (.pth).",
        show_default=False,
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        help="Parents in WordNet: the nearest ancestors among the classes, or direct hypernyms alone.",
        autocompletion=options.complete_from(RULES),
        metavar="|".join(RULES),
    ),
]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--classes", metavar="FILE", help="The classes to keep, one in every line.", show_default=False
    ),
]
Accuracies = Annotated[
    list[Path] | None,
    typer.Option(
        "--accuracies",
        metavar="FILE",
        help="CSV or Parquet with the columns class and accuracy, of one model; several times for a union.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the builder, like depth=4, spread=15, n_classes=500 or seed=1.",
        show_default=False,
    ),
]


@group.command("list", epilog="Example: [bold]kinfold benchmark list[/bold]")
def list_(as_json: options.Json = False) -> None:
    """Show the benchmarks known by name, the builders that make them from any classes, and the suites."""
    terminal = Terminal(as_json=as_json)
    from kinfold.benchmark import list_benchmarks, list_suites

    suites = list_suites()
    found = {
        **list_benchmarks(),
        "suites": [{"name": name, "title": title} for name, title in suites.items()],
    }
    names = {one["name"]: _show_entry(one) for one in found["benchmarks"]}
    builders = {one["name"]: _show_builder(one) for one in found["builders"]}
    terminal.show(
        found,
        make_list(names),
        "\nFrom your own classes:\n",
        make_list(builders),
        "\nSuites:\n",
        make_list(suites),
    )


@group.command(
    epilog="Examples: [bold]kinfold benchmark build imagenet21k-tiny --source imagenet21k/ --out tiny[/bold] "
    "or [bold]kinfold benchmark build coarse --labels labels.csv --tree tree.csv --set depth=1 "
    "--out coarse[/bold]"
)
def build(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What kinfold benchmark list shows.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.", show_default=False)
    ],
    source: Source = None,
    labels: Labels = None,
    counts: Counts = None,
    tree: Tree = None,
    rule: Rule = RULES[0],
    classes: ListFile = None,
    accuracies: Accuracies = None,
    settings: Settings = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a benchmark: labels by key, what became of every class, and how it was made.

    DIR/labels.parquet is what kinfold evaluate reads with --labels.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet)
    from kinfold.benchmark import build_benchmark, find_entry, read_accuracies, read_class_list

    find_entry(name)  # before anything is read
    data = _read(source, labels, counts)
    if data is None:
        raise InputError("give labels: --source, --labels, or --counts for the classes alone")
    found = build_benchmark(
        name,
        data,
        tree=tree,
        rule=rule,
        classes=None if classes is None else read_class_list(classes),
        accuracies=[read_accuracies(path) for path in accuracies or []],
        parameters=options.read_parameters(settings or []),
    )
    found.save(out)
    terminal.show({"folder": str(out), **found.facts}, *_show_built(out, found.facts))


@group.command(
    epilog="Examples: [bold]kinfold benchmark describe imagenet21k[/bold], "
    "[bold]kinfold benchmark describe stl10 --source stl10/[/bold], or "
    "[bold]kinfold benchmark describe --tree tree.csv --counts counts.csv[/bold]"
)
def describe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|DIR]",
            help="What kinfold benchmark list shows, or a benchmark that was built; nothing for your own "
            "classes.",
            show_default=False,
        ),
    ] = None,
    source: Source = None,
    labels: Labels = None,
    counts: Counts = None,
    tree: Tree = None,
    rule: Rule = RULES[0],
    as_json: options.Json = False,
) -> None:
    """Say what a benchmark is, what trees and counts make of its classes, and how data on disk differ."""
    terminal = Terminal(as_json=as_json)
    from kinfold.benchmark import describe_benchmark, is_benchmark, read_facts

    if name is not None and is_benchmark(Path(name)):
        facts = read_facts(Path(name))
        terminal.show(facts, *_show_built(Path(name), facts))
        return
    found = describe_benchmark(name, data=_read(source, labels, counts), tree=tree, rule=rule)
    terminal.show(found, *_show_description(found))


def _read(source: str | None, labels: Path | None, counts: Path | None) -> LabelTable | ClassCounts | None:
    from kinfold.benchmark import read_counts, read_folder_labels, read_label_table

    if sum(one is not None for one in (source, labels, counts)) > 1:
        raise InputError("give one of --source, --labels and --counts")
    if source is not None:
        return read_folder_labels(source)
    if labels is not None:
        return read_label_table(labels)
    return None if counts is None else read_counts(counts)


def _show_entry(one: dict[str, Any]) -> str:
    n_classes = one["published"].get("n_classes")
    return str(one["title"]) + (f" ({n_classes:,} classes)" if n_classes else "")


def _show_builder(one: dict[str, Any]) -> str:
    shown = _show_parameters(one["parameters"])
    return str(one["title"]) + (f" ({shown})" if shown else "")


def _show_parameters(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name}={'…' if value is None else value}" for name, value in parameters.items())


def _show_built(folder: Path, facts: dict[str, Any]) -> list[RenderableType]:
    result = facts["result"]
    shown = {
        "benchmark": f"{facts['name']}: {facts['title']}",
        "parameters": _show_parameters(facts["parameters"]) or "none",
        "classes": f"{result['n_classes']:,} of {facts['counts']['n_classes']:,}",
        "training images": f"{result['n_training_samples']:,} of {facts['counts']['n_samples']:,}",
        **{
            f"images, {name or 'no split'}": f"{one['n_samples']:,}" for name, one in result["splits"].items()
        },
        "as published": "; ".join(facts["differences"])
        or ("yes" if facts["published"] else "nothing to compare"),
        "folder": str(folder),
    }
    return [make_list(shown)]


def _show_coarse(found: dict[str, Any]) -> RenderableType:
    trees = found.get("trees") or {found["tree"]["kind"]: found}
    columns = {name: one["coarse"] for name, one in trees.items()}
    if "coarse_one_step" in found:
        columns |= {"one step": found["coarse_one_step"], "in print": found["published"]["coarse"]}
    deepest = max(len(counts) for counts in columns.values())
    rows = [
        (d, *(f"{counts[d]:,}" if d in counts else "" for counts in columns.values()))
        for d in map(str, range(deepest))
    ]
    return make_table(("Coarse(d)", *columns), rows)


def _show_description(found: dict[str, Any]) -> list[RenderableType]:
    facts = {name: str(found[name]) for name in ("name", "title", "builder", "where") if found.get(name)}
    if "n_classes" in found:
        facts["classes"] = f"{found['n_classes']:,}"
    for name, title in (("wordnet_leaf", "leaves in WordNet"), ("class_leaf", "leaves of the tree")):
        if name in found:
            published = found.get("published", {}).get(name)
            facts[title] = f"{found[name]:,}" + (f" (published {published:,})" if published else "")
    shown: list[RenderableType] = [make_list(facts)] if facts else []
    if "coarse" in found:
        shown += ["", _show_coarse(found)]
    if sets := found.get("frequencies", {}).get("sets"):
        rows = [(name, f"{one['n_classes']:,}", f"{one['n_samples']:,}") for name, one in sets.items()]
        shown += ["", make_table(("by frequency", "classes", "images"), rows)]
    if "on_disk" in found:
        disk = found["on_disk"]
        facts = {f"images, {name or 'no split'}": f"{count:,}" for name, count in disk["splits"].items()}
        facts["differences"] = "; ".join(disk["differences"]) or "none"
        shown += ["", make_list(facts)]
    return shown


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
        raise InputError(f"--seeds must be integers with commas between, like 0,1,2; got {text!r}") from error
    if len(set(seeds)) < len(seeds) or not all(0 <= seed <= options.MOST_SEED for seed in seeds):
        raise InputError(f"--seeds must be different integers from 0 to {options.MOST_SEED}; got {text!r}")
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
