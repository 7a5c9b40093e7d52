from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from kinfold.errors import InputError
from kinfold.pipeline import run_demo
from kinfold.pipeline._method import DEFAULT_METHOD, prepare_method
from kinfold.pipeline.demo import METHODS, PARAMETERS
from kinfold.run import Run


@pytest.fixture
def few_digits(monkeypatch):
    """Let the demo find 300 of its digits."""
    digits = datasets.load_digits()
    digits.images, digits.target = digits.images[:300], digits.target[:300]
    monkeypatch.setattr(datasets, "load_digits", lambda: digits)
    return digits


@pytest.fixture
def kmeans_only(monkeypatch):
    monkeypatch.setattr(run_demo, "__kwdefaults__", {**run_demo.__kwdefaults__, "methods": ("kmeans",)})


def test_the_images_are_the_digits_and_the_labels_lie_beside_them(few_digits, tmp_path):
    run_demo(tmp_path / "demo", methods=(), n_workers=1)
    with (tmp_path / "demo" / "labels.csv").open() as stream:
        labels = {row["key"]: int(row["label"]) for row in csv.DictReader(stream)}
    files = sorted((tmp_path / "demo" / "images").iterdir())
    assert [labels[file.name] for file in files] == few_digits.target.tolist()
    for file, digit in zip(files[:20], few_digits.images, strict=False):
        small = np.asarray(Image.open(file).resize((8, 8), Image.Resampling.BOX), float)
        assert np.corrcoef(small.ravel(), digit.ravel())[0, 1] > 0.95


def test_the_demo_measures_against_the_true_digits_and_writes_reports(few_digits, tmp_path):
    (row,) = run_demo(tmp_path / "demo", methods=("kmeans",), n_workers=1).rows
    assert 0.5 < row.accuracy < 1
    assert row.accuracy == Run.open(row.run).metrics["accuracy"]
    assert f"{row.accuracy:.3f}" in row.report.read_text(encoding="utf-8")


def test_the_demo_ends_with_the_default_method():
    assert METHODS[-1] == DEFAULT_METHOD
    for method, parameters in PARAMETERS.items():
        prepare_method(method, 10, 0, "cpu", "auto", None, parameters)


def test_a_second_demo_does_nothing_again(few_digits, tmp_path):
    def times():
        kept = [
            file for file in tmp_path.rglob("*") if file.suffix in (".png", ".npy", ".html", ".safetensors")
        ]
        return {file: file.stat().st_mtime_ns for file in kept}

    first = run_demo(tmp_path / "demo", methods=("kmeans",), n_workers=1)
    before = times()
    assert len(before) > 300
    second = run_demo(tmp_path / "demo", methods=("kmeans",), n_workers=1)
    assert second == first
    assert times() == before


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        run_demo(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_impossible_arguments_are_refused_before_anything_is_written(tmp_path):
    for wrong in ({"random_state": 2**32}, {"methods": ("temmi",)}, {"device": "gpu"}):
        with pytest.raises(InputError):
            run_demo(tmp_path / "demo", **wrong)
    assert not (tmp_path / "demo").exists()


def test_the_command_prints_a_table_and_json(few_digits, kmeans_only, kinfold, tmp_path):
    result = kinfold("demo", "--out", tmp_path / "demo", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[:6] == ["method", "ACC", "NMI", "ARI", "seconds", "kmeans"]
    found = json.loads(kinfold("demo", "--out", tmp_path / "demo", "--json", "--workers", 1).stdout)
    assert [row["method"] for row in found["methods"]] == ["kmeans"]
    assert found["n_images"] == 300
