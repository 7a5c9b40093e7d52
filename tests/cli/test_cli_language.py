"""Commands that read words: nouns, zeroshot, and cluster with nouns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import text_models

NOUNS = ("cat", "dog", "red hat", "blue ship", "green fox", "crane", "horse", "truck")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "clip"
    text_models.make_clip(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nouns"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "nouns.txt"
    path.write_text("\n".join(NOUNS))
    return path


def found(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_nouns_are_built_listed_used_shown_and_cleared(kinfold, photos, tmp_path, clip, words, cache):
    built = found(kinfold("nouns", "build", clip, "--nouns", words, "--device", "cpu", "--json"))
    assert (built["n_words"], built["n_prompts"], built["dim"]) == (8, 7, text_models.DIM)
    listed = found(kinfold("nouns", "list", "--json"))
    assert listed["path"] == str(cache)
    assert [entry["entry"] for entry in listed["entries"]] == [built["entry"]]
    assert listed["entries"][0]["complete"]
    assert listed["bytes"] == sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    common = ("-k", 3, "--method", "tac", "-b", clip, "--workers", 1, "--device", "cpu", "--no-report")
    settings = ("--nouns", words, "--set", "n_epochs=10", "--set", "n_centres=4")
    grouped = found(
        kinfold("cluster", photos / "photos", *common, *settings, "--out", tmp_path / "run", "--json")
    )
    assert (grouped["method"], grouped["n_images"]) == ("tac", 30)
    shown = found(kinfold("nouns", "show", tmp_path / "run", "--top", 3, "--json"))
    assert len(shown["nouns"]) == min(3, shown["n_nouns"])
    assert set(shown["nouns"]) <= set(NOUNS)
    assert shown["nouns"][0] in kinfold("nouns", "show", tmp_path / "run").stdout
    short = kinfold("nouns", "list").stdout.splitlines()[1].split()[0]
    assert built["entry"].startswith(short)
    assert found(kinfold("nouns", "clear", short, "--json"))["freed_bytes"] == listed["bytes"]
    assert found(kinfold("nouns", "list", "--json"))["entries"] == []


def test_nothing_is_cleared_unasked(kinfold, clip, words):
    found(kinfold("nouns", "build", clip, "--nouns", words, "--json"))
    result = kinfold("nouns", "clear")
    assert result.exit_code == 2
    assert "--all" in result.stderr
    assert kinfold("nouns", "clear", "--unfinished", "--quiet").exit_code == 0
    assert len(found(kinfold("nouns", "list", "--json"))["entries"]) == 1
    assert kinfold("nouns", "clear", "--model", "another").exit_code == 2
    assert kinfold("nouns", "clear", "--all").exit_code == 0
    assert found(kinfold("nouns", "list", "--json"))["entries"] == []


def test_a_run_without_nouns_has_none_to_show(kinfold, run):
    result = kinfold("nouns", "show", run, "--json")
    assert result.exit_code == 2
    assert "--method tac" in json.loads(result.stdout)["error"]


def test_zeroshot_shows_classes_and_the_accuracy(kinfold, photos, tmp_path, clip):
    names = tmp_path / "names.txt"
    names.write_text("r\ng\nb\n")
    common = ("--classes", names, "-b", clip, "--workers", 1, "--device", "cpu")
    words = ("zeroshot", photos / "photos", *common, "--labels", photos / "labels.csv")
    result = kinfold(*words, "--out", tmp_path / "out.parquet", "--json")
    summary = found(result)
    assert summary["n_images"] == summary["n_labeled"] == 30
    assert sum(entry["size"] for entry in summary["classes"]) == 30
    assert [entry["text"] for entry in summary["classes"]] == ["r", "g", "b"]
    plain = kinfold(*words, "--out", tmp_path / "out.parquet")
    assert f"{summary['accuracy']:.4f} on 30 labeled images" in plain.stdout
    assert "1 of 31 images was skipped" in plain.stderr.replace("\n", " ")


def test_zeroshot_without_a_text_tower_says_which_models_have_one(kinfold, photos, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("r\ng\nb\n")
    result = kinfold(
        "zeroshot", photos / "photos", "--classes", names, "-b", "hog", "--out", tmp_path / "o.parquet"
    )
    assert result.exit_code == 2
    assert "text tower" in result.stderr
    assert "clip-vit-b32" in result.stderr
    assert not (tmp_path / "o.parquet").exists()


def test_words_for_a_method_without_nouns_are_refused(kinfold, photos, tmp_path, words):
    result = kinfold(
        "cluster", photos / "photos", "-k", 3, "-b", "pixels", "--nouns", words, "--out", tmp_path / "run"
    )
    assert result.exit_code == 2
    assert "applies to method 'tac' only" in result.stderr
