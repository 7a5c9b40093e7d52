"""kinfold check: every file of a folder is read and compared with what was recorded."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import kinfold
from kinfold.cli import app
from kinfold.corrections import Corrections, Rename
from kinfold.errors import InputError
from kinfold.neighbors import knn_graph
from kinfold.pipeline import check
from support.image_folders import write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corrected run, and exports and a graph beside it."""
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    run = kinfold.cluster(
        home / "photos", 3, method="kmeans", backbone="pixels", out=home / "run", n_workers=1
    )
    with Corrections.open(run) as corrections:
        corrections.apply(Rename(0, "cats"))
    kinfold.refine(run)
    kinfold.export(run, "folders", home / "out")
    knn_graph(np.random.default_rng(0).normal(size=(40, 4)), 3).save(home / "graph")
    return home


@pytest.fixture
def home(made, tmp_path):
    return shutil.copytree(made, tmp_path / "home")


def contents(home):
    """All files' bytes, but for SQLite's, which merges its log when it closes a file."""
    return {
        file: file.read_bytes() for file in home.rglob("*") if file.is_file() and "sqlite" not in file.name
    }


@pytest.mark.parametrize(
    ("name", "kind", "n_files"),
    [
        ("run", "run", 17),
        ("run/features", "feature store", 4),
        ("graph", "neighbor graph", 1),
        ("out", "export", 1),
    ],
)
def test_what_is_whole_is_said_to_be(home, name, kind, n_files):
    before = contents(home)
    found = check(home / name)
    assert (found.kind, found.is_whole, len(found.files)) == (kind, True, n_files)
    assert {file.state for file in found.files} <= {"ok", "readable"}
    assert contents(home) == before


@pytest.mark.parametrize(
    "name",
    [
        "assignments.parquet",
        "skipped.parquet",
        "model.json",
        "model.safetensors",
        "report.html",
        "features/manifest.json",
        "features/index.parquet",
        "features/variants/cls/00000.npy",
        "corrections.sqlite",
        "proposals.parquet",
    ],
)
@pytest.mark.parametrize("how", ["changed", "missing", "cut"])
def test_each_damaged_or_missing_file_is_named(home, name, how):
    file = home / "run" / name
    content = bytearray(file.read_bytes())
    if how == "changed":
        for place in range(len(content) // 3, len(content) // 3 + 60):
            content[place % len(content)] ^= 0x55
    file.unlink()
    if how != "missing":
        file.write_bytes(content if how == "changed" else content[: len(content) // 2])
    if how == "changed" and name == "proposals.parquet":
        return  # it has no hash: proposals can always be computed again
    if how == "missing" and name in ("corrections.sqlite", "proposals.parquet", "features/manifest.json"):
        return  # a run may be without the first two; without the last there is no store
    found = check(home / "run")
    assert not found.is_whole
    wrong = {one.name: one.state for one in found.files if one.state not in ("ok", "readable")}
    assert wrong == {name: "missing" if how == "missing" else "damaged"}


def test_a_changed_graph_and_a_changed_export_are_found(home):
    for name in ("indices", "similarities"):
        content = bytearray((home / "graph" / f"{name}.npy").read_bytes())
        content[-1] ^= 1
        (home / "graph" / f"{name}.npy").write_bytes(content)
    assert "indices.npy is damaged" in check(home / "graph").files[0].reason
    (home / "out" / "new").write_text("")
    assert check(home / "out").files[0].reason == "files were added or removed since the export"


def test_the_command_says_it_by_its_exit_code_and_in_json(home):
    invoke = CliRunner().invoke
    whole = invoke(app, ["check", str(home / "run"), "--json"])
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["whole"] is True
    file = home / "run" / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    damaged = invoke(app, ["check", str(home / "run"), "--json"])
    assert damaged.exit_code == 2
    states = {one["name"]: one["state"] for one in json.loads(damaged.stdout)["files"]}
    assert states["model.safetensors"] == "damaged"
    quiet = invoke(app, ["check", str(home / "run"), "-q"])
    assert quiet.exit_code == 2
    assert "model.safetensors is damaged" in quiet.output
    shown = invoke(app, ["check", str(home / "run")])
    assert "not all files are as they were written" in shown.output


def test_what_is_no_folder_of_ours_is_refused(home, tmp_path):
    for place in (home / "photos", home / "nothing", home / "run" / "manifest.json"):
        with pytest.raises(InputError):
            check(place)
    os.mkfifo(home / "run" / "pipe")
    with pytest.raises(InputError, match="pipe"):
        check(home / "run")


@pytest.mark.parametrize("given", ["vectors", "paths"])
@pytest.mark.parametrize("how", ["changed", "missing"])
def test_what_was_given_in_memory_is_compared_with_the_hash_in_its_name(home, tmp_path, given, how):
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype("f4")
    source = vectors if given == "vectors" else sorted((home / "photos").rglob("*.png"))
    run = kinfold.cluster(
        source, 3, out=tmp_path / "given", method="kmeans", backbone="pixels", n_workers=0, report=False
    )
    (file,) = run.path.glob("given-*")
    states = [(one.name, one.state) for one in check(run.path).files if one.name == file.name]
    assert states == [(file.name, "ok")]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if how == "changed":
        file.write_bytes(content)
    wrong = {one.name: one.state for one in check(run.path).files if one.state not in ("ok", "readable")}
    assert wrong == {file.name: "damaged" if how == "changed" else "missing"}


def test_corrections_that_were_set_aside_are_looked_through(home):
    kept = shutil.copy(home / "run" / "corrections.sqlite", home / "run" / "corrections-1.sqlite")
    assert {one.name: one.state for one in check(home / "run").files}["corrections-1.sqlite"] == "readable"
    with open(kept, "r+b") as stream:
        stream.truncate(5000)
    assert {one.name: one.state for one in check(home / "run").files}["corrections-1.sqlite"] == "damaged"
