"""CSV, Parquet and Embedding Atlas, read back by the csv module, pandas and pyarrow, row by row."""

from __future__ import annotations

import csv
import io
import logging
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import kinfold
from kinfold.corrections import CORRECTED_SCHEMA
from kinfold.errors import InputError
from kinfold.exports import _writers
from kinfold.gallery.explore._map import map_inputs, write_map
from kinfold.run import Run
from kinfold.storage import hash_json
from support.export_runs import correct, expected


def as_text(record):
    """Return a line as CSV should have it."""
    plain = {name: "" if value is None else str(value) for name, value in record.items()}
    plain["by_hand"] = str(record["by_hand"]).lower()
    return plain


def test_csv_is_read_back_by_the_csv_module(run, tmp_path):
    found = kinfold.export(run, "csv", tmp_path / "labels.csv")
    assert (found.n_images, found.n_unsorted, found.missing) == (40, 3, ())
    with found.path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        lines = list(reader)
    wanted = expected(run)
    columns = ["row", "key", "cluster", "name", "confidence", "original_cluster", "mark", "by_hand"]
    columns.append("typicality")
    assert reader.fieldnames == columns
    assert len(lines) == len(wanted)
    for line, record in zip(lines, wanted, strict=True):
        confidence = np.float32(line.pop("confidence"))
        assert confidence == np.float32(record.pop("confidence"))
        share, typicality = line.pop("typicality"), record.pop("typicality")
        assert share == "" if typicality is None else np.float32(share) == np.float32(typicality)
        assert line == as_text(record)
    assert {line["mark"] for line in lines} == {"", "wrong", "noise"}
    assert {line["cluster"] for line in lines if line["mark"]} == {"-1"}


def test_csv_is_read_back_by_pandas(run, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = kinfold.export(run, "csv", tmp_path / "labels.csv").path
    frame = pandas.read_csv(path, keep_default_na=False, na_values={"name": [""], "mark": [""]})
    wanted = expected(run)
    assert frame["key"].tolist() == [record["key"] for record in wanted]
    assert frame["cluster"].tolist() == [record["cluster"] for record in wanted]
    assert [None if pandas.isna(name) else name for name in frame["name"]] == [
        record["name"] for record in wanted
    ]


def test_parquet_keeps_types_and_values(run, tmp_path):
    found = kinfold.export(run.path, "parquet", tmp_path / "labels.parquet")
    table = pq.read_table(found.path)
    assert table.to_pylist() == expected(run)
    assert table.schema.equals(CORRECTED_SCHEMA)


def test_a_spreadsheet_formula_is_written_as_it_is_and_warned_of(run, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        kinfold.export(run, "csv", tmp_path / "labels.csv")
    assert "spreadsheet" in caplog.text
    assert "=cmd|" in (tmp_path / "labels.csv").read_text(encoding="utf-8")


def test_a_table_needs_no_images(made_run, tmp_path):
    run = made_run([f"{i}" for i in range(50)], np.arange(50) % 7, 9)
    found = kinfold.export(run, "csv", tmp_path / "labels.csv")
    assert found.n_groups == 9
    assert len(found.path.read_text().splitlines()) == 51
    with pytest.raises(InputError, match="source"):
        kinfold.export(run, "folders", tmp_path / "folders")
    assert not (tmp_path / "folders").exists()


def test_many_groups_have_labels_of_their_own(made_run, tmp_path):
    labels = np.arange(20_900) % 10_450
    run = made_run([f"{i}" for i in range(len(labels))], labels, 10_450)
    found = kinfold.export(run, "parquet", tmp_path / "labels.parquet")
    assert found.n_groups == 10_450
    assert np.array_equal(pq.read_table(found.path)["cluster"].to_numpy(), labels)


def test_the_default_place_is_named_after_the_run(made_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = made_run(["a"], np.array([0]), 1)
    assert kinfold.export(run, "csv").path.resolve() == tmp_path / "made.csv"


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
    monkeypatch.setattr(_writers, "MOST_THUMBNAILS", 3)
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
