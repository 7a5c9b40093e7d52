"""``kinfold export``, from a run to files, and how it refuses."""

from __future__ import annotations

import csv
import inspect
import json
import re

import pytest

import kinfold as package
from kinfold.cli import _app
from kinfold.cli import export as command
from kinfold.exports import FORMATS
from kinfold.exports._job import LINKS


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_is_written_and_told_of(run, tmp_path, kinfold, to):
    out = tmp_path / f"out{FORMATS[to].endings[0] if FORMATS[to].endings else ''}"
    result = kinfold("export", run, "--to", to, "--out", out, "--json", "--quiet")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["path"] == str(out)
    assert (found["to"], found["n_images"], found["n_groups"], found["missing"]) == (to, 30, 3, [])
    assert out.exists()
    again = kinfold("export", run, "--to", to, "--out", out)
    assert again.exit_code == 2
    assert "--force" in re.sub(r"\s+", " ", again.output)
    assert kinfold("export", run, "--to", to, "--out", out, "--force").exit_code == 0


def test_folders_are_copied_where_that_is_asked(run, photos, tmp_path, kinfold):
    result = kinfold("export", run, "-t", "folders", "-o", tmp_path / "out", "--copy")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / "labels.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            copied, original = tmp_path / "out" / line["file"], photos / "photos" / line["key"]
            assert copied.read_bytes() == original.read_bytes()
            assert not copied.samefile(original)


def test_missing_originals_are_named(run, photos, tmp_path, kinfold):
    original = photos / "photos" / "07.png"
    aside = original.rename(tmp_path / "07.png")
    original.symlink_to("nowhere")
    try:
        result = kinfold("export", run, "-t", "coco", "-o", tmp_path / "out")
    finally:
        original.unlink()
        aside.rename(original)
    assert result.exit_code == 0, result.output
    assert "07.png (missing" in re.sub(r"\s+", " ", result.output)
    assert (tmp_path / "out" / "missing.csv").exists()


@pytest.mark.parametrize(
    "words",
    [["--to", "csw"], [], ["--to", "csv", "--out", "x.parquet"], ["--to", "folders", "--link", "soft"]],
)
def test_wrong_calls_end_with_a_message(run, kinfold, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert kinfold("export", run, *words).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_knows_the_formats_of_the_library():
    assert tuple(FORMATS) == command.FORMATS
    assert _app.LINKS == LINKS


def test_the_function_of_the_front_door_stays_a_function():
    import kinfold.exports  # noqa: F401 - a room of this name must not hide the function

    assert inspect.isfunction(package.export)
