"""Names of files in any letters, whatever encoding the output and the locale have."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

NAMES = ("写真", "é", "Ω …")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose name and files have letters that Western encodings lack, and a run of it."""
    home = tmp_path_factory.mktemp("letters") / "写真"
    home.mkdir()
    for row in range(9):
        Image.fromarray(np.full((8, 8, 3), 25 * row, np.uint8)).save(home / f"{NAMES[row % 3]} {row}.png")
    result = kinfold(
        home.parent, "cluster", home.name, "-k", "2", "-m", "kmeans", "-b", "pixels", "-o", "run"
    )
    assert result.returncode == 0, result.stderr
    return home.parent


def kinfold(folder, *words, **variables):
    """Run a command in a folder, with its own environment."""
    return subprocess.run(
        [sys.executable, "-m", "kinfold", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1:strict"])
def test_letters_that_the_output_lacks_are_replaced(folder, tmp_path, encoding):
    out = str(tmp_path / "写.csv")
    result = kinfold(folder, "export", "run", "--to", "csv", "--out", out, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert rb"\u5199" in result.stdout + result.stderr


def test_an_ascii_locale_changes_no_name(folder, tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    out = tmp_path / "folders"
    result = kinfold(folder, "export", "run", "--to", "folders", "--out", str(out), **locale)
    assert result.returncode == 0, result.stderr
    found = sorted(path.name for path in out.rglob("*.png"))
    assert found == sorted(path.name for path in (folder / "写真").iterdir())


def test_without_a_home_the_cache_of_nouns_says_where_it_could_be(monkeypatch):
    from kinfold.errors import InputError
    from kinfold.language.cache import cache_folder

    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("KINFOLD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    with pytest.raises(InputError, match="KINFOLD_CACHE"):
        cache_folder()
