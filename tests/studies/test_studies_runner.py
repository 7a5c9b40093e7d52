"""Claims about runs: they continue, survive their cells, and never do a fit twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinfold.errors import InputError
from kinfold.methods import Criteria
from studies import runner
from studies.__main__ import main
from studies.cells import Cell, Row, Table
from studies.results import Results
from studies.runner import Settings, estimate, pending, run

A, B, C = (Row(name, "digits", "kmeans", {"max_iter": n}) for n, name in enumerate("abc", start=1))
TABLE = Table("t", "Tiny", (A, B, C))
STAGES = {"labels": {"train": {"acc": 0.5}}}


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "lines.jsonl")


@pytest.fixture
def fits(monkeypatch):
    """Replace the fit by a note of its cell; cells of the names in ``broken`` fail."""
    done, broken = [], set()

    def fit(cell, settings):
        done.append((cell.row.name, cell.seed))
        if cell.row.name in broken:
            return {**cell.describe(), "failed": "broken"}
        return {**cell.describe(), "total_seconds": 60.0, "stages": STAGES}

    monkeypatch.setattr(runner, "run_one", fit)
    return SimpleNamespace(done=done, broken=broken)


def quiet(text):
    pass


def test_a_second_run_does_only_what_is_left(results, fits):
    run([TABLE], (0,), results, Settings(None), quiet)
    assert fits.done == [("a", 0), ("b", 0), ("c", 0)]
    assert run([TABLE], (0, 1), results, Settings(None), quiet) == 3
    assert fits.done[3:] == [("a", 1), ("b", 1), ("c", 1)]
    assert pending([TABLE], (0, 1), results, retry=True) == []


def test_a_changed_row_is_pending_again(results, fits):
    run([TABLE], (0,), results, Settings(None), quiet)
    changed = Table("t", "Tiny", (Row("a", "digits", "kmeans", {"max_iter": 50}), B))
    assert [cell.row.name for cell in pending([changed], (0,), results, retry=False)] == ["a"]


def test_a_failure_ends_its_cell_alone_and_is_tried_again_only_when_asked(results, fits):
    fits.broken.add("a")
    assert run([TABLE], (0,), results, Settings(None), quiet) == 3
    assert run([TABLE], (0,), results, Settings(None), quiet) == 0
    fits.broken.clear()
    assert run([TABLE], (0,), results, Settings(None, retry=True), quiet) == 1
    assert "failed" not in results.read()[A.key, 0]


def test_what_another_run_has_done_meanwhile_is_not_done_again(results, fits):
    def done_elsewhere(text):
        if text.startswith("t · digits · a"):
            results.append({**Cell("t", B, 0).describe(), "total_seconds": 1.0, "stages": STAGES})

    run([TABLE], (0,), results, Settings(None), done_elsewhere)
    assert fits.done == [("a", 0), ("c", 0)]


def test_two_runs_at_once_never_take_the_same_cell(results, fits):
    def start_another(text):
        if text.startswith("t · digits · a"):
            run([TABLE], (0,), results, Settings(None), quiet)

    run([TABLE], (0,), results, Settings(None), start_another)
    assert sorted(fits.done) == [("a", 0), ("b", 0), ("c", 0)]


def test_no_cell_is_started_that_would_end_too_late(results, fits):
    assert run([TABLE], (0,), results, Settings(None, minutes=0), quiet) == 0
    results.append({**Cell("t", A, 7).describe(), "total_seconds": 90.0, "stages": STAGES})
    assert run([Table("t", "", (A,))], (0,), results, Settings(None, minutes=1), quiet) == 0
    assert run([Table("t", "", (A,))], (0,), results, Settings(None, minutes=5), quiet) == 1


def test_cells_whose_data_is_not_there_stay_pending_and_say_so(results, fits):
    said = []
    table = Table("t", "", (Row("x", "cifar-500", "kmeans"), A))
    assert run([table], (0,), results, Settings(None), said.append) == 1
    assert "KINFOLD_DATA" in said[0]
    assert [cell.row.name for cell in pending([table], (0,), results, retry=False)] == ["x"]


def test_estimates_come_from_the_same_fit_then_from_a_like_one_by_its_heads():
    few, many = (Row(str(n), "digits", "temi", {"n_heads": n}) for n in (2, 8))
    cells = {row.name: Cell("t", row, 0) for row in (few, many)}
    lines = {(few.key, 1): {**Cell("t", few, 1).describe(), "total_seconds": 10.0}}
    assert estimate(cells["2"], lines) == 10
    assert estimate(cells["8"], lines) == 40
    assert estimate(cells["8"], {}) is None


@pytest.mark.slow
def test_a_real_run_survives_errors_and_timeouts_and_records_everything(results, tmp_path, monkeypatch):
    icce = Row("icce", "digits", "icce", {"n_heads": 2, "n_epochs": 3, "self_training_iterations": 20})
    wrong = Row("wrong", "digits", "temi", {"beta": 5.0})
    table = Table("t", "Tiny", (wrong, icce), view="neighbors")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert run([Table("t", "", (A,))], (0,), results, Settings(None, timeout=0.01), quiet) == 1
    assert run([table], (0,), results, Settings(None, threads=1, timeout=240), quiet) == 2
    lines = results.read()
    assert "not done after" in lines[A.key, 0]["failed"]
    assert "beta must be in (0, 1]" in lines[wrong.key, 0]["failed"]
    line = lines[icce.key, 0]
    assert set(line["stages"]) == {
        "labels",
        "best head",
        "oracle head",
        "mean head",
        "consensus",
        "classifier",
    }
    assert line["epochs"][1] == 3
    assert len(line["heads"]["loss"]) == len(line["heads"]["acc"]) == 2
    assert 0.1 < line["stages"]["mean head"]["train"]["acc"] <= line["stages"]["oracle head"]["train"]["acc"]
    assert line["stages"]["labels"]["train"] == line["stages"]["classifier"]["train"]
    assert line["seconds"]["cpu"] > 0
    assert line["machine"]["threads"] == 1
    assert Criteria(**line["stages"]["labels"]["criteria"]).live_clusters > 1
    text = json.dumps(list(lines.values()))
    assert str(Path.home()) not in text
    assert str(runner.ROOT) not in text


def test_the_command_line_lists_and_writes_the_page(tmp_path, capsys):
    lines, page = tmp_path / "none.jsonl", tmp_path / "page.md"
    main(["--results", str(lines), "list", "--table", "digits", "--seeds", "0"])
    assert capsys.readouterr().out.count("digits · digits ·") == 5
    main(["--results", str(lines), "show", "--page", str(page)])
    assert "## Digits: all methods" in page.read_text("utf-8")


def test_single_rows_and_data_sets_can_be_named(tmp_path, capsys):
    command = ["--results", str(tmp_path / "none.jsonl"), "list", "--seeds", "0", "--table", "small", "full"]
    main([*command, "--row", "TEMI", "cifar"])
    out = capsys.readouterr().out
    assert out.count("· TEMI · seed 0") == 5  # one per small folder
    assert out.count("full · cifar ·") == 5
    assert "small · cifar-500 · ICCE" not in out
    with pytest.raises(InputError, match="no row is called 'TEMY'"):
        main([*command, "--row", "TEMY"])
