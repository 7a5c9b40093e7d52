"""``kinfold name``, from image files and a vision-language model to words on a terminal and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support import text_models

PREPROCESSING = {"do_resize": True, "size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    text_models.make_clip(folder)
    content = {**PREPROCESSING, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "words.txt"
    file.write_text("cat\n<b>dog</b>\n\nhorse\ncrane\ntree\nhouse\n", encoding="utf-8")
    return file


def test_a_folder_is_grouped_by_a_model_and_named_by_its_words(photos, tmp_path, clip, words, kinfold):
    out = tmp_path / "run"
    result = kinfold(
        "cluster", photos / "photos", "-k", 3, "--method", "kmeans", "-b", clip, "-o", out, "--workers", 1
    )
    assert result.exit_code == 0, result.output
    command = ["name", out, "--nouns", words, "--min-separation", 0, "--top", 2, "--workers", 1]
    found = kinfold(*command, "--json", "--quiet")
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert summary["n_named"] == 3
    assert [group["cluster"] for group in summary["groups"]] == [0, 1, 2]
    assert sum(group["size"] for group in summary["groups"]) == 30
    for group in summary["groups"]:
        assert group["name"] == group["words"][0]["noun"]
        assert len(group["words"]) == 2
        assert 0 <= group["words"][0]["separation"] <= 1
        assert group["reason"] is None
    shown = kinfold(*command)
    assert shown.exit_code == 0
    assert "separation" in shown.stdout
    assert "3 of 3 groups" in shown.stdout
    assert "<b>dog" not in (out / "report.html").read_text()
    found = kinfold(*command, "--levels", "2,3", "--json", "--quiet")
    assert json.loads(found.stdout)["levels"] == [2, 3]
    assert (out / "names-level-2.parquet").exists()
    assert kinfold(*command, "--levels", "two").exit_code == 2


def test_a_run_without_words_says_which_option_helps(run, photos, words, clip, tmp_path, kinfold):
    run = Path(shutil.copytree(run, tmp_path / "run"))
    refused = kinfold("name", run, "--nouns", words)
    assert refused.exit_code == 2
    assert "--text-model" in refused.output
    named = kinfold("name", run, "--nouns", words, "--text-model", clip, "--workers", 1, "--json", "--quiet")
    assert named.exit_code == 0, named.output
    groups = json.loads(named.stdout)["groups"]
    assert all(group["name"] or group["reason"] for group in groups)
    assert (run / "language-features" / "manifest.json").exists()
    assert kinfold("report", run).exit_code == 0
    assert kinfold("evaluate", run, "-l", photos / "labels.csv").exit_code == 0


@pytest.mark.parametrize("words_", [["name"], ["name", "nowhere"], ["name", ".", "--min-separation", 2]])
def test_wrong_calls_end_with_a_message(kinfold, words_):
    assert kinfold(*words_).exit_code == 2
