"""Claims about what is packaged: all files that the code reads, and all packages that it imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "kinfold"
FILES = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


# Packages whose modules have another name than themselves.
PACKAGE_OF = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "open_clip": "open-clip-torch",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    # Parts of another package's documented interface, which that one installs.
    "joblib": "scikit-learn",
    "markupsafe": "jinja2",
    "starlette": "fastapi",
}
FOR_DEVELOPERS = {"docs", "lint", "test"}


def read_project() -> dict[str, Any]:
    """Return pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings: dict[str, Any] = tomllib.load(file)
    return settings


def read_patterns() -> list[str]:
    """Return the patterns of package data, as pyproject.toml gives them."""
    patterns: list[str] = read_project()["tool"]["setuptools"]["package-data"]["kinfold"]
    return patterns


def read_packages() -> tuple[set[str], set[str]]:
    """Return the packages that are always installed, and those that an extra for users installs."""

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in requirements}

    project = read_project()["project"]
    extras = project["optional-dependencies"]
    chosen = [names(extras[extra]) for extra in extras if extra not in FOR_DEVELOPERS]
    return names(project["dependencies"]), set().union(*chosen)


def package_of(module: str) -> str:
    """Return the package that a dotted name comes from; empty for Python's own and for Kinfold's."""
    top = module.split(".")[0]
    if top == "kinfold" or top in sys.stdlib_module_names:
        return ""
    return PACKAGE_OF.get(top, top.lower().replace("_", "-"))


def packages_in(node: ast.AST, *, at_import: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield the packages that code imports, and whether it does as soon as its module is imported.

    Imports for type checkers alone are left out: they are never run.
    """
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        modules = [node.module or ""]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
        "import_module",
        "import_extra",
    ):
        # The module is the first argument of one and the second of the other.
        number = 1 if ast.unparse(node.func) == "import_extra" else 0
        given = node.args[number]
        modules = [given.value] if isinstance(given, ast.Constant) else []
    yield from ((package_of(module), at_import) for module in modules if package_of(module))
    inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try))
    for child in ast.iter_child_nodes(node):
        yield from packages_in(child, at_import=at_import and not inside)


@cache
def imported() -> dict[tuple[str, bool], str]:
    """Return what `packages_in` finds in the whole package, with a file that it is in."""
    return {
        found: file.relative_to(PACKAGE).as_posix()
        for file in FILES
        if file.suffix == ".py"
        for found in packages_in(ast.parse(file.read_text(encoding="utf-8")))
    }


def test_every_package_that_is_imported_is_declared():
    always, extra = read_packages()
    assert {name: file for (name, _), file in imported().items() if name not in always | extra} == {}


def test_only_what_is_always_installed_is_imported_with_a_module():
    always, _ = read_packages()
    at_import = {name: file for (name, at_import), file in imported().items() if at_import}
    assert {"numpy", "torch"} <= set(at_import)
    assert {name: file for name, file in at_import.items() if name not in always} == {}


def test_every_package_that_is_always_installed_is_imported():
    always, _ = read_packages()
    assert always - {name for name, _ in imported()} == set()


def test_imports_are_seen_wherever_they_are():
    code = """
import PIL.Image
if TYPE_CHECKING:
    import typing_extensions
def f():
    from umap import UMAP
    importlib.import_module("mtkahypar")
    import_extra("Purpose", "open_clip", "open_clip_torch", "open-clip")
"""
    assert list(packages_in(ast.parse(code))) == [
        ("pillow", True),
        ("umap-learn", False),
        ("mtkahypar", False),
        ("open-clip-torch", False),
    ]


def test_every_data_file_matches_a_pattern_of_package_data():
    names = [file.relative_to(PACKAGE).as_posix() for file in FILES if file.suffix != ".py"]
    assert names
    assert [name for name in names if not any(fnmatch(name, one) for one in read_patterns())] == []


def test_every_folder_with_code_is_a_package():
    folders = {file.parent for file in FILES if file.suffix == ".py"}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this session's own paths to the package; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, folder: Path, out: Path) -> Path:
    """Build a distribution by the declared backend, with the tools that are there: no network is needed."""
    out.mkdir(parents=True)
    script = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", script, out, cwd=folder)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """Build both distributions from a copy, so that the checkout stays as it is."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return {"wheel": build("wheel", copy, folder / "a"), "sdist": build("sdist", copy, folder / "b")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_holds_every_file_of_the_package(distributions, kind):
    if kind == "wheel":
        with zipfile.ZipFile(distributions[kind]) as wheel:
            names = set(wheel.namelist())
    else:
        with tarfile.open(distributions[kind]) as sdist:
            names = {name.partition("/src/")[2] for name in sdist.getnames()}
    assert {f"kinfold/{file.relative_to(PACKAGE).as_posix()}" for file in FILES} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_distribution_installs_in_an_empty_environment(distributions, kind, tmp_path):
    wheel = distributions["wheel"]
    if kind == "sdist":
        with tarfile.open(distributions["sdist"]) as sdist:
            sdist.extractall(tmp_path / "unpacked", filter="data")
        (folder,) = (tmp_path / "unpacked").iterdir()
        wheel = build("wheel", folder, tmp_path / "out")
    run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    script = "import kinfold; print(kinfold.__version__, kinfold.__file__)"
    version, file = run(python, "-c", script, cwd=tmp_path).split()
    assert version in wheel.name
    assert Path(file).is_relative_to(tmp_path)
    assert (tmp_path / "empty" / "bin" / "kinfold").exists()
