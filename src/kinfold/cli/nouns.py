"""``kinfold nouns``: the cache of noun features, and the nouns that guided a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table
from kinfold.errors import InputError

if TYPE_CHECKING:
    from kinfold.language import CachedNouns

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
