"""The commands that use words: ``kinfold name``, ``nouns``, ``relabel`` and ``zeroshot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, count_groups, make_list, make_table
from kinfold.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from kinfold.language import CachedNouns
    from kinfold.run import Run


_MOST_ROWS = 40
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
    from kinfold import pipeline
    from kinfold.run import Run

    pipeline.name(
        run,
        text_model=text_model,
        nouns=nouns,
        n_names=top,
        min_separation=min_separation,
        source=source,
        device=device,
        precision=precision,
        n_workers=workers,
        progress=terminal.progress,
    )
    opened = Run.open(run)
    groups = _summarise(opened)
    n_named = sum(group["name"] is not None for group in groups)
    page = str(opened.report_path) if opened.report_path.exists() else None
    summary = {"run": str(opened.path), "n_named": n_named, "groups": groups, "report": page}
    facts = {
        "named": f"{n_named:,} of {len(groups):,} groups",
        "names": str(opened.path / "names.parquet"),
        "report": page or "none",
    }
    terminal.show(summary, _show_names(groups), "", make_list(facts))


def _summarise(run: Run) -> list[dict[str, Any]]:
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
    for group in ranked[:_MOST_ROWS]:
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
    if len(ranked) > _MOST_ROWS:
        rows.append((f"{len(ranked) - _MOST_ROWS:,} more", "", "", "", "", ""))
    table = make_table(("group", "size", "separation", "name", "further words", "a kind of"), rows)
    for column in table.columns[3:]:
        column.justify = "left"
    return table


_SHORT = 8  # letters of an entry's name: enough to tell a few apart

group = typer.Typer(no_args_is_help=True, help="Read nouns with a model once, and see or clear what is kept.")
app.add_typer(group, name="nouns")

Entry = Annotated[
    str | None,
    typer.Argument(metavar="ENTRY", help="One entry, by the beginning of its name.", show_default=False),
]


@group.command(epilog="Example: [bold]kinfold nouns build clip-vit-b32[/bold]")
def build(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="What reads them: a name that kinfold info lists, a model's directory, or a hub id.",
            show_default=False,
        ),
    ],
    words: options.Nouns = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read nouns with a model, and keep their features for kinfold cluster --method tac and kinfold name.

    Stopped or killed, the same command goes on where it was.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold.language import load_text_encoder, prepare_nouns, read_words

    encoder = load_text_encoder(model, device=device, precision=precision)
    prepared = prepare_nouns(encoder, None if words is None else read_words(words))
    found = prepared.embed(terminal.progress)
    summary = {
        "entry": found.path.name,
        "model": encoder.name,
        "n_words": len(found),
        "n_prompts": len(prepared.prompts),
        "dim": encoder.dim,
        "path": str(found.path),
    }
    facts = {
        "nouns": f"{len(found):,}, each in {len(prepared.prompts)} prompts",
        "vectors": f"{encoder.dim:,} dimensions",
        "kept in": str(found.path),
    }
    terminal.show(summary, make_list(facts))


@group.command("list", epilog="Example: [bold]kinfold nouns list --json[/bold]")
def list_(
    as_json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """Show what is kept, where, and how large it is."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold.language import NounCache

    cache = NounCache()
    entries = cache.list()
    size = sum(entry.bytes for entry in entries)
    summary = {
        "path": str(cache.path),
        "bytes": size,
        "entries": [_describe_entry(entry) for entry in entries],
    }
    rows = [
        (
            entry.name[:_SHORT],
            entry.model or "?",
            f"{entry.n_done:,} of {entry.n_words:,}" if entry.n_words else "damaged",
            f"{entry.n_prompts}",
            f"{entry.dim:,}",
            _show_size(entry.bytes),
        )
        for entry in entries
    ]
    shown: list[RenderableType] = [make_list({"folder": str(cache.path), "size": _show_size(size)})]
    if rows:
        columns = ("entry", "model", "nouns", "prompts", "dimension", "size")
        shown = [make_table(columns, rows), "", *shown]
    terminal.show(summary, *shown)


@group.command(epilog="Example: [bold]kinfold nouns clear --unfinished[/bold]")
def clear(
    entry: Entry = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="All entries of this model.", show_default=False),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only entries that aren't complete.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All entries.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Remove kept features; they can be made again."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold.language import NounCache

    if not (entry or model or unfinished or everything):
        raise InputError("say what to remove: an ENTRY, --model NAME, --unfinished, or --all")
    freed = NounCache().clear(entry, model=model, unfinished=unfinished)
    terminal.show({"freed_bytes": freed}, make_list({"freed": _show_size(freed)}))


@group.command(epilog="Example: [bold]kinfold nouns show run --top 50[/bold]")
def show(
    run: options.RunPath,
    top: Annotated[int, typer.Option("--top", min=1, help="How many, the surest first.")] = 30,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show the nouns that guided a run of method tac."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold.run import Run

    opened = Run.open(run)
    if opened.manifest.parameters.get("method") != "tac":
        raise InputError(f"{run} was made without nouns; they guide kinfold cluster --method tac")
    kept = opened.model.selected_nouns_.tolist()
    summary = {"run": str(run), "n_nouns": len(kept), "nouns": kept[:top]}
    terminal.show(summary, make_list({"nouns kept": f"{len(kept):,}", "surest": ", ".join(kept[:top])}))


def _describe_entry(entry: CachedNouns) -> dict[str, Any]:
    return {
        "entry": entry.name,
        "model": entry.model,
        "n_words": entry.n_words,
        "n_done": entry.n_done,
        "n_prompts": entry.n_prompts,
        "dim": entry.dim,
        "complete": entry.complete,
        "bytes": entry.bytes,
    }


def _show_size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"


DEFAULT_JOINT_BACKBONE = "clip-vit-b32"
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
    backbone: options.Backbone = DEFAULT_JOINT_BACKBONE,
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


@app.command(
    epilog="Example: [bold]kinfold zeroshot photos/ --classes names.txt --out classes.parquet[/bold]"
)
def zeroshot(
    source: options.Source,
    classes: Annotated[
        Path,
        typer.Option(
            "--classes",
            metavar="FILE",
            help="Names of the classes, one per line; or ids of WordNet, like n02084071.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The Parquet file to write: row, key, cluster (number of the class), confidence, name.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            "-l",
            metavar="FILE|folder",
            help="Known classes, for the accuracy and for the choice of a synset's lemma.",
            show_default=False,
        ),
    ] = None,
    backbone: options.Backbone = DEFAULT_JOINT_BACKBONE,
    text_model: options.TextModel = None,
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
    """Put images into classes by their names alone, which needs a model like CLIP; nothing is learned.

    Killed or stopped, the same command goes on where it was.
    """
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.zero_shot(
        source,
        classes,
        out,
        backbone=backbone,
        text_model=text_model,
        labels=labels,
        device=device,
        precision=precision,
        n_workers=workers,
        source_options={
            "path_column": path_column,
            "image_column": image_column,
            "key_column": key_column,
            "column": column,
        },
        progress=terminal.progress,
    )
    named = list(zip(found.classes, found.texts, count_groups(found.table, len(found.classes)), strict=True))
    summary = {
        "predictions": str(out),
        "n_images": found.table.num_rows,
        "accuracy": found.accuracy,
        "n_labeled": found.n_labeled,
        "classes": [{"class": name, "text": text, **facts} for name, text, facts in named],
    }
    ranked = sorted(named, key=lambda entry: -entry[2]["size"])
    rows = [
        (name, text, f"{facts['size']:,}", f"{facts['mean_confidence']:.2f}" if facts["size"] else "")
        for name, text, facts in ranked[:_MOST_ROWS]
    ]
    if len(ranked) > _MOST_ROWS:
        rest = sum(facts["size"] for _, _, facts in ranked[_MOST_ROWS:])
        rows.append((f"{len(ranked) - _MOST_ROWS:,} more", "", f"{rest:,}", ""))
    judged = {}
    if found.accuracy is not None:
        judged = {"accuracy": f"{found.accuracy:.4f} on {found.n_labeled:,} labeled images"}
    table = make_table(("class", "read as", "size", "confidence"), rows)
    facts = {"images": f"{found.table.num_rows:,}", **judged, "predictions": str(out)}
    terminal.show(summary, table, "", make_list(facts))
