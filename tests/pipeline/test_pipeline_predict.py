from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from kinfold.backbones import load_backbone
from kinfold.errors import FormatError, InputError
from kinfold.features import open_features
from kinfold.pipeline import cluster, embed, predict
from kinfold.run import Run
from support.image_folders import write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of images and a run of it by each method."""
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    shared = {"backbone": "pixels", "n_workers": 0, "report": False}
    cluster(home / "photos", 3, out=home / "kmeans", method="kmeans", **shared)
    parameters = {"n_heads": 2, "n_epochs": 3}
    cluster(home / "photos", 3, out=home / "temi", n_neighbors=10, method_parameters=parameters, **shared)
    return home


@pytest.fixture
def photos(made, tmp_path):
    shutil.copytree(made / "photos", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def run(request, made, tmp_path):
    """A copy of a run, by k-means unless the test asks for another method."""
    method = getattr(request, "param", "kmeans")
    return Run.open(shutil.copytree(made / method, tmp_path / "out"))


both_methods = pytest.mark.parametrize("run", ["kmeans", "temi"], indirect=True)


@both_methods
def test_training_images_get_their_training_groups(run, photos, tmp_path):
    table = predict(run, photos, tmp_path / "p.parquet", n_workers=0)
    columns = ["row", "key", "cluster", "confidence", "name"]
    assert table.select(columns).equals(run.assignments.select(columns))
    # As if each had joined its group once more, which moves it by less than a place.
    np.testing.assert_allclose(table["typicality"].to_numpy(), run.typicality, atol=1 / 15)
    assert pq.read_table(tmp_path / "p.parquet").equals(table)


@both_methods
def test_new_images_need_neither_features_nor_images_of_the_run(run, photos, tmp_path):
    new = tmp_path / "new"
    write_images(new, 12, seed=5)
    expected = {}
    for key, group in zip(run.assignments["key"].to_pylist(), run.labels.tolist(), strict=True):
        expected.setdefault(key.split("/")[0], set()).add(group)
    shutil.rmtree(photos)
    shutil.rmtree(run.path / "features")
    table = predict(Run.open(run.path), new, tmp_path / "p.parquet", n_workers=0)
    assert table.column_names == ["row", "key", "cluster", "confidence", "name", "typicality"]
    assert table["row"].to_pylist() == list(range(12))
    for key, group in zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True):
        assert group in expected[key.split("/")[0]]


def test_nothing_but_the_prediction_is_left(run, photos, tmp_path):
    (tmp_path / "results").mkdir()
    before = sorted(run.path.rglob("*"))
    predict(run.path, photos, tmp_path / "results" / "p.parquet", n_workers=0)
    assert [f.name for f in (tmp_path / "results").iterdir()] == ["p.parquet"]
    assert sorted(run.path.rglob("*")) == before


def test_skipped_images_are_listed_beside_and_the_list_goes_when_they_do(run, photos, tmp_path):
    bad = photos / "red" / "99.png"
    bad.write_bytes(b"")
    table = predict(run, photos, tmp_path / "p.parquet", n_workers=0)
    listed = pq.read_table(tmp_path / "p.skipped.parquet").to_pylist()
    assert [entry["key"] for entry in listed] == ["red/99.png"]
    assert listed[0]["row"] not in table["row"].to_pylist()
    assert table.num_rows == 45
    bad.unlink()
    predict(run, photos, tmp_path / "p.parquet", n_workers=0)
    assert not (tmp_path / "p.skipped.parquet").exists()


def test_features_of_the_same_backbone_are_a_source(run, photos, tmp_path):
    embed(photos, tmp_path / "store", backbone="pixels", n_workers=0)
    table = predict(run, tmp_path / "store", tmp_path / "p.parquet")
    assert table["cluster"].to_pylist() == run.labels.tolist()
    np.save(tmp_path / "ready.npy", np.asarray(open_features(tmp_path / "store").matrix()))
    ready = predict(run, tmp_path / "ready.npy", tmp_path / "q.parquet")
    assert ready["cluster"].to_pylist() == run.labels.tolist()


def test_features_of_another_backbone_are_refused(run, photos, tmp_path):
    embed(photos, tmp_path / "store", backbone="hog", n_workers=0)
    with pytest.raises(InputError, match="made with the backbone hog"):
        predict(run, tmp_path / "store", tmp_path / "p.parquet")
    assert not (tmp_path / "p.parquet").exists()


def test_features_of_another_dimension_are_refused(run, tmp_path):
    np.save(tmp_path / "ready.npy", np.ones((5, 7), np.float32))
    with pytest.raises(InputError, match="have 7 dimensions"):
        predict(run, tmp_path / "ready.npy", tmp_path / "p.parquet")


def test_a_changed_backbone_is_refused(run, photos, tmp_path):
    file = run.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["backbone"]["fingerprint"] = "0" * 64
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="isn't the one that"):
        predict(run.path, photos, tmp_path / "p.parquet", n_workers=0)


def test_a_loaded_backbone_can_be_given(run, photos, tmp_path):
    table = predict(run, photos, tmp_path / "p.parquet", backbone=load_backbone("pixels"), n_workers=0)
    assert table["cluster"].to_pylist() == run.labels.tolist()
    with pytest.raises(InputError, match="isn't the one that"):
        predict(run, photos, tmp_path / "p.parquet", backbone="hog", n_workers=0)


def test_a_run_of_a_feature_store_predicts_images_too(photos, tmp_path):
    store = embed(photos, tmp_path / "store", backbone="pixels", n_workers=0)
    run = cluster(store, 3, out=tmp_path / "out", method="kmeans", report=False)
    table = predict(run, photos, tmp_path / "p.parquet", n_workers=0)
    assert table["cluster"].to_pylist() == run.labels.tolist()


def test_a_run_of_ready_features_cannot_embed_images(features_file, photos, tmp_path):
    run = cluster(features_file, 3, out=tmp_path / "out", method="kmeans", report=False)
    with pytest.raises(InputError, match="made from ready features"):
        predict(run, photos, tmp_path / "p.parquet")
    table = predict(run, features_file, tmp_path / "p.parquet")
    assert table["cluster"].to_pylist() == run.labels.tolist()


def snapshot(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


class TestPlacesForPredictions:
    def refuses(self, run, photos, out, words):
        """Check that a place is refused with words that fit, and that nothing anywhere is touched."""
        home = photos.parent
        before = snapshot(home)
        with pytest.raises(InputError, match=words):
            predict(run, photos, out, n_workers=0)
        assert snapshot(home) == before

    def test_a_folder_is_none(self, run, photos, tmp_path):
        self.refuses(run, photos, tmp_path, "is a folder")

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "assignments.parquet", "new.parquet", "a/b.parquet"]
    )
    def test_the_run_itself_is_none(self, run, photos, name):
        self.refuses(run, photos, run.path / name, "is inside the run")
        self.refuses(run, photos, run.path.parent / "photos" / ".." / "out" / name, "is inside the run")

    def test_a_link_into_the_run_is_none(self, run, photos, tmp_path):
        (tmp_path / "p.parquet").symlink_to(run.path / "model.safetensors")
        self.refuses(run, photos, tmp_path / "p.parquet", "is inside the run")

    def test_an_image_is_none(self, run, photos):
        self.refuses(run, photos, photos / "red" / "2.png", "wasn't written by `kinfold predict`")

    def test_assignments_and_other_tables_are_none(self, run, photos, tmp_path):
        shutil.copy(run.path / "assignments.parquet", tmp_path / "p.parquet")
        self.refuses(run, photos, tmp_path / "p.parquet", "wasn't written by")

    def test_a_foreign_list_of_skipped_images_is_none(self, run, photos, tmp_path):
        (tmp_path / "p.skipped.parquet").write_text("precious")
        self.refuses(run, photos, tmp_path / "p.parquet", r"p\.skipped\.parquet exists and wasn't")

    def test_below_a_file_is_none(self, run, photos, tmp_path):
        (tmp_path / "file").write_text("precious")
        self.refuses(run, photos, tmp_path / "file" / "p.parquet", "file is no folder")

    def test_earlier_predictions_are_replaced(self, run, photos, tmp_path):
        predict(run, photos / "red", tmp_path / "p.parquet", n_workers=0)
        table = predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        assert pq.read_table(tmp_path / "p.parquet").equals(table)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_damaged_model_is_told_with_its_mend_before_anything_is_embedded(run, photos, tmp_path, name):
    content = (run.path / name).read_bytes()
    (run.path / name).write_bytes(content[: len(content) // 2])
    seen = []
    backbone = load_backbone("pixels")
    backbone.embed = lambda *_: seen.append(1)
    with pytest.raises(FormatError, match="repeat the `kinfold cluster` command"):
        predict(run, photos, tmp_path / "p.parquet", backbone=backbone, n_workers=0)
    assert not seen
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(("card", "option"), [("", "DIR"), ("ibot-vitb16:", "ibot-vitb16:FILE")])
def test_a_moved_backbone_is_named_with_the_option_that_finds_it(run, photos, tmp_path, card, option):
    file = run.path / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["backbone"]["spec"] = f"{card}{tmp_path / 'moved'}"
    file.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"needs the model that was at .*moved.*--backbone {option}"):
        predict(run.path, photos, tmp_path / "p.parquet", n_workers=0)


def test_one_skipped_image_is_told_in_the_singular(run, photos, tmp_path, caplog):
    (photos / "red" / "99.png").write_bytes(b"")
    predict(run, photos, tmp_path / "p.parquet", n_workers=0)
    assert "1 of 46 images was skipped" in caplog.text
