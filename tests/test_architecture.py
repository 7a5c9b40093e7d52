"""Claims about the house: who may import whom, and what stays out of ``import kinfold``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfold

PACKAGE = Path(kinfold.__file__).parent
WAY = (
    "images",
    "backbones",
    "features",
    "neighbors",
    "heads",
    "methods",
    "run",
    "gallery",
    "pipeline",
    "cli",
)
BESIDE = {
    "metrics",
    "consensus",
    "distributed",
    "hierarchy",
    "errors",
    "locks",
    "progress",
    "storage",
    "compute",
    "_version",
}
# Rooms beside the way that stand on a room of it, and so serve only those to its right.
# What learns from labels lies to the right of the methods, which may never see any.
STANDS_ON = {
    "language": "features",
    "probing": "methods",
    "benchmark": "run",
    "corrections": "run",
    "exports": "gallery",
}
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "sklearn", "skimage", "scipy", "timm", "open_clip", "faiss"}


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, at any depth of its code, names in packages included."""
    package = ("kinfold", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def complaints(room: str, names: Iterator[str]) -> list[str]:
    """Return what a module of a room may not import; the package's own top modules are the room ''."""
    wrong = []
    for name in names:
        parts = name.split(".")
        if parts[0] != "kinfold" or len(parts) < 2 or parts[1] == room:
            continue
        target = parts[1]
        if (target in WAY or target in STANDS_ON) and place_of(target) > place_of(room):
            wrong.append(f"{name} lies to the right of {room}")
        if any(part.startswith("_") and not part.startswith("__") for part in parts[2:]):
            wrong.append(f"{name} is private to {target}")
    return wrong


def place_of(room: str) -> float:
    """Return how far to the right a room lies; the package's own front door lies furthest."""
    if room in STANDS_ON:
        return WAY.index(STANDS_ON[room]) + 0.5
    return WAY.index(room) if room in WAY else -1 if room in BESIDE else len(WAY)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_its_left_and_nothing_private(path):
    assert complaints(room_of(path), imports_of(path)) == []


def test_the_rule_itself_sees_what_is_wrong():
    assert complaints("features", iter(["kinfold.methods.TEMI"]))
    assert complaints("storage", iter(["kinfold.run.Run"]))
    assert complaints("language", iter(["kinfold.heads.Trainer"]))
    assert complaints("features", iter(["kinfold.language.fill"]))
    assert complaints("hierarchy", iter(["kinfold.language.fill"]))
    assert not complaints("language", iter(["kinfold.backbones.list_cards", "kinfold.hierarchy.WordNet"]))
    assert not complaints("methods", iter(["kinfold.language.fill"]))
    assert complaints("methods", iter(["kinfold.probing.linear_probe"]))
    assert not complaints("probing", iter(["kinfold.methods.linear", "kinfold.neighbors.nearest_rows"]))
    assert complaints("metrics", iter(["kinfold.images.KeyList"]))
    assert complaints("methods", iter(["kinfold.heads._inner.thing"]))
    assert complaints("methods", iter(["kinfold.heads.trainer._thing"]))
    assert not complaints("methods", iter(["kinfold.methods._rows.UnitBlocks", "kinfold.heads.Trainer"]))
    assert not complaints("run", iter(["kinfold._version.__version__", "torch.nn"]))


def test_every_room_has_its_place():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == {*WAY, *STANDS_ON, "metrics", "consensus", "hierarchy"}
    assert {path.stem for path in PACKAGE.glob("*.py")} <= {*BESIDE, "__init__", "__main__"}


@pytest.mark.parametrize("module", ["kinfold", "kinfold.images", "kinfold.features"])
def test_importing_brings_no_heavy_package(module):
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
