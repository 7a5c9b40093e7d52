"""``kinfold refine``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table

if TYPE_CHECKING:
    from rich.table import Table

    from kinfold.pipeline import Refinement

_MOST_CHANGES = 20


@app.command(
    epilog="Examples: [bold]kinfold refine run[/bold], then look at the changes with "
    "[bold]kinfold explore run[/bold]; or [bold]kinfold refine run --accept --min-confidence 0.7[/bold]"
)
def refine(
    run: options.RunPath,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the proposals over at once, as one edit.")
    ] = False,
    min_confidence: Annotated[
        float,
        typer.Option(
            "--min-confidence",
            min=0.0,
            max=1.0,
            help="Take over only what the classifier is at least so sure of.",
        ),
    ] = 0.0,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="FEATURES",
            help="Where the features are now, if they were moved.",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Learn the corrections of a run, and propose changes for its other images."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline
    from kinfold.corrections import names_of
    from kinfold.run import Run

    opened = Run.open(run)
    found = pipeline.refine(
        opened,
        accept=accept,
        min_confidence=min_confidence,
        random_state=seed,
        source=source,
        device=device,
        progress=terminal.progress,
    )
    changes = _count_changes(found, names_of(opened, found.state))
    summary = {
        "run": str(opened.path),
        "proposals": str(found.path),
        "n_proposals": len(found.proposals),
        "n_accepted": found.n_accepted,
        **found.proposals.facts,
        "changes": changes,
    }
    facts = {
        "learned from": f"{summary['n_learned']:,} images, {summary['n_by_hand']:,} of them placed by hand",
        **_say_found(found.proposals.facts.get("found_by_hand")),
        "proposed changes": f"{len(found.proposals):,}",
        "accepted": f"{found.n_accepted:,}" if accept else "none yet: --accept, or kinfold explore",
        "proposals": str(found.path),
    }
    tables: list[Any] = [_show_changes(changes), ""] if changes else []
    terminal.show(summary, *tables, make_list(facts))


def _say_found(share: float | None) -> dict[str, str]:
    if share is None:
        return {}
    return {"found without you": f"{share:.0%} of those placed by hand, when they are left out"}


def _count_changes(found: Refinement, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return how many images are proposed to go from which group to which, the most first."""
    proposals = found.proposals
    pairs = Counter(zip(proposals.from_groups.tolist(), proposals.groups.tolist(), strict=True))
    ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        {"from": old, "from_name": names[old], "to": new, "to_name": names[new], "n": n}
        for (old, new), n in ranked
    ]


def _show_changes(changes: list[dict[str, Any]]) -> Table:
    rows = [
        (
            f"{one['from']} {one['from_name']}".strip(),
            f"{one['to']} {one['to_name']}".strip(),
            f"{one['n']:,}",
        )
        for one in changes[:_MOST_CHANGES]
    ]
    if len(changes) > _MOST_CHANGES:
        rest = sum(one["n"] for one in changes[_MOST_CHANGES:])
        rows.append((f"{len(changes) - _MOST_CHANGES:,} more", "", f"{rest:,}"))
    return make_table(("from group", "to group", "images"), rows)


# Said here again, so that `kinfold --help` loads no Arrow; a test holds them against the library.
