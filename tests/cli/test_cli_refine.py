"""``kinfold refine``: what it says and what it leaves in the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kinfold import Run
from kinfold.corrections import Accept, Confirm, Corrections, Rename


@pytest.fixture
def path(run, tmp_path):
    """A run with two images in the wrong group."""
    path = Path(shutil.copytree(run, tmp_path / "run"))
    opened = Run.open(path)
    rows = opened.assignments["row"].to_numpy()[np.flatnonzero(opened.labels == 0)[:2]]
    with Corrections.open(opened) as corrections:
        corrections.apply(Accept(rows, [1, 1]))
        others = opened.assignments["row"].to_numpy()[np.flatnonzero(opened.labels == 0)[2:4]]
        corrections.apply(Confirm(others))
        corrections.apply(Rename(1, "[red] things"))
    return path


def test_it_shows_what_would_go_where(path, kinfold):
    found = kinfold("refine", path)
    assert found.exit_code == 0, found.output
    assert "1 [red] things" in found.stdout
    assert "none yet" in found.stdout
    assert (path / "proposals.parquet").exists()


def test_as_json_it_counts_changes_and_accepts_them(path, kinfold):
    found = kinfold("refine", path, "--accept", "--json", "--quiet")
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert summary["n_accepted"] == summary["n_proposals"] == 2
    assert summary["changes"] == [{"from": 1, "from_name": "[red] things", "to": 0, "to_name": "", "n": 2}]
    run = Run.open(path)
    with Corrections.open(run) as corrections:
        assert (corrections.state.labels == run.labels).all()
    again = json.loads(kinfold("refine", path, "--json", "--quiet").stdout)
    assert (again["n_proposals"], again["changes"]) == (0, [])


def test_with_nothing_placed_by_hand_nothing_is_proposed_or_accepted(run, tmp_path, kinfold):
    path = Path(shutil.copytree(run, tmp_path / "fresh"))
    found = kinfold("refine", path, "--accept")
    assert found.exit_code == 0, found.output
    assert "by hand yet" in " ".join(found.output.split())
    summary = json.loads(kinfold("refine", path, "--accept", "--json", "--quiet").stdout)
    assert (summary["n_proposals"], summary["n_accepted"], summary["changes"]) == (0, 0, [])


def test_a_damaged_file_of_corrections_is_said_and_left(path, kinfold):
    (path / "corrections.sqlite").write_bytes(b"no database")
    found = kinfold("refine", path)
    assert found.exit_code == 2
    assert "corrections.sqlite is damaged" in found.output.replace("\n", "")
    assert (path / "corrections.sqlite").read_bytes() == b"no database"


@pytest.mark.parametrize("words", [["refine"], ["refine", "nowhere"], ["refine", ".", "--min-confidence", 2]])
def test_wrong_calls_end_with_a_message(kinfold, words):
    assert kinfold(*words).exit_code == 2
