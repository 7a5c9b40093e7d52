"""From labeled images and a class tree to a folder of finer labels."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import embed_classes, load_text_encoder
from kinfold.language import relabel as refine
from kinfold.pipeline import RelabelResult, _relabel, embed, relabel
from kinfold.pipeline._classes import find_classes
from support import text_models

DOG, CANINE, POODLE, CHIHUAHUA, CAT, CARNIVORE = (
    "n02084071",
    "n02083346",
    "n02113335",
    "n02085620",
    "n02121620",
    "n02075296",
)
IDS = (DOG, CANINE, POODLE, CHIHUAHUA, CAT, CARNIVORE)
RESULTS = ("labels.parquet", "moves.csv", "calibration.csv", "levels.csv", "sheet.html", "report.json")
PREPROCESSING = {
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "crop_size": 32,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "image_processor_type": "CLIPImageProcessor",
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A whole model of random weights, saved as the hub has them."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    text_models.make_clip(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


@pytest.fixture(scope="session")
def animals(tmp_path_factory) -> Path:
    """Sixty images in folders named by synsets, one of them broken."""
    rng = np.random.default_rng(0)
    home = tmp_path_factory.mktemp("animals")
    for number in range(60):
        path = home / IDS[number % 6] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, 3) * rng.uniform(0.4, 1, (24, 24, 1))
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (home / DOG / "00.png").write_bytes(b"no image")
    return home


@pytest.fixture(scope="session")
def store(animals, clip, tmp_path_factory):
    return embed(
        animals, tmp_path_factory.mktemp("store") / "features", backbone=clip, device="cpu", n_workers=1
    )


def refined(source, out, **more) -> RelabelResult:
    return relabel(source, more.pop("labels", "folder"), out, **{"device": "cpu", "n_workers": 1, **more})


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("rule", ["leaf", "parent"])
def test_images_in_folders_named_by_synsets_get_the_labels_that_the_library_gives(
    animals, clip, store, tmp_path, rule
):
    found = refined(animals, tmp_path / "finer", backbone=clip, rule=rule, lemmas="first")
    table = found.labels
    tree, wordnet = ClassTree.from_wordnet(sorted(IDS)), load_wordnet()
    encoder = load_text_encoder(clip, device="cpu")
    texts = embed_classes(encoder, [wordnet.name(node) for node in tree.ids])
    before = tree.numbers(key.split("/")[0] for key in table["key"].to_pylist())
    own = refine(
        store.matrix(), before, tree, texts, rule=rule, logit_scale=encoder.logit_scale, device="cpu"
    )
    assert table["row"].to_pylist() == store.rows.tolist()
    assert table["before"].to_pylist() == [tree.ids[number] for number in before]
    assert table["after"].to_pylist() == [tree.ids[number] for number in own.labels]
    assert table["n_steps"].to_pylist() == own.steps.tolist()
    np.testing.assert_allclose(table["confidence"].to_numpy(), own.confidences, rtol=1e-4)
    assert table["confidence"].null_count == np.isnan(own.confidences).sum() > 0
    if rule == "leaf":
        assert set(table["after"].to_pylist()) <= set(tree.leaves)
        assert found.report["relabeling"]["share_of_inner_moved"] == 1


def test_the_folder_says_what_moved_and_how_far_choices_can_be_trusted(store, tmp_path):
    found = refined(store, tmp_path / "finer", rule="parent")
    table, report = found.labels, found.report
    assert {path.name for path in found.path.iterdir()} >= set(RESULTS)
    pairs = list(zip(table["before"].to_pylist(), table["after"].to_pylist(), strict=True))
    moves = {(row["before"], row["after"]): int(row["count"]) for row in read_csv(found.path / "moves.csv")}
    assert moves == {pair: pairs.count(pair) for pair in pairs if pair[0] != pair[1]}
    assert report["relabeling"]["n_moved"] == sum(moves.values()) > 0
    assert report["labels"]["n_matched"] == 59
    assert report["labels"]["labels_without_image"] == [f"{DOG}/00.png"]
    assert report["tree"]["n_classes"] == 6
    assert report["tree"]["source"] == "WordNet 3.0"
    curves = read_csv(found.path / "calibration.csv")
    for name, figures in report["checks"]["calibration"].items():
        own = [row for row in curves if row["candidates"] == name]
        assert len(own) == 15
        assert sum(int(row["count"]) for row in own) == 59
        hits = sum(int(row["count"]) * float(row["accuracy"] or 0) for row in own)
        assert figures["accuracy"] == pytest.approx(hits / 59, abs=1e-4)
        assert 0 <= figures["expected_calibration_error"] <= 1
    levels = read_csv(found.path / "levels.csv")
    assert [int(row["depth"]) for row in levels] == list(range(len(levels)))
    assert int(levels[0]["count"]) == 59 - 10  # all but the root's own images
    assert RelabelResult.open(found.path).report == report


def test_the_sheet_shows_images_of_a_store_and_asks_nothing_of_the_network(store, tmp_path):
    page = (refined(store, tmp_path / "finer").path / "sheet.html").read_text("utf-8")
    assert page.count("data:image/webp") > 10
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_names_vote_and_labels_by_file_reach_a_tree_of_ones_own(store, tmp_path):
    keys = store.keys.to_pylist()
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [(key, "pet" if number % 2 else "all") for number, key in enumerate(keys[:40])]
        csv.writer(stream).writerows([("key", "label"), *rows, ("gone.png", "all")])
    (tmp_path / "tree.csv").write_text("child,parent\nall,\npet,all\nwild,all\nlap,pet\n", encoding="utf-8")
    (tmp_path / "names.csv").write_text(
        "id,name\nall,animal\npet,pet\npet,house animal\nwild,<b>wild</b>\nlap,lap dog\nother,x\n", "utf-8"
    )
    asked = {
        "labels": tmp_path / "labels.csv",
        "tree": tmp_path / "tree.csv",
        "names": tmp_path / "names.csv",
    }
    found = refined(store, tmp_path / "finer", rule="parent", **asked)
    joined = found.report["labels"]
    assert joined["n_without_label"] == 20
    assert "gone.png" in joined["labels_without_image"]
    assert found.labels["after"].null_count == 20
    assert set(found.labels["after"].to_pylist()) <= {"all", "pet", "wild", "lap", None}
    first = refined(store, tmp_path / "first", lemmas="first", check_rows=0, **asked)
    assert first.report["checks"] == {"n_rows": 0}
    assert not (first.path / "levels.csv").exists()
    page = (first.path / "sheet.html").read_text("utf-8")
    assert "<b>wild" not in page


def test_a_call_again_gives_the_same_bytes_and_leaves_features_alone(animals, clip, tmp_path):
    out = tmp_path / "finer"
    refined(animals, out, backbone=clip)
    first = {name: (out / name).read_bytes() for name in RESULTS}
    shard = next((out / "features").rglob("*.npy"))
    made = shard.stat().st_mtime_ns
    (out / "labels.parquet").unlink()  # as if it had been killed
    report = json.loads((out / "report.json").read_text("utf-8"))
    (out / "report.json").write_text(json.dumps({**report, "complete": False}), "utf-8")
    with pytest.raises(InputError, match="isn't finished"):
        RelabelResult.open(out)
    refined(animals, out, backbone=clip)
    assert {name: (out / name).read_bytes() for name in RESULTS} == first
    assert shard.stat().st_mtime_ns == made


def test_a_result_below_the_images_is_none_of_them(animals, clip, tmp_path):
    shutil.copytree(animals, tmp_path / "photos")
    first = refined(tmp_path / "photos", tmp_path / "photos" / "finer", backbone=clip)
    again = refined(tmp_path / "photos", tmp_path / "photos" / "finer", backbone=clip)
    assert again.report == first.report
    assert again.labels.num_rows == 59


def test_labels_that_cannot_move_are_said_to(store, tmp_path, caplog):
    labels = dict.fromkeys(store.keys.to_pylist(), CAT)
    found = refined(store, tmp_path / "finer", labels=labels)
    assert "none can move" in caplog.text
    assert found.report["relabeling"]["n_moved"] == 0
    assert found.labels["confidence"].null_count == 59
    assert "No label moved" in (found.path / "sheet.html").read_text("utf-8")


def test_a_tree_above_synsets_calls_those_by_their_lemmas_and_the_rest_by_their_ids(store, tmp_path):
    tree = ClassTree({"thing": None, DOG: "thing", CAT: "thing"})
    labels = dict.fromkeys(store.keys.to_pylist(), "thing")
    found = refined(store, tmp_path / "finer", labels=labels, tree=tree, lemmas="first")
    rows = read_csv(found.path / "moves.csv")
    assert {row["before_name"] for row in rows} == {"thing"}
    assert {row["after_name"] for row in rows} <= {"dog", "cat"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_any_step_leave_the_same_bytes(animals, clip, tmp_path):
    command = [sys.executable, "-m", "kinfold", "relabel", animals, "--labels", "folder", "--device", "cpu"]
    command += ["--backbone", clip, "--workers", "1", "--quiet", "--out"]
    subprocess.run([*command, tmp_path / "whole"], check=True)
    out, killed = tmp_path / "killed", 0
    for sign in (
        "report.json",
        "features/manifest.json",
        "texts/*",
        "levels.csv",
        "labels.parquet",
        "sheet.html",
    ):
        for name in ("levels.csv", "labels.parquet", "sheet.html"):
            (out / name).unlink(missing_ok=True)
        process = subprocess.Popen([*command, out])
        while process.poll() is None and not any(out.glob(sign)):
            time.sleep(0.001)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 4
    subprocess.run([*command, out], check=True)
    for name in RESULTS:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_nothing_else_is_overwritten(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="is no part of a result of `kinfold relabel`"):
        refined(store, tmp_path / "mine")
    (tmp_path / "mine" / "report.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="was not written by `kinfold relabel`"):
        refined(store, tmp_path / "mine")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(InputError, match="is a file"):
        refined(store, tmp_path / "file")
    newer = {"format": "kinfold-relabeling", "format_version": 99}
    (tmp_path / "mine" / "report.json").write_text(json.dumps(newer), "utf-8")
    with pytest.raises(NewerFormatError):
        refined(store, tmp_path / "mine")
    (tmp_path / "mine" / "report.json").write_text("{", "utf-8")
    with pytest.raises(FormatError, match="damaged"):
        refined(store, tmp_path / "mine")
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"mine"


def test_what_does_not_fit_together_is_said_before_any_work(store, animals, clip, tmp_path):
    tree = tmp_path / "tree.csv"
    tree.write_text("child,parent\nn02084071,\n", "utf-8")
    keys = dict.fromkeys(store.keys.to_pylist(), "n02084072")
    ready = tmp_path / "ready.npy"
    np.save(ready, np.ones((60, 24), np.float32))
    wide = tmp_path / "wide.npy"
    np.save(wide, np.ones((60, 7), np.float32))
    numbered = {str(row): DOG for row in range(60)}
    (tmp_path / "names.csv").write_text("id,title\nx,y\n", "utf-8")
    for source, more, message in (
        (store, {"labels": keys}, "did you mean 'n02084071'"),
        (store, {"labels": dict.fromkeys(keys, "dog")}, "is a word, not an id"),
        (store, {"tree": tree}, "is not in the class tree in"),
        (store, {"tree": tmp_path / "none.csv"}, "there is no class tree at"),
        (store, {"labels": {"x": DOG}}, "no label is about an image"),
        (store, {"labels": {}}, "there are no labels"),
        (store, {"rule": "leave"}, "did you mean 'leaf'"),
        (store, {"lemmas": "votes"}, "did you mean 'vote'"),
        (store, {"check_rows": -1}, "check_rows must be"),
        (store, {"names": tmp_path / "names.csv"}, "has no column 'name'"),
        (store, {"names": tmp_path / "gone.csv"}, "can't be read: it is missing"),
        (ready, {"labels": numbered}, "--text-model"),
        (wide, {"labels": numbered, "text_model": clip}, "7"),
    ):
        with pytest.raises(InputError, match=message):
            refined(source, tmp_path / "out", **more)
    with pytest.raises(InputError, match="text"):
        refined(animals, tmp_path / "out", backbone="hog")
    with pytest.raises(InputError, match="no name is about a class of the tree: names are for 'b'"):
        refined(store, tmp_path / "out", names={"b": "bee"})
    mine = {
        "labels": dict.fromkeys(keys, "a"),
        "tree": ClassTree({"a": None, "b": "a"}),
        "names": {"b": "bee"},
    }
    with pytest.raises(InputError, match="1 of 2 classes have no name: 'a'"):
        refined(store, tmp_path / "out", **mine)
    assert not (tmp_path / "out").exists()


def test_ready_features_with_a_text_model_give_a_sheet_of_names(store, clip, tmp_path):
    np.save(tmp_path / "ready.npy", store.matrix()[:])
    labels = {str(row): IDS[row % 6] for row in range(len(store.rows))}
    found = refined(tmp_path / "ready.npy", tmp_path / "finer", labels=labels, text_model=clip)
    page = (found.path / "sheet.html").read_text("utf-8")
    assert "data:image/webp" not in page
    assert "their names stand here" in page
    assert found.labels.num_rows == 59
    assert found.report["backbone"] is None


def test_images_that_moved_away_leave_a_sheet_of_names(animals, clip, tmp_path, caplog):
    shutil.copytree(animals, tmp_path / "photos")
    features = embed(tmp_path / "photos", tmp_path / "features", backbone=clip, device="cpu", n_workers=1)
    shutil.rmtree(tmp_path / "photos")
    found = refined(features, tmp_path / "finer")
    assert "the sheet will show no pictures" in caplog.text
    assert "their names stand here" in (found.path / "sheet.html").read_text("utf-8")
    assert pq.read_schema(found.path / "labels.parquet").names == [
        "row",
        "key",
        "before",
        "after",
        "confidence",
        "n_steps",
    ]


def test_a_relabelling_that_begins_between_two_looks_is_not_taken_for_something_else(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    check_folder = _relabel.check_folder

    def another_begins(*given):
        _relabel.begin_folder(out)
        check_folder(*given)

    monkeypatch.setattr(_relabel, "check_folder", another_begins)
    _relabel.check_out(out)
    (out / "report.json").write_text('{"format": "other"}', "utf-8")
    with pytest.raises(InputError, match="was not written by"):
        _relabel.check_out(out)


def test_names_of_classes_are_read_as_spreadsheets_save_them(tmp_path):
    file = tmp_path / "names.csv"
    file.write_bytes('id;name\na;"bête; noire"\nb;b.png\na;ours\n'.encode("windows-1252"))
    tree = ClassTree({"a": None, "b": "a"})
    assert find_classes(tree, file, ["b"]).names == (("bête; noire", "ours"), ("b.png",))
    file.write_text("id,name\na,house animal, small\nb,x\n", "utf-8")
    with pytest.raises(InputError, match=r"line 2 of .* has 3 cells"):
        find_classes(tree, file, ["b"])
