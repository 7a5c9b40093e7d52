from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from kinfold.errors import FormatError, InputError
from kinfold.run import (
    FORMAT_VERSION,
    Manifest,
    Run,
    is_run,
    read_manifest,
    write_assignments,
    write_manifest,
    write_skipped,
)
from kinfold.storage import hash_file


@dataclass
class Top:
    clusters: np.ndarray
    probabilities: np.ndarray


@pytest.fixture
def path(tmp_path):
    """A small finished run, written by hand."""
    path = tmp_path / "photos.kinfold"
    path.mkdir()
    top = Top(np.array([[1, 0], [0, 1], [1, 0]], np.int32), np.full((3, 2), 0.5, np.float32))
    write_assignments(path / "assignments.parquet", np.array([0, 2, 3]), pa.array(["a", "c", "d"]), top)
    skipped = pa.table({"row": pa.array([1], pa.int64()), "key": ["b"], "reason": ["empty"]})
    write_skipped(path / "skipped.parquet", skipped)
    (path / "model.json").write_text("{}")
    outputs = {name: hash_file(path / name) for name in ("assignments.parquet", "skipped.parquet")}
    manifest = {
        "parameters": {"n_clusters": 2, "method": "kmeans"},
        "stages": {
            "fit": {"inputs": "0", "outputs": {"model.json": hash_file(path / "model.json")}, "seconds": 1.0},
            "assign": {"inputs": "0", "outputs": outputs, "seconds": 1.0},
        },
        "metrics": {"accuracy": 0.5},
        "later": "kept",
    }
    write_manifest(path, manifest)
    return path


def edit(path, **changes):
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest |= changes
    file.write_text(json.dumps({key: value for key, value in manifest.items() if value is not ...}))


def test_a_finished_run_opens_with_its_groups_skips_and_metrics(path):
    run = Run.open(str(path))
    assert run.path == path
    assert run.n_clusters == 2
    assert run.labels.tolist() == [1, 0, 1]
    assert run.labels.dtype == np.int32
    assert run.assignments["key"].to_pylist() == ["a", "c", "d"]
    assert run.skipped.to_pylist() == [{"row": 1, "key": "b", "reason": "empty"}]
    assert run.metrics == {"accuracy": 0.5}
    assert "kmeans" in repr(run)


def test_labels_cannot_be_changed_by_accident(path):
    with pytest.raises(ValueError, match="read-only"):
        Run.open(path).labels[0] = 9


def test_the_manifest_starts_with_format_and_version_and_keeps_unknown_entries(path):
    assert list(json.loads((path / "manifest.json").read_text()))[:2] == ["format", "format_version"]
    assert read_manifest(path)["later"] == "kept"


def test_a_newer_format_is_refused_with_the_way_out(path):
    edit(path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(FormatError, match=r"newer Kinfold .*pip install --upgrade kinfold"):
        Run.open(path)
    assert is_run(path)


@pytest.mark.parametrize("version", [None, "1", 0, True, 1.0, ...])
def test_an_impossible_version_is_damage(path, version):
    edit(path, format_version=version)
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        Run.open(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null"])
def test_an_unreadable_manifest_is_an_error_that_names_it(path, content):
    (path / "manifest.json").write_bytes(content)
    with pytest.raises((FormatError, InputError), match=r"manifest\.json"):
        Run.open(path)
    assert not is_run(path)


@pytest.mark.parametrize("section", ["source", "parameters", "features", "stages", "metrics"])
def test_a_missing_section_is_damage_that_is_named(path, section):
    edit(path, **{section: ...})
    with pytest.raises(FormatError, match=f"'{section}' is missing"):
        Run.open(path)


def test_what_is_no_run_is_refused_as_input(path, tmp_path):
    with pytest.raises(InputError, match="doesn't exist"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        Run.open(path / "model.json")
    with pytest.raises(InputError, match=r"no run of Kinfold: it has no manifest\.json"):
        Run.open(tmp_path)
    edit(path, format="kinfold-features")
    with pytest.raises(InputError, match="has the format 'kinfold-features'"):
        Run.open(path)


def test_a_folder_with_a_run_inside_names_it(path):
    with pytest.raises(InputError, match=rf"did you mean {re.escape(str(path))}\?"):
        Run.open(path.parent)


def test_the_source_of_a_run_names_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "elsewhere" / "photos"
    source.mkdir(parents=True)
    with pytest.raises(InputError, match=r"did you mean photos\.kinfold\?"):
        Run.open(source)


def test_an_unfinished_run_says_how_to_go_on(path):
    edit(path, stages={"embed": {"inputs": "0", "outputs": {}, "seconds": 1.0}})
    with pytest.raises(InputError, match=r"isn't finished \(stages done: embed\); repeat"):
        Run.open(path)


@pytest.mark.parametrize("name", ["assignments.parquet", "skipped.parquet", "model.json"])
def test_a_missing_file_is_named_with_the_mend(path, name):
    (path / name).unlink()
    with pytest.raises(FormatError, match=rf"{name} is missing; repeat the `kinfold cluster` command"):
        Run.open(path)


def test_a_damaged_table_is_named_with_the_mend(path):
    file = path / "assignments.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"assignments\.parquet is damaged .*repeat the `kinfold cluster`"):
        _ = Run.open(path).labels


def test_a_manifest_without_n_clusters_is_damage(path):
    edit(path, parameters={})
    with pytest.raises(FormatError, match="names no n_clusters"):
        Run.open(path)


def test_a_manifest_reads_by_attribute_and_as_a_mapping(path):
    manifest = read_manifest(path)
    assert manifest.parameters["method"] == manifest["parameters"]["method"] == "kmeans"
    assert manifest.metrics is manifest["metrics"]
    assert manifest.extra == {"later": "kept"}
    assert manifest.naming is None
    assert "naming" not in manifest
    assert manifest.get("naming", "none") == "none"
    assert Run(path, dict(manifest)).manifest == manifest


def test_a_manifest_is_written_back_in_its_order_and_new_sections_come_last(path):
    names = list(json.loads((path / "manifest.json").read_text()))
    manifest = read_manifest(path)
    manifest.naming = {"n_named": 1}
    manifest.metrics = {}
    manifest["unheard"] = [1]
    write_manifest(path, manifest)
    assert list(json.loads((path / "manifest.json").read_text())) == [*names, "naming", "unheard"]
    assert read_manifest(path) == manifest


def test_a_section_that_is_taken_away_leaves_the_file(path):
    manifest = read_manifest(path)
    assert manifest.pop("metrics") == {"accuracy": 0.5}
    assert manifest.pop("later") == "kept"
    assert manifest.metrics == {}
    with pytest.raises(KeyError, match="later"):
        manifest["later"]
    write_manifest(path, manifest)
    assert json.loads((path / "manifest.json").read_text())["metrics"] == {}
    assert "later" not in read_manifest(path)


def test_a_manifest_made_of_sections_has_these_alone():
    assert list(Manifest(seed=3)) == ["format", "format_version", "seed"]
    assert list(Manifest.of({"stages": {}, "later": 1})) == ["stages", "later"]
