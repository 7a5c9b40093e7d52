from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.backbones import load_backbone
from kinfold.errors import FormatError, InputError
from kinfold.features import FeatureStore, open_features
from kinfold.images import open_source
from kinfold.metrics import clustering_accuracy
from kinfold.pipeline import cluster, embed
from kinfold.run import Run, lock_directory
from support.image_folders import write_images

KMEANS = {"method": "kmeans", "backbone": "pixels", "n_workers": 0}
TEMI = {
    "method": "temi",
    "backbone": "pixels",
    "n_workers": 0,
    "n_neighbors": 10,
    "method_parameters": {"n_heads": 2, "n_epochs": 3},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images and a run of it by each method."""
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    cluster(home / "photos", 3, out=home / "kmeans", **KMEANS)
    cluster(home / "photos", 3, out=home / "temi", **TEMI)
    return home


@pytest.fixture
def photos(made, tmp_path):
    return shutil.copytree(made / "photos", tmp_path / "photos")


@pytest.fixture
def run(request, made, tmp_path):
    """A copy of a run, by k-means unless the test asks for another method."""
    return Run.open(shutil.copytree(made / getattr(request, "param", "kmeans"), tmp_path / "out"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


AFTER = ["fit", "assign", "levels", "typicality", "report"]  # the features and the graph
ALL_STAGES = ["embed", "neighbors", *AFTER]


def stages_that_ran(caplog) -> list[str]:
    return [record.args[0] for record in caplog.records if record.msg == "stage %s: starts" and record.args]


def test_a_folder_of_images_becomes_groups_on_disk(photos, tmp_path):
    run = kinfold.cluster(photos, n_clusters=3, out=tmp_path / "out", **KMEANS)
    kinds = [key.split("/")[0] for key in run.assignments["key"].to_pylist()]
    assert clustering_accuracy(kinds, run.labels) == 1.0
    assert run.assignments["row"].to_pylist() == list(range(45))
    assert run.skipped.num_rows == 0
    expected = {"manifest.json", "assignments.parquet", "skipped.parquet", "model.json", "model.safetensors"}
    expected |= {"levels.json", "levels.parquet", "levels.safetensors"}
    expected |= {"typicality.parquet", "typicality.safetensors"}
    assert {f.name for f in run.path.iterdir()} == expected | {"report.html", "features"}


@pytest.mark.parametrize("options", [KMEANS, TEMI], ids=["kmeans", "temi"])
def test_the_same_seed_gives_the_same_bytes(photos, tmp_path, options):
    for name in ("a", "b"):
        cluster(photos, 3, out=tmp_path / name, random_state=7, report=False, **options)
    for file in ("assignments.parquet", "skipped.parquet", "model.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_number_of_workers_changes_nothing(photos, tmp_path):
    for workers in (0, 2):
        cluster(photos, 3, out=tmp_path / str(workers), report=False, **(KMEANS | {"n_workers": workers}))
    first, second = (tmp_path / name / "assignments.parquet" for name in ("0", "2"))
    assert first.read_bytes() == second.read_bytes()


def test_labels_probabilities_and_top_clusters_agree(photos, tmp_path):
    table = cluster(photos, 7, out=tmp_path / "out", report=False, **KMEANS).assignments
    top = np.array(table["top_clusters"].to_pylist())
    probabilities = np.array(table["top_probabilities"].to_pylist(), np.float32)
    assert top.shape == probabilities.shape == (45, 5)
    np.testing.assert_array_equal(table["cluster"].to_numpy(), top[:, 0])
    np.testing.assert_array_equal(table["confidence"].to_numpy(), probabilities[:, 0])
    assert (np.diff(probabilities, axis=1) <= 0).all()
    assert all(len(set(row)) == 5 for row in top.tolist())


def test_rows_never_shift_when_files_are_bad(photos, tmp_path):
    (photos / "blue" / "1.png").write_bytes(b"")
    (photos / "green" / "0 text.png").write_text("not an image")
    keys = list(open_source(photos).keys)
    run = cluster(photos, 3, out=tmp_path / "out", **KMEANS)
    assert {row["key"] for row in run.skipped.to_pylist()} == {"blue/1.png", "green/0 text.png"}
    both = run.assignments.select(["row", "key"]).to_pylist() + run.skipped.select(["row", "key"]).to_pylist()
    assert sorted((entry["row"], entry["key"]) for entry in both) == list(enumerate(keys))
    assert len(run.labels) == len(keys) - 2


def test_a_second_call_runs_no_stage_again(photos, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kinfold")
    cluster(photos, 3, out=tmp_path / "out", **TEMI)
    assert stages_that_ran(caplog) == [
        "embed",
        "neighbors",
        "fit",
        "assign",
        "levels",
        "typicality",
        "report",
    ]
    before = snapshot(tmp_path / "out")
    caplog.clear()
    cluster(photos, 3, out=tmp_path / "out", **TEMI)
    assert stages_that_ran(caplog) == []
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_clusters": 4}, AFTER),
        ({"random_state": 1}, AFTER),
        ({"n_neighbors": 5}, ["neighbors", *AFTER]),
        (
            {"method": "kmeans", "method_parameters": None},
            AFTER,
        ),
        ({"backbone": "hog"}, ALL_STAGES),
    ],
)
@pytest.mark.parametrize("run", ["temi"], indirect=True)
def test_only_stages_whose_inputs_changed_run_again(run, photos, tmp_path, caplog, changes, expected):
    caplog.set_level(logging.INFO, "kinfold")
    arguments = {"n_clusters": 3, **TEMI} | changes
    changed = cluster(photos, out=run.path, **arguments)
    assert stages_that_ran(caplog) == expected
    fresh = cluster(photos, out=tmp_path / "fresh", report=False, **arguments)
    assert changed.assignments.equals(fresh.assignments)


def test_no_report_of_other_groups_is_left(run, photos):
    run = cluster(photos, 4, out=run.path, report=False, **KMEANS)
    assert not run.report_path.exists()


def test_new_images_in_the_folder_are_embedded_and_grouped(photos, tmp_path):
    cluster(photos, 3, out=tmp_path / "out", **KMEANS)
    write_images(photos, 48)
    run = cluster(photos, 3, out=tmp_path / "out", **KMEANS)
    fresh = cluster(photos, 3, out=tmp_path / "fresh", **KMEANS)
    assert len(run.labels) == 48
    assert (run.path / "assignments.parquet").read_bytes() == (
        fresh.path / "assignments.parquet"
    ).read_bytes()


@pytest.mark.parametrize(
    "name", ["assignments.parquet", "skipped.parquet", "model.safetensors", "report.html"]
)
@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_output_is_made_anew(run, photos, name, damage):
    out = run.path
    before = snapshot(out)
    content = (out / name).read_bytes()
    (out / name).unlink()
    if damage == "cut":
        (out / name).write_bytes(content[:-10])
    cluster(photos, 3, out=out, **KMEANS)
    after = snapshot(out)
    assert {k: v for k, v in after.items() if k not in ("manifest.json", "report.html")} == {
        k: v for k, v in before.items() if k not in ("manifest.json", "report.html")
    }


def test_removed_features_are_made_anew_when_they_are_needed(photos, tmp_path):
    out = tmp_path / "out"
    before = cluster(photos, 3, out=out, **KMEANS).assignments
    shutil.rmtree(out / "features")
    assert Run.open(out).labels.tolist() == before["cluster"].to_pylist()
    assert cluster(photos, 3, out=out, **KMEANS).assignments.equals(before)
    assert Run.open(out).features().fingerprint("cls") == Run.open(out).manifest["features"]["fingerprint"]


def test_a_feature_store_is_a_source(photos, tmp_path):
    store = embed(photos, tmp_path / "store", backbone="pixels", n_workers=0)
    by_path = cluster(tmp_path / "store", 3, out=tmp_path / "a", method="kmeans")
    opened = cluster(store, 3, out=tmp_path / "b", method="kmeans")
    direct = cluster(photos, 3, out=tmp_path / "c", **KMEANS)
    assert by_path.assignments.equals(direct.assignments)
    assert opened.assignments.equals(direct.assignments)
    assert by_path.images() is not None


def test_ready_features_are_a_source(features_file, tmp_path):
    run = cluster(features_file, 3, out=tmp_path / "out", method="kmeans")
    assert clustering_accuracy(np.repeat([0, 1, 2], 30), run.labels) == 1.0
    assert run.images() is None
    assert run.features().fingerprint() == open_features(features_file).fingerprint()


def test_moved_features_are_attached_again_and_others_refused(features_file, tmp_path):
    home = tmp_path / "here.npy"
    shutil.copy(features_file, home)
    cluster(home, 3, out=tmp_path / "out", method="kmeans")
    moved = home.rename(tmp_path / "there.npy")
    run = Run.open(tmp_path / "out")
    with pytest.raises(InputError, match="if they were moved"):
        run.features()
    assert len(run.features(moved).rows) == 90
    np.save(tmp_path / "other.npy", np.ones((90, 8)))
    with pytest.raises(InputError, match="aren't those"):
        run.features(tmp_path / "other.npy")


def test_moved_images_are_attached_again_and_others_refused(photos, tmp_path):
    run = cluster(photos, 3, out=tmp_path / "out", **KMEANS)
    assert list(run.images().keys) == run.assignments["key"].to_pylist()
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="if they were moved"):
        run.images()
    assert len(run.images(moved)) == 45
    write_images(tmp_path / "others" / "below", 15)
    with pytest.raises(InputError, match="aren't those"):
        run.images(tmp_path / "others")


def test_a_run_goes_on_when_source_and_run_were_moved(photos, tmp_path, caplog):
    cluster(photos, 3, out=tmp_path / "out", **KMEANS)
    moved = photos.rename(tmp_path / "moved")
    (tmp_path / "out").rename(tmp_path / "run")
    caplog.set_level(logging.INFO, "kinfold")
    cluster(moved, 3, out=tmp_path / "run", **KMEANS)
    assert "embed" not in stages_that_ran(caplog)


def test_the_default_place_is_named_after_the_source(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = cluster("photos", 3, report=False, **KMEANS)
    assert run.path == tmp_path / "photos.kinfold"


def test_the_manifest_tells_what_was_done(photos, tmp_path):
    run = cluster(photos, 3, out=tmp_path / "out", random_state=5, **TEMI)
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["format"] == "kinfold-run"
    assert manifest["seed"] == manifest["parameters"]["random_state"] == 5
    assert manifest["parameters"]["n_clusters"] == 3
    assert manifest["parameters"]["method_parameters"]["n_heads"] == 2
    assert manifest["source"] | {"fingerprint": "", "options": {}} == {
        "kind": "folder",
        "uri": str(photos),
        "images": str(photos),
        "options": {},
        "n_rows": 45,
        "n_usable": 45,
        "n_skipped": 0,
        "fingerprint": "",
    }
    assert manifest["backbone"]["card"]["name"] == "pixels"
    assert list(manifest["stages"]) == [
        "embed",
        "neighbors",
        "fit",
        "assign",
        "levels",
        "typicality",
        "report",
    ]
    assert manifest["timings"]["total_seconds"] > 0
    assert manifest["neighbors"].items() >= {"n_neighbors": 10, "backend": "exact", "n_samples": 45}.items()
    assert "torch" in manifest["libraries"]
    assert manifest["metrics"] == {}


def test_collapse_is_recorded_and_told(tmp_path, caplog):
    np.save(tmp_path / "same.npy", np.ones((40, 4), np.float32))
    with caplog.at_level(logging.WARNING, "kinfold"):
        run = cluster(tmp_path / "same.npy", 5, out=tmp_path / "out", method="kmeans")
    messages = run.manifest["diagnosis"]["messages"]
    assert messages
    assert all(message in caplog.text for message in messages)


def test_graphs_are_kept_beside_features_and_shared(photos, tmp_path, caplog):
    embed(photos, tmp_path / "store", backbone="pixels", n_workers=0)
    options = {key: value for key, value in TEMI.items() if key != "backbone"}
    cluster(tmp_path / "store", 3, out=tmp_path / "a", **options)
    before = snapshot(tmp_path / "store")
    cluster(tmp_path / "store", 4, out=tmp_path / "b", **options)
    assert snapshot(tmp_path / "store") == before
    assert not (tmp_path / "b" / "neighbors").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"n_clusters": 46}, "n_clusters is 46, but there are only 45"),
            ({"n_clusters": 0}, "n_clusters must be an integer of at least 1"),
            ({"n_clusters": 2.5}, "n_clusters must be an integer of at least 1"),
            ({"method": "temmi"}, "did you mean 'temi'"),
            ({"variant": "patches"}, "variant"),
            ({"backbone": "pixel"}, "did you mean 'pixels'"),
            ({"random_state": None}, "random_state must be an integer from 0 to 4294967295; got None"),
            ({"random_state": 2**32}, "random_state must be an integer from 0 to 4294967295"),
            ({"n_neighbors": 0, "method": "temi"}, "n_neighbors must be an integer of at least 1"),
            ({"method_parameters": {"max_iters": 3}}, "did you mean 'max_iter'"),
            ({"method_parameters": {"n_clusters": 3}}, "pass it as its own argument"),
            (
                {"method_parameters": {"n_init": "abc"}},
                "n_init must be an integer of at least 1 or .*; got 'abc'",
            ),
            ({"method_parameters": {"max_iter": 2.5}}, "max_iter must be an integer of at least 1"),
            ({"method_parameters": {"tol": "x"}}, "tol must be a number of at least 0"),
            ({"method_parameters": {"temperature": 0}}, "temperature must be a number above 0"),
            ({"method_parameters": {"temperature": float("nan")}}, "temperature must be a number above 0"),
            ({"method_parameters": {"temperature": float("inf")}}, "temperature must be a number above 0"),
            (
                {"method": "temi", "method_parameters": {"n_heads": 0}},
                "n_heads must be an integer of at least 1",
            ),
            ({"method": "temi", "method_parameters": {"momentum": "x"}}, "momentum must be a number in"),
            ({"method": "temi", "method_parameters": {"weighted": "no"}}, "weighted must be True or False"),
            (
                {"method": "temi", "method_parameters": {"precision": "half"}},
                "precision must be one of .*; got 'half'",
            ),
            ({"device": "gpu"}, "device must be one of .*; got 'gpu'"),
            ({"source_options": {"path_column": "p"}}, "path_column"),
        ],
    )
    def test_bad_arguments_are_refused_before_anything_is_written(self, photos, tmp_path, arguments, words):
        out = tmp_path / "out"
        with pytest.raises(InputError, match=words):
            cluster(photos, **({"n_clusters": 3, "out": out, **KMEANS} | arguments))
        assert not out.exists()

    @pytest.mark.parametrize("source", [5, object(), None])
    def test_what_is_no_source_is_told_what_is(self, tmp_path, source):
        with pytest.raises(InputError, match="give a path or a pattern; a list of paths"):
            kinfold.cluster(source, 3, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("source", ["", " "])
    def test_an_empty_source_is_told(self, tmp_path, source):
        with pytest.raises(InputError, match="source is empty; give the path"):
            cluster(source, 3, out=tmp_path / "out", **KMEANS)

    def test_a_place_below_a_file_is_told(self, photos, tmp_path):
        (tmp_path / "file").write_text("precious")
        for out in (tmp_path / "file" / "sub", tmp_path / "file" / "a" / "b"):
            with pytest.raises(InputError, match="file is no folder"):
                cluster(photos, 3, out=out, **KMEANS)
            with pytest.raises(InputError, match="file is no folder"):
                embed(photos, out, backbone="pixels", n_workers=0)
        assert (tmp_path / "file").read_text() == "precious"

    def test_one_image_is_told_in_the_singular(self, photos, tmp_path):
        with pytest.raises(InputError, match=r"there is only 1 image in .*; ask for at most 1 group$"):
            cluster(photos / "red" / "2.png", 3, out=tmp_path / "out", **KMEANS)

    def test_bad_arguments_leave_a_finished_run_untouched(self, run, photos, tmp_path):
        before = snapshot(tmp_path / "out")
        for wrong in ({"n_clusters": 99}, {"method": "x"}, {"backbone": "x"}):
            with pytest.raises(InputError):
                cluster(photos, **({"n_clusters": 3, "out": tmp_path / "out", **KMEANS} | wrong))
        assert snapshot(tmp_path / "out") == before

    def test_a_folder_of_something_else_is_left_alone(self, photos, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("precious")
        with pytest.raises(InputError, match="is no part of a run of Kinfold; it was left as it is"):
            cluster(photos, 3, out=tmp_path / "thesis", **KMEANS)
        assert snapshot(tmp_path / "thesis") == {"chapter.txt": b"precious"}

    def test_a_feature_store_is_not_taken_for_a_run(self, photos, tmp_path):
        embed(photos, tmp_path / "store", backbone="pixels", n_workers=0)
        before = snapshot(tmp_path / "store")
        with pytest.raises(InputError, match="no run of Kinfold"):
            cluster(photos, 3, out=tmp_path / "store", **KMEANS)
        assert snapshot(tmp_path / "store") == before

    def test_a_file_is_left_alone(self, photos, tmp_path):
        (tmp_path / "out").write_text("precious")
        with pytest.raises(InputError, match="is a file"):
            cluster(photos, 3, out=tmp_path / "out", **KMEANS)
        assert (tmp_path / "out").read_text() == "precious"

    def test_a_run_of_another_source_is_left_alone(self, run, photos, tmp_path):
        before = snapshot(tmp_path / "out")
        write_images(tmp_path / "others", seed=1)
        with pytest.raises(InputError, match="is a run of"):
            cluster(tmp_path / "others", 3, out=tmp_path / "out", **KMEANS)
        assert snapshot(tmp_path / "out") == before

    def test_a_run_of_a_newer_version_is_left_alone(self, run, photos, tmp_path):
        file = tmp_path / "out" / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
        before = snapshot(tmp_path / "out")
        with pytest.raises(FormatError, match="newer Kinfold"):
            cluster(photos, 3, out=tmp_path / "out", **KMEANS)
        assert snapshot(tmp_path / "out") == before

    def test_a_run_in_use_is_refused(self, photos, tmp_path):
        (tmp_path / "out").mkdir()
        with lock_directory(tmp_path / "out"), pytest.raises(InputError, match="is being written"):
            cluster(photos, 3, out=tmp_path / "out", **KMEANS)

    def test_nothing_usable_is_an_error_that_says_so(self, tmp_path):
        (tmp_path / "bad").mkdir()
        for number in range(5):
            (tmp_path / "bad" / f"{number}.png").write_bytes(b"")
        with pytest.raises(InputError, match="used"):
            cluster(tmp_path / "bad", 3, out=tmp_path / "out", **KMEANS)

    def test_too_few_usable_images_are_told_with_their_number(self, photos, tmp_path):
        files = sorted(photos.rglob("*.png"))
        for file in files[2:]:
            file.write_bytes(b"")
        with pytest.raises(InputError, match="n_clusters is 3, but there are only 2 usable"):
            cluster(photos, 3, out=tmp_path / "out", **KMEANS)
        with pytest.raises(InputError, match="isn't finished"):
            Run.open(tmp_path / "out")

    def test_a_run_that_is_refused_before_its_first_stage_leaves_nothing(self, photos, tmp_path, monkeypatch):
        def refuse(*_):
            raise InputError("the disk is too small")

        monkeypatch.setattr("kinfold.pipeline._cluster.check_disk", refuse)
        (tmp_path / "empty").mkdir()
        for name in ("new", "empty"):
            with pytest.raises(InputError, match="too small"):
                cluster(photos, 3, out=tmp_path / name, **KMEANS)
        assert not (tmp_path / "new").exists()
        assert list((tmp_path / "empty").iterdir()) == []

    def test_a_missing_source_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"nowhere doesn't exist: there is no 'nowhere' in"):
            cluster(tmp_path / "nowhere", 3, out=tmp_path / "out", **KMEANS)
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions stop")
    def test_a_place_that_cannot_be_written_is_told(self, photos, tmp_path):
        tmp_path.joinpath("locked").mkdir(mode=0o500)
        with pytest.raises((InputError, PermissionError)):
            cluster(photos, 3, out=tmp_path / "locked" / "out", **KMEANS)


def test_embedding_returns_the_store_it_wrote(photos, tmp_path):
    store = embed(photos, tmp_path / "store", backbone=load_backbone("pixels"), n_workers=0)
    assert isinstance(store, FeatureStore)
    assert len(store.rows) == 45
    with pytest.raises(InputError, match="features already"):
        embed(tmp_path / "store", tmp_path / "again", backbone="pixels", n_workers=0)


def test_assignments_hold_every_usable_row_of_the_table_readers_see(photos, tmp_path):
    run = cluster(photos, 3, out=tmp_path / "out", report=False, **KMEANS)
    table = pq.read_table(run.path / "assignments.parquet")
    assert table.num_rows == 45
    assert table["key"].null_count == 0


def test_every_entry_of_the_manifest_is_described(photos, tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    described = text[text.index("## A run") :]
    run = cluster(photos, 3, out=tmp_path / "out", **TEMI)
    names = list(run.manifest)
    for section in ("source", "features", "diagnosis"):
        names += run.manifest[section]
    assert [name for name in names if f"`{name}`" not in described] == []


def test_a_run_inside_its_own_source_is_no_image(photos):
    first = cluster(photos, 3, out=photos / "run", **KMEANS)
    again = cluster(photos, 4, out=photos / "run", **KMEANS)
    assert again.assignments["key"].to_pylist() == first.assignments["key"].to_pylist()
    assert not len(again.skipped)
