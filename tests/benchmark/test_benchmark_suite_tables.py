"""Claims about tables: the right numbers, the published ones beside, in three formats."""

from __future__ import annotations

import csv
import io

import pytest

from kinfold.benchmark import _suite_running, run_suite
from support.suites import SUITE, Inside, write_suite


@pytest.fixture
def tables(tmp_path, monkeypatch):
    inside = Inside()
    inside.real = False
    monkeypatch.setattr(_suite_running, "run_in_process", inside)

    def make(text=SUITE, **options):
        run_suite(write_suite(tmp_path, text), tmp_path / "out", figures=False, **options)
        return {
            kind: (tmp_path / "out" / f"table.{kind}").read_text(encoding="utf-8")
            for kind in ("md", "tex", "csv")
        }

    return make


def test_mean_and_deviation_over_seeds_stand_beside_what_was_published(tables):
    found = tables()
    assert (
        "| four | k-means | 4 | 80.50 ± 0.71 | 98.5 | 70.00 ± 0.00 | 60.00 ± 0.00 | 2 | 60.0 |" in found["md"]
    )
    assert "Published: A paper, Table 1." in found["md"]
    assert "judged on 40 test rows" in found["md"]
    row = next(csv.DictReader(io.StringIO(found["csv"])))
    assert (row["acc"], row["acc_sd"], row["acc_published"]) == ("0.805000", "0.007071", "0.9850")
    assert r"four & k-means & 4 & 80.50 $\pm$ 0.71 & 98.5" in found["tex"]


def test_one_seed_has_no_deviation_and_an_unfinished_row_says_so(tables):
    found = tables(seeds=[0])
    assert "| 80.00 | 98.5 |" in found["md"]
    assert next(csv.DictReader(io.StringIO(found["csv"])))["acc_sd"] == ""
    assert "| 1 of 2 |" in tables(minutes=0)["md"]


def test_special_characters_are_safe_in_every_format(tables):
    found = tables(SUITE.replace('"k-means"', r'"50 % | a_b & $x^2$ {~}"'))
    assert r"50 % \| a_b & $x^2$ {~}" in found["md"]
    assert r"50 \% | a\_b \& \$x\textasciicircum{}2\$ \{\textasciitilde{}\}" in found["tex"]
    assert len(next(csv.reader(io.StringIO(found["csv"])))) == 25


def test_latex_rows_have_as_many_cells_as_columns(tables):
    body = tables()["tex"]
    columns = body.split("begin{tabular}{")[1].split("}")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert rows
    assert {line.count(" & ") + 1 for line in rows} == {len(columns)}


def test_the_same_lines_give_the_same_bytes(tables):
    assert tables() == tables()
