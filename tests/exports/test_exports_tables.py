"""CSV and Parquet, read back by the csv module, pandas and pyarrow, row by row."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.corrections import CORRECTED_SCHEMA
from kinfold.errors import InputError
from support.export_runs import expected

NUMBERS = ("row", "cluster", "original_cluster")


def as_text(record):
    """Return a line as CSV should have it."""
    plain = {name: "" if value is None else str(value) for name, value in record.items()}
    plain["by_hand"] = str(record["by_hand"]).lower()
    return plain


def test_csv_is_read_back_by_the_csv_module(run, tmp_path):
    found = kinfold.export(run, "csv", tmp_path / "labels.csv")
    assert (found.n_images, found.n_unsorted, found.missing) == (40, 3, ())
    with found.path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    wanted = expected(run)
    assert [line.keys() for line in lines] == [CORRECTED_SCHEMA.names and wanted[0].keys()] * len(wanted)
    for line, record in zip(lines, wanted, strict=True):
        confidence = np.float32(line.pop("confidence"))
        assert confidence == np.float32(record.pop("confidence"))
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
