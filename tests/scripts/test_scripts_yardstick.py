"""Claims about the recorder of behaviour: what it calls a difference, what fails, what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import yardstick
from scripts.yardstick import Record


def grouping(n_clusters: int, *, method: str = "icce") -> None:
    """Stand for a public function."""


def without_method(n_clusters: int) -> None:
    """Stand for what is left of it."""


def with_more(n_clusters: int, *, method: str = "temi", device: str = "auto") -> None:
    """Stand for what became of it otherwise."""


def record_of(function, **hashes: str) -> Record:
    return Record(hashes={"labels": "a" * 64} | hashes, names=yardstick.describe("kinfold.group", function))


def compare_files(folder: Path, before: Record, after: Record) -> int:
    before.write(folder / "before.json")
    after.write(folder / "after.json")
    return yardstick.main(["compare", str(folder / "before.json"), str(folder / "after.json")])


def test_a_record_equals_itself(tmp_path, capsys):
    assert compare_files(tmp_path, record_of(grouping), record_of(grouping)) == 0
    assert "0 differences" in capsys.readouterr().out


def test_a_changed_hash_fails_and_is_named(tmp_path, capsys):
    assert compare_files(tmp_path, record_of(grouping), record_of(grouping, labels="b" * 64)) == 1
    assert "! changed labels: aaaaaaaaaaaa → bbbbbbbbbbbb" in capsys.readouterr().out


def test_a_hash_that_is_gone_fails_and_one_more_does_not(tmp_path, capsys):
    fewer, more = record_of(grouping), record_of(grouping, model="c" * 64)
    assert compare_files(tmp_path, more, fewer) == 1
    assert "! removed model" in capsys.readouterr().out
    assert compare_files(tmp_path, fewer, more) == 0
    assert "  added   model" in capsys.readouterr().out


def test_a_lost_parameter_fails_and_is_named(tmp_path, capsys):
    assert compare_files(tmp_path, record_of(grouping), record_of(without_method)) == 1
    assert "! removed kinfold.group(method): keyword-only = 'icce'" in capsys.readouterr().out


def test_another_default_and_one_more_parameter_are_told_only(tmp_path, capsys):
    assert compare_files(tmp_path, record_of(grouping), record_of(with_more)) == 0
    told = capsys.readouterr().out
    assert "  changed kinfold.group(method): keyword-only = 'icce' → keyword-only = 'temi'" in told
    assert "  added   kinfold.group(device)" in told


def test_a_lost_name_fails(tmp_path, capsys):
    assert compare_files(tmp_path, record_of(grouping), Record(hashes={"labels": "a" * 64})) == 1
    assert "! removed kinfold.group: function" in capsys.readouterr().out


def test_public_names_and_commands_are_found():
    missing: dict[str, str] = {}
    names = yardstick.public_names(missing) | yardstick.cli_names(missing)
    assert "command line" not in missing
    assert names["kinfold.cluster"]["parameters"]["n_clusters"] == "positional or keyword 2 = None"
    assert "X" in names["kinfold.TEMI.fit"]["parameters"]
    assert "--n-clusters" in names["$ kinfold cluster"]["parameters"]


def test_times_versions_and_machines_are_left_out_at_any_depth():
    content = {"fit": [{"nmi": 1.0, "seconds": 3.2}], "machine": {"cores": 2}, "timings": {}, "kinfold": "1"}
    assert yardstick.without_passing(content) == {"fit": [{"nmi": 1.0}]}
    page = "<div><h3>Time</h3><dl>3 s</dl></div><p>Made by Kinfold 0.1.0. 90 %</p><script>let a;</script>"
    assert yardstick.visible_text(yardstick.clean_report(page)) == "Made by Kinfold [version]. 90 %"


def test_a_record_of_another_version_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"format_version": 0}')
    with pytest.raises(SystemExit, match="another version"):
        Record.read(path)
