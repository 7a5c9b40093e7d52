"""Claims about exports with further levels: columns of tables, fields of other programs, nested folders."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.corrections import Corrections, Mark, Merge, Move
from kinfold.errors import InputError
from kinfold.levels import open_levels
from kinfold.run import Run
from support.image_folders import write_images

LEVELS = (7, 2)
COLUMNS = ["level_2", "level_7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 45 images in four groups, one image placed by hand and one marked."""
    home = tmp_path_factory.mktemp("levels")
    write_images(home / "photos")
    options = {"method": "kmeans", "backbone": "pixels", "n_workers": 0, "report": False}
    run = kinfold.cluster(home / "photos", 4, out=home / "run", **options)
    with Corrections.open(run) as corrections:
        corrections.apply(Mark([0], "noise"))
        corrections.apply(Move([1], 3, None))
    return run


@pytest.fixture(scope="module")
def expected(run):
    tree = open_levels(run)
    return {name: tree.labels(int(name[6:])).tolist() for name in COLUMNS}


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("to", ["csv", "parquet", "embedding-atlas"])
def test_tables_have_a_column_for_each_level(run, expected, tmp_path, to):
    out = tmp_path / ("out.csv" if to == "csv" else "out.parquet")
    kinfold.export(run, to, out, levels=LEVELS)
    if to == "csv":
        lines = read_csv(out)
        found = {name: [int(line[name]) for line in lines] for name in COLUMNS}
        assert list(lines[0])[-2:] == COLUMNS
    else:
        table = pq.read_table(out)
        found = {name: table[name].to_pylist() for name in COLUMNS}
    assert found == expected
    kinfold.export(run, to, out, force=True)  # recognized as an earlier one, with the columns and without
    kinfold.export(run, to, out, levels=LEVELS, force=True)


@pytest.mark.parametrize("to", ["imagefolder", "coco", "fiftyone"])
def test_other_programs_get_fields(run, expected, tmp_path, to):
    out = tmp_path / "out"
    kinfold.export(run, to, out, levels=LEVELS)
    if to == "imagefolder":
        lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
        rows = [line["row"] for line in lines]
    elif to == "coco":
        lines = json.loads((out / "annotations.json").read_text())["annotations"]
        rows = [line["image_id"] for line in lines]
    else:
        labels = json.loads((out / "labels.json").read_text())["labels"]
        lines = [one["attributes"] for one in labels.values()]
        rows = [line["row"] for line in lines]
    for name in COLUMNS:
        assert [line[name] for line in lines] == [expected[name][row] for row in rows]
    assert json.loads((out / "manifest.json").read_text())["levels"] == [2, 7] if to != "coco" else True


def test_folders_lie_in_one_another_from_coarse_to_fine(run, expected, tmp_path):
    kinfold.export(run, "folders", tmp_path / "out", levels=LEVELS)
    photos = run.path.parent / "photos"
    for line, coarse, fine in zip(
        read_csv(tmp_path / "out" / "labels.csv"), expected["level_2"], expected["level_7"], strict=True
    ):
        assert (tmp_path / "out" / line["file"]).read_bytes() == (photos / line["key"]).read_bytes()
        parts = line["file"].split("/")[:-1]
        own = f"group {line['cluster']}"
        assert parts == (
            ["unsorted"]
            if line["cluster"] == "-1"
            else [f"level-2-group-{coarse}", f"level-7-group-{fine}", own]
        )
    assert kinfold.check(tmp_path / "out").is_whole


def test_predicted_folders_lie_in_one_another_too(run, tmp_path):
    photos = run.path.parent / "photos"
    kinfold.predict(run, photos, tmp_path / "out", to="folders", levels=LEVELS, n_workers=0)
    lines = read_csv(tmp_path / "out" / "labels.csv")
    assert len(lines) == 45
    for line in lines:
        parts = line["file"].split("/")
        assert parts[:2] == [f"level-2-group-{line['level_2']}", f"level-7-group-{line['level_7']}"]


@pytest.mark.parametrize("to", ["html", "onnx"])
def test_formats_without_a_place_for_levels_say_so(run, tmp_path, to):
    with pytest.raises(InputError, match="leave the levels out"):
        kinfold.export(run, to, tmp_path / f"out.{to}", levels=LEVELS)


@pytest.mark.parametrize(("levels", "words"), [([100], "none of 100"), ([0], "levels"), (["2"], "levels")])
def test_levels_that_a_run_lacks_are_refused_before_anything_is_written(run, tmp_path, levels, words):
    with pytest.raises(InputError, match=words):
        kinfold.export(run, "csv", tmp_path / "out.csv", levels=levels)
    assert list(tmp_path.iterdir()) == []


def test_onnx_has_the_groups_of_a_coarser_level_and_refuses_a_finer_one(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    path = shutil.copytree(run.path, tmp_path / "run")
    kinfold.level(path, 7)
    with pytest.raises(InputError, match="kinfold level -k 4"):
        kinfold.export(path, "onnx", tmp_path / "out.onnx")
    kinfold.level(path, 3)
    coarse = Run.open(path)
    kinfold.export(coarse, "onnx", tmp_path / "out.onnx")
    X = np.asarray(coarse.features().matrix("cls")[:], np.float32)
    model = ReferenceEvaluator(onnx.load(tmp_path / "out.onnx"))
    probabilities, groups = model.run(["probabilities", "group"], {"features": X})
    assert probabilities.shape == (45, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    assert (groups == coarse.labels).mean() > 0.9
    with Corrections.open(coarse) as corrections:
        corrections.apply(Merge([0], 1))
    kinfold.export(coarse, "onnx", tmp_path / "out.onnx", force=True)
    merged = ReferenceEvaluator(onnx.load(tmp_path / "out.onnx")).run(["group"], {"features": X})[0]
    np.testing.assert_array_equal(merged, np.where(groups == 0, 1, groups))
