from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold as library
from kinfold.run import Run

COMMANDS = ("cluster", "embed", "predict", "evaluate", "report", "info", "demo")


def cluster_words(photos, out, *more):
    common = ("-k", 3, "--method", "kmeans", "-b", "pixels", "--workers", 1)
    return ("cluster", photos / "photos", *common, "--out", out, *more)


def test_cluster_shows_groups_skipped_images_and_the_report(kinfold, photos, tmp_path):
    result = kinfold(*cluster_words(photos, tmp_path / "out"))
    assert result.exit_code == 0
    words = result.stdout.split()
    assert words[:4] == ["group", "size", "share", "confidence"]
    assert words.count("33.3") == 3
    assert "1 (empty 1)" in result.stdout
    assert str(tmp_path / "out" / "report.html") in result.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert "Expected: about" in result.stderr


def test_json_is_all_that_stdout_gets(kinfold, photos, tmp_path):
    result = kinfold(*cluster_words(photos, tmp_path / "out", "--json"))
    found = json.loads(result.stdout)
    assert found["n_images"] == 30
    assert [group["size"] for group in found["groups"]] == [10, 10, 10]
    assert found["skipped"] == {"total": 1, "reasons": {"empty": 1}}
    assert found["report"].endswith("report.html")


def test_json_tells_what_can_be_told_without_labels(kinfold, photos, tmp_path):
    found = json.loads(kinfold(*cluster_words(photos, tmp_path / "out", "--json")).stdout)
    assert found["criteria"]["live_clusters"] == 3
    assert found["criteria"] == Run.open(tmp_path / "out").manifest["criteria"]
    assert found["chosen"] is None
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "agreement of neighbours" in page


def test_auto_says_what_it_chose(kinfold, photos, tmp_path):
    words = ("cluster", photos / "photos", "-k", 3, "-b", "pixels", "--workers", 1, "--method", "auto")
    settings = ("--set", 'candidates=["kmeans", "turtle"]', "--set", 'parameters={"turtle": {"n_steps": 5}}')
    result = kinfold(*words, *settings, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["chosen"] in ("kmeans", "turtle")


def test_a_preset_reaches_the_method_and_set_wins(kinfold, photos, tmp_path):
    result = kinfold(*cluster_words(photos, tmp_path / "out", "--preset", "paper", "--set", "n_init=2"))
    assert result.exit_code == 0, result.output
    parameters = Run.open(tmp_path / "out").manifest["parameters"]
    assert parameters["preset"] == "paper"
    assert (parameters["method_parameters"]["tol"], parameters["method_parameters"]["n_init"]) == (0, 2)
    result = kinfold(*cluster_words(photos, tmp_path / "other", "--preset", "papr"))
    assert result.exit_code == 2
    assert "did you mean 'paper'?" in result.stderr


def test_quiet_says_nothing(kinfold, photos, tmp_path):
    result = kinfold(*cluster_words(photos, tmp_path / "out", "--quiet"))
    assert result.exit_code == 0
    assert result.output == ""


def test_quiet_with_json_still_gives_the_result(kinfold, run):
    result = kinfold("report", run, "--quiet", "--json")
    assert json.loads(result.stdout) == {"report": str(run / "report.html")}
    assert result.stderr == ""


def test_the_command_does_what_the_function_does(run, photos, tmp_path):
    other = library.cluster(
        photos / "photos", 3, method="kmeans", backbone="pixels", out=tmp_path / "run", n_workers=1
    )
    assert (run / "assignments.parquet").read_bytes() == (other.path / "assignments.parquet").read_bytes()


def test_no_report_leaves_it_out(kinfold, photos, tmp_path):
    result = kinfold(*cluster_words(photos, tmp_path / "out", "--no-report", "--json"))
    assert json.loads(result.stdout)["report"] is None
    assert not (tmp_path / "out" / "report.html").exists()


def test_set_reaches_the_method(kinfold, photos, tmp_path):
    assert kinfold(*cluster_words(photos, tmp_path / "out", "--set", "n_init=2")).exit_code == 0
    assert Run.open(tmp_path / "out").manifest["parameters"]["method_parameters"]["n_init"] == 2


@pytest.mark.parametrize(
    "setting", ["n_init", "=2", "n_inits=2", "n_init=abc", "temperature=0", "temperature=NaN"]
)
def test_a_wrong_set_is_bad_input(kinfold, photos, tmp_path, setting):
    result = kinfold(*cluster_words(photos, tmp_path / "out", "--set", setting))
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_predict_writes_the_groups_of_the_run(kinfold, run, photos, tmp_path):
    out = tmp_path / "new.parquet"
    result = kinfold("predict", run, photos / "photos", "--out", out, "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    table = pq.read_table(out)
    assert table.column_names == ["row", "key", "cluster", "confidence", "name", "typicality"]
    assert np.array_equal(table["cluster"].to_numpy(), Run.open(run).labels)
    assert sum(group["size"] for group in json.loads(result.stdout)["groups"]) == 30


def test_evaluate_measures_and_the_report_then_shows_it(kinfold, run, photos):
    result = kinfold("evaluate", run, "--labels", photos / "labels.csv", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accuracy"] == 1.0
    table = kinfold("evaluate", run, "--labels", photos / "labels.csv").stdout
    assert "1.0000" in table
    assert table.splitlines()[-1].split() == ["labels", "without", "image", "0"]
    assert kinfold("report", run).exit_code == 0
    assert "accuracy" in (run / "report.html").read_text(encoding="utf-8")


def test_evaluate_tells_labels_that_match_no_image_and_names_the_first(kinfold, run, photos, tmp_path):
    rows = (photos / "labels.csv").read_text() + "".join(f"gone{i}.png,r\n" for i in range(5))
    (tmp_path / "more.csv").write_text(rows)
    table = kinfold("evaluate", run, "--labels", tmp_path / "more.csv").stdout
    assert "5 ('gone0.png', 'gone1.png', 'gone2.png', …)" in table


def test_evaluate_tells_of_several_labels_and_of_depths(kinfold, run, photos, tmp_path):
    labels = (photos / "labels.csv").read_text().splitlines()
    twice = [f"{line.rsplit(',', 1)[0]},other" for line in labels[1:]]
    (tmp_path / "several.csv").write_text("\n".join([*labels, *twice]))
    refused = kinfold("evaluate", run, "--labels", tmp_path / "several.csv")
    assert refused.exit_code == 2
    assert "--multi-label" in refused.output
    words = ("--labels", tmp_path / "several.csv", "--multi-label", "--draws", 3)
    table = kinfold("evaluate", run, *words).stdout
    assert "top-1L (drawn)" in table
    assert "of 3 draws" in table
    names = sorted({line.rsplit(",", 1)[1] for line in labels[1:]})
    (tmp_path / "tree.csv").write_text(
        "child,parent\n" + "".join(f"{name},all\n" for name in names) + "all,\n"
    )
    words = ("--labels", photos / "labels.csv", "--tree", tmp_path / "tree.csv")
    table = kinfold("evaluate", run, *words).stdout
    assert "top-1L (ancestors)" in table
    line = next(line for line in table.splitlines() if line.startswith("ACC, top-1L at depth 1 "))
    assert line.endswith(f"1.0000, 1.0000 ({len(names)} classes, 30 images)")


def test_embed_writes_a_store_that_cluster_takes(kinfold, photos, tmp_path):
    words = ("--backbone", "pixels", "--workers", 1, "--json")
    result = kinfold("embed", photos / "photos", *words, "--out", tmp_path / "features")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["n_rows"], found["n_usable"]) == (31, 30)
    assert library.FeatureStore.open(tmp_path / "features").matrix().shape == (30, found["variants"]["cls"])
    words = ("-k", 3, "--method", "kmeans", "--out", tmp_path / "run")
    assert kinfold("cluster", tmp_path / "features", *words).exit_code == 0


def test_info_names_versions_device_and_backbones(kinfold, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = json.loads(kinfold("info", "--device", "cpu", "--json").stdout)
    assert found["machine"]["device"] == "cpu"
    assert found["precision"] in ("float32", "bfloat16")
    assert found["libraries"]["torch"]
    assert {"dinov2-small", "hog", "pixels"} <= {card["name"] for card in found["backbones"]}
    text = kinfold("info", "--device", "cpu").stdout
    assert "dinov2-small" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(kinfold, command):
    result = kinfold(command, "--help")
    assert result.exit_code == 0
    assert f"kinfold {command}" in result.stdout.split("Example")[1]


def test_all_commands_are_listed(kinfold):
    text = kinfold("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS)


def test_embed_goes_on_where_it_was_killed_at_its_very_start(kinfold, photos, tmp_path):
    out = tmp_path / "features"
    out.mkdir()
    (out / ".partial-manifest.json").write_text("{")
    result = kinfold("embed", photos / "photos", "-b", "pixels", "--workers", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert not (out / ".partial-manifest.json").exists()
