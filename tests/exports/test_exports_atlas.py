"""The Parquet for Embedding Atlas, read back as it reads it: by pandas, neighbours by line."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kinfold
from kinfold.exports import _tables
from kinfold.gallery.explore._map import map_inputs, write_map
from kinfold.run import Run
from kinfold.storage import hash_json
from support.export_runs import correct, expected


@pytest.fixture(scope="module")
def mapped(photos, tmp_path_factory):
    """A run with a graph of neighbours, corrected, and with a map of given places."""
    home = tmp_path_factory.mktemp("mapped")
    parameters = {"n_epochs": 1, "n_heads": 2, "n_neighbors": 4}
    options = {"method": "temi", "backbone": "pixels", "report": False, "n_workers": 1}
    run = kinfold.cluster(photos, 4, out=home / "run", method_parameters=parameters, **options)
    rows = run.assignments["row"].to_numpy()
    points = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    write_map(run.path / "map.parquet", rows, points, {"inputs": hash_json(map_inputs(run))})
    return correct(Run.open(run.path)), points


def test_pandas_reads_places_neighbours_and_images(mapped, tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    run, points = mapped
    found = kinfold.export(run, "embedding-atlas", tmp_path / "atlas.parquet")
    frame = pandas.read_parquet(found.path)
    wanted, images = expected(run), run.images()
    assert frame["key"].tolist() == [record["key"] for record in wanted]
    assert frame["cluster"].tolist() == [record["cluster"] for record in wanted]
    assert np.array_equal(frame[["projection_x", "projection_y"]].to_numpy(), points)
    assert frame["path"].tolist() == [str(images.path(record["row"])) for record in wanted]
    assert {label for label, mark in zip(frame["label"], frame["mark"], strict=True) if mark} >= {"unsorted"}
    for cell, record in zip(frame["image"], wanted, strict=True):
        with (
            Image.open(io.BytesIO(cell["bytes"])) as thumbnail,
            Image.open(images.path(record["row"])) as own,
        ):
            assert thumbnail.size == own.size  # they are smaller than thumbnails


def test_neighbours_are_lines_of_the_table(mapped, tmp_path):
    run, _ = mapped
    found = kinfold.export(run, "embedding-atlas", tmp_path / "atlas.parquet")
    cells = pq.read_table(found.path)["neighbors"].to_pylist()
    matrix = np.asarray(run.features().matrix("cls")[:])
    k = len(cells[0]["ids"])
    assert k == 4
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -2)
    for cell, similar in zip(cells, similarities, strict=True):
        np.testing.assert_allclose(1 - np.array(cell["distances"]), similar[cell["ids"]], atol=1e-5)
        np.testing.assert_allclose(similar[cell["ids"]], np.sort(similar)[::-1][:k], atol=1e-5)


def test_without_a_map_there_are_vectors_to_make_one_of(run, tmp_path, monkeypatch):
    monkeypatch.setattr(_tables, "MOST_THUMBNAILS", 3)
    table = pq.read_table(kinfold.export(run, "embedding-atlas", tmp_path / "atlas.parquet").path)
    assert "projection_x" not in table.column_names
    assert "image" not in table.column_names
    matrix = np.asarray(run.features().matrix("cls")[:])
    assert np.array_equal(np.stack(table["vector"].to_numpy()), matrix)


def test_what_is_gone_is_left_out(mapped, tmp_path):
    run = Run.open(shutil.copytree(mapped[0].path, tmp_path / "run"))
    shutil.rmtree(run.path / "features")
    table = pq.read_table(kinfold.export(run, "embedding-atlas", tmp_path / "atlas.parquet").path)
    assert "projection_x" in table.column_names
    assert "neighbors" not in table.column_names
    assert table.num_rows == len(expected(run))
