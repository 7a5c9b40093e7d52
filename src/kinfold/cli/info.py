"""``kinfold info``."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from kinfold.cli import _app as options
from kinfold.cli._app import app
from kinfold.cli._terminal import Terminal, make_list, make_table

if TYPE_CHECKING:
    pass

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
    "onnxruntime",
    "openvino",
)


@app.command(epilog="Example: [bold]kinfold info --json[/bold]")
def info(
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show versions, device, precision, engines, cores, whether the model hub answers, and all backbones."""
    terminal = Terminal(as_json=as_json, quiet=quiet, verbose=verbose)
    found = _collect_facts(device)
    machine = found["machine"]
    facts = {
        "kinfold": found["kinfold"],
        "python": machine["python"],
        **{name: version or "not installed" for name, version in found["libraries"].items()},
        "device": " ".join(str(machine[name]) for name in ("device", "gpu") if name in machine),
        "precision": found["precision"],
        "engines": ", ".join(found["engines"]),
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
    from kinfold.backbones import hub_reachable, list_cards, usable_engines
    from kinfold.compute import describe_machine, resolve_device, resolve_precision

    resolved = resolve_device(device)
    return {
        "kinfold": __version__,
        "libraries": {name: _version_of(name) for name in _LIBRARIES},
        "machine": describe_machine(resolved),
        "precision": str(resolve_precision("auto", resolved)).removeprefix("torch."),
        "engines": usable_engines(),
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
