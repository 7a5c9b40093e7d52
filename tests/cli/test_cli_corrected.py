"""Claims about commands on corrected runs, and about what they say without -k and --out."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from kinfold.corrections import Corrections, Merge, Rename
from kinfold.run import Run


@pytest.fixture
def corrected(run, tmp_path):
    """A copy of the run, whose groups 0 and 1 were merged into one named cats."""
    path = shutil.copytree(run, tmp_path / "corrected")
    with Corrections.open(Run.open(path)) as corrections:
        corrections.apply(Merge([0], 1))
        corrections.apply(Rename(1, "cats"))
    return path


def cluster_words(photos, out, *more, k=3):
    words = ("-k", k) if k else ()
    return [
        "cluster",
        photos / "photos",
        *words,
        "-m",
        "kmeans",
        "-b",
        "pixels",
        "-o",
        out,
        "--workers",
        1,
        *more,
    ]


def test_a_corrected_run_is_replaced_by_force_alone(kinfold, photos, corrected):
    before = (corrected / "assignments.parquet").read_bytes()
    result = kinfold(*cluster_words(photos, corrected, k=4))
    assert result.exit_code == 2
    assert "corrected by hand (2 corrections)" in result.stderr
    assert "--force" in result.stderr
    assert (corrected / "assignments.parquet").read_bytes() == before
    result = kinfold(*cluster_words(photos, corrected, "--force", k=4))
    assert result.exit_code == 0, result.output
    assert Run.open(corrected).n_clusters == 4


def test_the_same_command_goes_on_and_shows_the_corrected_groups(kinfold, photos, corrected):
    result = kinfold(*cluster_words(photos, corrected, "--json"))
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["n_corrections"] == 2
    assert {group["cluster"]: group["name"] for group in summary["groups"]} == {1: "cats", 2: None}
    assert "cats" in kinfold(*cluster_words(photos, corrected)).stdout


def test_predict_speaks_of_the_corrected_groups(kinfold, photos, corrected, tmp_path):
    words = ("predict", corrected, photos / "photos", "--workers", 1)
    result = kinfold(*words, "-o", tmp_path / "p.parquet", "--json")
    assert result.exit_code == 0, result.output
    groups = json.loads(result.stdout)["groups"]
    assert [(group["cluster"], group["name"], group["size"]) for group in groups] == [
        (1, "cats", 20),
        (2, None, 10),
    ]
    assert set(pq.read_table(tmp_path / "p.parquet")["name"].to_pylist()) == {"cats", None}


@pytest.mark.parametrize(
    ("words", "name"),
    [((), "predictions.parquet"), (("--to", "csv"), "predictions.csv"), (("--to", "folders"), "predictions")],
)
def test_predict_without_a_place_says_where(kinfold, photos, corrected, tmp_path, monkeypatch, words, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    result = kinfold("predict", corrected, photos / "photos", "--workers", 1, *words)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "here" / name) in result.stdout
    assert (tmp_path / "here" / name).exists()


def test_evaluate_tells_the_figures_before_the_corrections_too(kinfold, photos, corrected):
    words = ("evaluate", corrected, "--labels", photos / "labels.csv")
    found = json.loads(kinfold(*words, "--json").stdout)
    assert found["uncorrected"]["accuracy"] == 1.0
    assert found["accuracy"] < 0.7
    assert found["n_corrections"] == 2
    told = kinfold(*words).stdout
    assert "before the corrections" in told
    assert "1.0000" in told


def test_evaluate_warns_where_all_images_have_one_label(kinfold, photos, corrected, tmp_path):
    lines = (photos / "labels.csv").read_text().splitlines()
    text = "\n".join([lines[0], *(f"{line.split(',')[0]},x" for line in lines[1:])])
    (tmp_path / "one.csv").write_text(text)
    result = kinfold("evaluate", corrected, "--labels", tmp_path / "one.csv")
    assert result.exit_code == 0
    assert "one label, 'x'" in " ".join(result.stderr.split())
