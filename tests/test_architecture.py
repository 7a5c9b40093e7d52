"""Claims about the house: who may import whom, and what stays out of ``import kinfold``."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfold

PACKAGE = Path(kinfold.__file__).parent
# A room, or a module at the top, imports only from those above it.
ORDER = (
    "_version",
    "errors",
    "progress",
    "bars",
    "validation",
    "compute",
    "distributed",
    "locks",
    "reading",
    "storage",
    "paths",
    "tables",
    "rows",
    "metrics",
    "labels",
    "hierarchy",
    "images",
    "backbones",
    "features",
    "neighbors",
    "language",
    "consensus",
    "heads",
    "methods",
    "probing",
    "run",
    "levels",
    "typicality",
    "benchmark",
    "corrections",
    "gallery",
    "exports",
    "pipeline",
    "cli",
)
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "transformers", "sklearn", "scipy", "timm", "open_clip", "faiss"}
# What the front page needs as little: each costs it a tenth of a second or more.
SLOW = {"fastapi", "numpy", "PIL", "pyarrow", "uvicorn"}


def imports_of(path: Path, tree: ast.Module | None = None) -> Iterator[str]:
    """Yield the dotted names that a module imports, at any depth of its code, names in packages included."""
    package = ("kinfold", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def complaints(room: str, names: Iterator[str]) -> list[str]:
    """Return what a module of a room may not import; the package's own front door is the room ''."""
    wrong = []
    for name in names:
        parts = name.split(".")
        if parts[0] != "kinfold" or len(parts) < 2 or parts[1] == room:
            continue
        if parts[1] in ORDER and place_of(parts[1]) > place_of(room):
            wrong.append(f"{name} stands below {room}")
        if any(part.startswith("_") and not part.startswith("__") for part in parts[2:]):
            wrong.append(f"{name} is private to {parts[1]}")
    return wrong


def place_of(room: str) -> int:
    """Return how far down a room stands; the package's own front door stands lowest."""
    return ORDER.index(room) if room in ORDER else len(ORDER)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_from_those_above_it_and_nothing_private(path):
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
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms | files <= set(ORDER)
    assert not rooms & files


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_between() -> dict[str, set[str]]:
    """Return, by the name of every module, the modules of the package that it imports, for types too.

    What functions import is left out, and so is the package's own front door, which resolves names on first
    use.
    """
    names = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        below = [node for branch in tree.body if isinstance(branch, ast.If) for node in branch.body]
        top = [node for node in (*tree.body, *below) if isinstance(node, ast.Import | ast.ImportFrom)]
        graph[name] = set()
        for target in imports_of(path, ast.Module(top, [])):
            while target and target not in names:
                target = target.rpartition(".")[0]
            if target and target not in (name, "kinfold"):
                graph[name].add(target)
    return graph


def circles_of(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another, directly or by way of others."""
    below = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in below[name]:
                below[name] |= below[middle]
    groups = {frozenset(other for other in below[name] if name in below[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def test_the_package_is_few_files_that_can_be_read_from_top_to_bottom():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert len(lengths) <= 240
    assert 130 <= statistics.median(lengths.values()) <= 260
    assert [str(path) for path, length in lengths.items() if length > 700] == []


def users_of_modules() -> dict[str, set[str]]:
    """Return, by the name of every module, the others that use its names, through a room's door or not.

    A door that passes names on is no user of them; who imports them from the door is.
    """
    trees = {module_name(path): (path, ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES}
    doors = {name for name, (path, _) in trees.items() if path.name == "__init__.py"}
    origin: dict[str, str] = {}  # of the names that doors pass on
    for door in doors:
        path, tree = trees[door]
        for target in imports_of(path, tree):
            origin.setdefault(f"{door}.{target.rpartition('.')[2]}", target)
    users: dict[str, set[str]] = {name: set() for name in trees}
    for name, (path, tree) in trees.items():
        for target in imports_of(path, tree):
            while target in origin and origin[target] != target and target not in trees:
                target = origin[target]
            while target and target not in trees:
                target = target.rpartition(".")[0]
            if target and target != name and not (name in doors and target.startswith(f"{name}.")):
                users[target].add(name)
    return users


def test_few_files_exist_for_one_other_alone():
    lonely = sorted(name for name, users in users_of_modules().items() if len(users) == 1)
    assert len(lonely) <= 40, lonely


def test_who_uses_a_module_is_seen_through_the_doors_of_rooms():
    users = users_of_modules()
    assert "kinfold.methods._heads" in users["kinfold.heads.trainer"]
    assert "kinfold.heads" not in users["kinfold.heads.trainer"]
    assert "kinfold.pipeline._report" in users["kinfold.gallery.report"]


def test_no_modules_import_one_another():
    # A room's door imports its modules, which may import other rooms' doors but never their own.
    assert circles_of(imports_between()) == []


def test_the_finder_of_circles_sees_one():
    made = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles_of(made) == [["a", "b", "c"]]


@pytest.mark.parametrize(
    ("pattern", "room"),
    [
        (r"isinstance\([^)]*\bAuto\b", "methods"),  # methods answer for themselves, by the contract Clusterer
        (r"manifest\[[\"']", "run"),  # a manifest has attributes
        (r"must be (a|an) (positive )?(whole number|integer)", "validation"),  # each rule is worded once
    ],
)
def test_what_a_contract_replaced_does_not_come_back(pattern, room):
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if room_of(path) != room and re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("module", ["kinfold", "kinfold.images", "kinfold.features"])
def test_importing_brings_no_heavy_package(module):
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


def test_the_front_page_of_the_command_line_brings_no_heavy_package():
    script = (
        "import sys\nfrom kinfold.cli import main\nsys.argv = ['kinfold', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', *sorted({HEAVY | SLOW!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "Usage" in run.stdout
    assert run.stdout.splitlines()[-1].split() == ["heavy:"]
