"""Claims about what is packaged: wheel and source distribution hold everything that the code reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "kinfold"
FILES = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def read_patterns() -> list[str]:
    """Return the patterns of package data, as pyproject.toml gives them."""
    tomllib = pytest.importorskip("tomllib")
    with (ROOT / "pyproject.toml").open("rb") as file:
        patterns: list[str] = tomllib.load(file)["tool"]["setuptools"]["package-data"]["kinfold"]
    return patterns


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
