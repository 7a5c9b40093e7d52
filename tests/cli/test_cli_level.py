"""``kinfold level``, and levels of ``predict`` and ``export``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kinfold import Run
from support.leveled import K, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("leveled")).path


@pytest.fixture
def path(made, tmp_path):
    path = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.copy(made.parent / "digits.npy", tmp_path)
    return path


def test_it_shows_the_groups_and_goes_back(path, kinfold):
    before = (path / "assignments.parquet").read_bytes()
    found = kinfold("level", path, "-k", 12, "--features", path.parent / "digits.npy")
    assert found.exit_code == 0, found.output
    assert "12 groups" in found.stdout
    assert "those of the fit" in found.stdout
    assert Run.open(path).level == 12
    assert "as before" in kinfold("level", path, "-k", 12).stdout
    assert kinfold("level", path, "-k", "fit", "--quiet").exit_code == 0
    assert (path / "assignments.parquet").read_bytes() == before


def test_as_json_it_tells_what_was_carried(path, kinfold):
    found = json.loads(kinfold("level", path, "-k", 4, "--json").stdout)
    expected = {"before": None, "level": 4, "n_groups": 4, "n_clusters": 4, "carried": {}, "left": {}}
    assert {name: found[name] for name in expected} == expected
    assert sum(group["size"] for group in found["groups"]) == 600
    assert found["report"] is None
    assert json.loads(kinfold("level", path, "-k", K, "--json").stdout)["level"] is None


@pytest.mark.parametrize("groups", ["fits", "-3", "2.5", "²", "999"])
def test_what_is_no_level_ends_with_two(path, kinfold, groups):
    found = kinfold("level", path, "-k", groups)
    assert found.exit_code == 2
    assert Run.open(path).level is None


def test_predictions_and_exports_take_levels(path, kinfold, tmp_path):
    vectors = path.parent / "digits.npy"
    found = kinfold("predict", path, vectors, "--out", tmp_path / "p.parquet", "--levels", "20, 5")
    assert found.exit_code == 0, found.output
    assert pq.read_table(tmp_path / "p.parquet").column_names[-2:] == ["level_5", "level_20"]
    found = kinfold("export", path, "--to", "csv", "--out", tmp_path / "e.csv", "--levels", "5")
    assert found.exit_code == 0, found.output
    header = (tmp_path / "e.csv").read_text().splitlines()[0]
    assert header.endswith(",by_hand,typicality,level_5")
    for wrong in ("5,", "five", "0", "-5"):
        found = kinfold("export", path, "--to", "csv", "--out", tmp_path / "f.csv", f"--levels={wrong}")
        assert (found.exit_code, "--levels" in found.output) == (2, True)


def test_predictions_and_exports_leave_strays_in_no_group(kinfold, path, tmp_path):
    found = kinfold("export", path, "--to", "csv", "--out", tmp_path / "e.csv", "--strays", "0.02")
    assert found.exit_code == 0, found.output
    assert "stray" in (tmp_path / "e.csv").read_text()
    vectors = path.parent / "digits.npy"
    found = kinfold("predict", path, vectors, "--out", tmp_path / "p.parquet", "--strays", "0.02", "--json")
    assert found.exit_code == 0, found.output
    clusters = pq.read_table(tmp_path / "p.parquet")["cluster"].to_numpy()
    assert json.loads(found.stdout)["n_strays"] == (clusters < 0).sum() > 0
    found = kinfold("predict", path, vectors, "--out", tmp_path / "p.parquet", "--strays", "2")
    assert found.exit_code != 0
    assert "strays" in found.output
