"""Claims about what people give to the commands, and what they are told of what was skipped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinfold.run import Run
from support.hostile_files import encode, photo
from support.image_folders import write_images

FAST = ("-k", "3", "-m", "kmeans", "-b", "pixels", "--workers", "1")


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder whose name is not UTF-8, as old disks and archives have them."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no name that isn't UTF-8")
    return folder


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_folder_that_is_not_utf8_may_lie_above_everything(odd, monkeypatch, everything):
    write_images(odd / "photos")
    monkeypatch.chdir(odd)
    first = (
        ("cluster", "photos", *FAST),
        ("cluster", odd / "photos", *FAST, "--out", odd / "run"),
        ("predict", odd / "run", odd / "photos", "--out", odd / "new.parquet"),
        ("export", odd / "run", "--to", "csv", "--out", odd / "short.csv"),
    )
    others = (
        ("embed", odd / "photos", "-b", "pixels", "--workers", "1", "--out", odd / "features"),
        ("cluster", odd / "features", "-k", "3", "-m", "kmeans", "--out", odd / "again", "--json"),
        ("report", odd / "run"),
        ("refine", odd / "run"),
        *(
            ("export", odd / "run", "--to", to, "--out", odd / f"out.{ending}")
            for to, ending in (("csv", "csv"), ("parquet", "parquet"), ("html", "html"), ("coco", "coco"))
        ),
        ("export", odd / "run", "--to", "embedding-atlas", "--out", odd / "atlas.parquet"),
    )
    for arguments in (*first, *(others if everything else ())):
        # Each in a process of its own: only there is the terminal's encoding what it is for people.
        done = subprocess.run([sys.executable, "-m", "kinfold", *arguments], capture_output=True)
        assert done.returncode == 0, (arguments, done.stderr)
    run = Run.open(odd / "run")
    assert os.fsencode(run.manifest.source["uri"]) == os.fsencode(odd / "photos")
    assert run.images() is not None
    assert (odd / "photos.kinfold").is_dir()
    (odd / "run" / "manifest.json").read_bytes().decode("utf-8")


def test_what_was_skipped_is_told_with_the_command_that_mends_it(tmp_path, kinfold):
    write_images(tmp_path / "photos")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for number in range(3):
        (tmp_path / "photos" / f"lfs{number}.jpg").write_bytes(pointer)
    (tmp_path / "photos" / "empty.jpg").write_bytes(b"")
    (tmp_path / "photos" / "cut.png").write_bytes(encode(photo(), "PNG")[:-40])
    for command in (("cluster", *FAST), ("embed", "-b", "pixels", "--workers", "1")):
        result = kinfold(command[0], tmp_path / "photos", *command[1:], "--out", tmp_path / command[0])
        assert result.exit_code == 0, result.output
        told = " ".join(result.output.split())
        assert "why skipped 3 like lfs0.jpg: not an image" in told
        assert "git lfs pull" in told
        assert "1 like empty.jpg: empty" in told


def test_nothing_is_explained_where_nothing_was_skipped(tmp_path, kinfold):
    write_images(tmp_path / "photos")
    result = kinfold("cluster", tmp_path / "photos", *FAST, "--out", tmp_path / "run")
    assert "why skipped" not in result.output


def test_where_no_image_can_be_used_the_first_is_shown_with_its_path(tmp_path, kinfold):
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"nowhere/{n}.png\n" for n in range(4)))
    result = kinfold("cluster", tmp_path / "list.csv", *FAST, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"{tmp_path}/nowhere/0.png" in "".join(result.output.split())


def test_a_guessed_range_is_told(tmp_path, kinfold):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        values = np.random.default_rng(number).integers(0, 2000, (16, 16)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "photos" / f"{number}.png")
    result = kinfold("cluster", tmp_path / "photos", *FAST, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "6 of 6 images looked at don't say what is white" in " ".join(result.output.split())


def test_a_table_found_from_the_current_folder_keeps_its_images(tmp_path, kinfold, monkeypatch):
    write_images(tmp_path / "here" / "photos")
    (tmp_path / "lists").mkdir()
    keys = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.*g"))
    (tmp_path / "lists" / "a.csv").write_text("".join(f"{key}\n" for key in keys))
    monkeypatch.chdir(tmp_path / "here")
    result = kinfold("cluster", tmp_path / "lists" / "a.csv", *FAST, "--out", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path)
    images = Run.open(tmp_path / "run").images()
    assert images.read(0) == (tmp_path / "here" / keys[0]).read_bytes()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["source"]["options"]["base"] == str(
        tmp_path / "here"
    )


def test_the_export_for_embedding_atlas_can_be_read_back(tmp_path, kinfold):
    write_images(tmp_path / "photos")
    kinfold("cluster", tmp_path / "photos", *FAST, "--out", tmp_path / "run")
    atlas = tmp_path / "atlas.parquet"
    assert kinfold("export", tmp_path / "run", "--to", "embedding-atlas", "--out", atlas).exit_code == 0
    back = kinfold(
        "cluster", atlas, "--column", "vector", "-k", "3", "-m", "kmeans", "--out", tmp_path / "again"
    )
    assert back.exit_code == 0, back.output
    first, again = (Run.open(tmp_path / name).assignments for name in ("run", "again"))
    assert first["key"].to_pylist() == again["key"].to_pylist()
    assert Run.open(tmp_path / "again").images() is not None
