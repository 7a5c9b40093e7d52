"""The commands on a finished run, and on the installation.

``kinfold evaluate``, ``report``, ``check``, ``explore``, ``refine``, ``export`` and ``info``.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table
from kinfold.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from kinfold.gallery.explore import Address
    from kinfold.pipeline import Evaluation, Refinement


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


@app.command(epilog="Example: [bold]kinfold report run[/bold]  (then open run/report.html)")
def report(
    run: options.RunPath,
    source: options.MovedSource = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the page of a run anew: as corrected, with its evaluation, or with images that were moved."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    path = pipeline.report(run, source=source, progress=terminal.progress)
    terminal.show({"report": str(path)}, make_list({"report": str(path)}))


@app.command(
    epilog="Examples: [bold]kinfold check run[/bold], [bold]kinfold check run/features --json[/bold]"
)
def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|STORE|GRAPH",
            help="A run, feature store, neighbor graph, benchmark, relabeling, export, or noun features.",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Read all files of a run or store and compare them with their hashes; exit code 2 if one is damaged."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.check(path)
    summary = {
        "path": str(found.path),
        "kind": found.kind,
        "whole": found.is_whole,
        "files": [vars(file) for file in found.files],
    }
    rows = [(file.name, file.state, file.reason) for file in found.files]
    verdict = f"{'all' if found.is_whole else 'not all'} files are as they were written"
    terminal.show(summary, make_table(("file", "state", "reason"), rows), "", f"{found.kind}: {verdict}")
    if not found.is_whole:
        for name, state, reason in rows if quiet and not as_json else ():
            if state in ("damaged", "missing"):
                typer.echo(f"{found.path}: {name} is {state}{f' ({reason})' if reason else ''}", err=True)
        raise typer.Exit(options.EXIT_INPUT)


_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def read_size(text: str, option: str) -> int:
    """Return the bytes that ``500M`` or ``1.5 GiB`` stands for, in powers of 1,024.

    Raises
    ------
    InputError
        It stands for none, or for less than 1 MiB.
    """
    found = _SIZE.match(text.strip())
    size = int(float(found[1]) * 1024 ** _POWERS[found[2].lower()]) if found else 0
    if size < 1 << 20:
        raise InputError(f"{option} {text!r} is no size of 1M or more; write 500M or 2G")
    return size


@app.command(epilog="Example: [bold]kinfold explore run[/bold]  (Ctrl-C ends it)")
def explore(
    run: options.RunPath,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 0,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Let other machines in: 0.0.0.0 listens everywhere. The address then needs a token, which "
            "is printed with it; the connection isn't encrypted.",
        ),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Answer under one more name: that of a proxy, a tunnel or a container's machine, such as "
            "box.local. May be given several times. With a token any name is let in.",
            show_default=False,
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            metavar="PATH",
            help="Path of a proxy that passes it on, such as /user/ann/proxy/absolute/8000 of JupyterHub; "
            "behind one that takes it off, nothing is needed.",
            show_default=False,
        ),
    ] = "",
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open nothing.")
    ] = False,
    source: options.MovedSource = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="PATH",
            help="Where the run's features are now, if they were moved.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Show what kinfold predict wrote, by group and read-only; --source is where its images are.",
            show_default=False,
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look: no corrections, nothing written to the run.")
    ] = False,
    lay_out_map: Annotated[
        bool,
        typer.Option(
            "--map",
            help="Lay out the map first, if the run has none: seconds for thousands of images, many minutes "
            "for a million. Without this the page offers it, and it is made in the background.",
        ),
    ] = False,
    thumbnail_limit: Annotated[
        str,
        typer.Option(
            "--thumbnail-limit",
            metavar="SIZE",
            help="How much disk the run's thumbnails may take: 500M, 2G. The longest unused go first.",
        ),
    ] = "1G",
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Look through the groups of a run in the browser, and correct them."""
    terminal = Terminal(as_json=False, quiet=quiet, verbose=verbose)
    limit = read_size(thumbnail_limit, "--thumbnail-limit")
    from kinfold.gallery.explore import compute_map, serve
    from kinfold.run import Run

    if lay_out_map and predictions is not None:
        raise InputError("predictions have no map; leave out --map or --predictions")
    if lay_out_map and read_only:
        raise InputError("--map writes into the run, which --read-only forbids; leave one of them out")
    if lay_out_map:
        compute_map(Run.open(run), features=features, progress=terminal.progress)

    def tell(address: Address) -> None:
        if address.trouble:
            terminal.tell(f"This run can't be shown: {address.trouble}")
        typer.echo(address.url)
        if address.local not in ("", address.url):
            terminal.tell(f"On this machine also: {address.local}")
        terminal.tell("Ctrl-C ends it.")

    serve(
        run,
        host=host,
        port=port,
        open_browser=not no_browser,
        allow_hosts=allow_host or (),
        root_path=root_path,
        source=source,
        features=features,
        predictions=predictions,
        read_only=read_only,
        thumbnail_limit=limit,
        device=device,
        on_ready=tell,
    )
    _leave()


def _leave() -> None:
    """End the process now if threads still run: Python would wait until the last image is decoded."""
    running = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if running:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


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
FORMATS = ("csv", "parquet", "folders", "imagefolder", "coco", "fiftyone", "html", "onnx", "embedding-atlas")
LINKS = ("auto", "hard", "symlink", "copy")
_FIRST_MISSING = 5


@app.command(
    epilog="Example: [bold]kinfold export run --to folders --out sorted[/bold]  (a folder for every group)"
)
def export(
    run: options.RunPath,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            "-t",
            metavar="FORMAT",
            help=f"One of {', '.join(FORMATS)}.",
            autocompletion=options.complete_from(FORMATS),
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The file or folder to write; named after the run, in the current folder, if not given.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export; nothing else is ever replaced.")
    ] = False,
    link: Annotated[
        str,
        typer.Option(
            "--link",
            metavar="HOW",
            help="How image files get into a folder: auto (hard links where possible, else copies), hard, "
            "symlink, copy.",
            autocompletion=options.complete_from(LINKS),
        ),
    ] = "auto",
    copy: Annotated[bool, typer.Option("--copy", help="The same as --link copy.")] = False,
    source: options.MovedSource = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Take a run away for other programs, with names and groups as corrected."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    from kinfold import pipeline

    found = pipeline.export(
        run,
        to,
        out,
        source=source,
        link="copy" if copy else link,
        force=force,
        progress=terminal.progress,
    )
    summary = {
        "to": found.to,
        "path": str(found.path),
        "n_images": found.n_images,
        "n_groups": found.n_groups,
        "n_unsorted": found.n_unsorted,
        "missing": [vars(one) for one in found.missing],
    }
    facts = {"images": f"{found.n_images:,}", "groups": f"{found.n_groups:,}", to: str(found.path)}
    if found.n_unsorted:
        facts["unsorted"] = f"{found.n_unsorted:,}"
    terminal.show(summary, make_list(facts))
    for one in found.missing[:_FIRST_MISSING]:
        terminal.tell(f"not exported: {one.key} ({one.reason})")
    if (rest := len(found.missing) - _FIRST_MISSING) > 0:
        terminal.tell(f"and {rest:,} more" + (", in missing.csv" if found.path.is_dir() else ""))


_LIBRARIES = (
    "torch",
    "transformers",
    "numpy",
    "scikit-learn",
    "pyarrow",
    "pillow",
    "faiss-cpu",
    "pillow-heif",
    "timm",
    "open_clip_torch",
)


@app.command(epilog="Example: [bold]kinfold info --json[/bold]")
def info(
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show versions, device, precision, cores, whether the model hub answers, and all backbones."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    found = _collect_facts(device)
    machine = found["machine"]
    facts = {
        "kinfold": found["kinfold"],
        "python": machine["python"],
        **{name: version or "not installed" for name, version in found["libraries"].items()},
        "device": " ".join(str(machine[name]) for name in ("device", "gpu") if name in machine),
        "precision": found["precision"],
        "cores": str(machine["cores"]),
        "memory": _describe_memory(machine["memory_bytes"]),
        "model hub": "answers" if found["hub_reachable"] else "out of reach (hog and pixels work without it)",
    }
    cards = [
        (card["name"], str(card["dim"] or "?"), card["family"], card["licence"] or "?")
        for card in found["backbones"]
    ]
    terminal.show(
        found, make_list(facts), "", make_table(("backbone", "dimension", "family", "licence"), cards)
    )


def _describe_memory(n_bytes: int) -> str:
    import psutil

    text, there = f"{n_bytes / 2**30:.1f} GiB", psutil.virtual_memory().total
    limited = n_bytes < there
    return f"{text} (limit of the container; the machine has {there / 2**30:.1f})" if limited else text


def _collect_facts(device: str) -> dict[str, Any]:
    from kinfold import __version__
    from kinfold.backbones import hub_reachable, list_cards
    from kinfold.compute import describe_machine, resolve_device, resolve_precision

    resolved = resolve_device(device)
    return {
        "kinfold": __version__,
        "libraries": {name: _version_of(name) for name in _LIBRARIES},
        "machine": describe_machine(resolved),
        "precision": str(resolve_precision("auto", resolved)).removeprefix("torch."),
        "hub_reachable": hub_reachable(),
        "backbones": [
            {
                "name": card.name,
                "family": card.family,
                "source": card.source,
                "dim": card.dim,
                "licence": card.licence,
                "note": card.note,
            }
            for card in list_cards()
        ],
    }


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
