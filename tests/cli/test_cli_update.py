"""``kinfold update``: what it says, as a table and as JSON, its history, and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kinfold import Run
from support.updating import N_IMAGES, add_images, make_folder_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder_run(tmp_path_factory.mktemp("updating")).path.parent


@pytest.fixture
def home(made, tmp_path):
    home = Path(shutil.copytree(made, tmp_path / "home"))
    file = home / "run" / "manifest.json"
    file.write_text(file.read_text().replace(str(made), str(home)))
    return home


def test_it_says_what_came_and_went_and_takes_it_back(home, kinfold):
    found = kinfold("update", home / "run")
    assert found.exit_code == 0, found.output
    assert "nothing changed" in found.stdout
    assert "never updated" in kinfold("update", home / "run", "--history").stdout
    add_images(home / "photos", 6, seed=1)
    (home / "photos" / "red" / "2.png").unlink()
    (home / "photos" / "red" / "5.png").rename(home / "photos" / "red" / "five.png")
    (home / "photos" / "notes.txt").write_text("no image")
    found = kinfold("update", home / "run", "--workers", 1)
    assert found.exit_code == 0, found.output
    lines = {line.split()[0]: line.split()[1] for line in found.stdout.splitlines() if line.strip()}
    expected = {"came": "6", "went": "1", "moved": "1", "unreadable": "1", "embedded": "7"}
    assert {what: lines[what] for what in expected} == expected
    assert "changed" not in lines
    assert len(Run.open(home / "run").labels) == N_IMAGES + 5
    history = kinfold("update", home / "run", "--history").stdout
    assert "taken back" not in history
    found = kinfold("update", home / "run", "--undo")
    assert "update 1" in found.stdout
    assert len(Run.open(home / "run").labels) == N_IMAGES
    assert "taken back" in kinfold("update", home / "run", "--history").stdout
    assert kinfold("check", home / "run").exit_code == 0


def test_as_json_it_counts_by_group(home, kinfold):
    assert json.loads(kinfold("update", home / "run", "--json").stdout)["changed"] is False
    add_images(home / "photos", 6, seed=1)
    moved = (home / "photos").rename(home / "elsewhere")
    failed = kinfold("update", home / "run", "--json")
    assert failed.exit_code == 2
    assert "SOURCE" in json.loads(failed.stdout)["error"]
    found = json.loads(kinfold("update", home / "run", moved, "--workers", 1, "--json").stdout)
    assert (found["number"], found["changed"], found["source"]) == (1, True, str(moved))
    assert [group["came"] for group in found["groups"]] == [2, 2, 2]
    assert [group["size"] for group in found["groups"]] == [17, 17, 17]
    entries = json.loads(kinfold("update", home / "run", "--history", "--json").stdout)
    assert [(entry["number"], entry["counts"]["came"]) for entry in entries] == [(1, 6)]


@pytest.mark.parametrize("words", [["--undo"], ["--undo", "--history"], ["nowhere"]])
def test_what_can_not_be_done_ends_with_two(home, kinfold, words):
    assert kinfold("update", home / "run", *words).exit_code == 2
