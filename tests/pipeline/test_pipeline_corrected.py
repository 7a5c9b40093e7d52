"""Claims about corrected runs: they are never replaced unasked, and every verb speaks of their groups."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import kinfold
from kinfold.backbones import load_backbone
from kinfold.corrections import Corrections, Merge, Rename
from kinfold.errors import InputError
from kinfold.run import Run
from support.image_folders import write_images

KMEANS = {"method": "kmeans", "backbone": "pixels", "n_workers": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    kinfold.cluster(home / "photos", 6, out=home / "run", **KMEANS)
    return home


@pytest.fixture
def photos(made, tmp_path):
    return Path(shutil.copytree(made / "photos", tmp_path / "photos"))


@pytest.fixture
def run(made, photos, tmp_path):
    path = shutil.copytree(made / "run", tmp_path / "out")
    # At the place of its own copy of the images.
    file = path / "manifest.json"
    file.write_text(file.read_text().replace(str(made / "photos"), str(photos)))
    return Run.open(path)


def correct(run, *edits):
    with Corrections.open(run) as corrections:
        for edit in edits:
            corrections.apply(edit)
        return corrections.state


def merge_kinds(run):
    """Correct a run of six groups into three, one per kind, and return the group of each kind."""
    kinds = [key.split("/")[0] for key in run.assignments["key"].to_pylist()]
    members = {}
    for kind, group in zip(kinds, run.labels.tolist(), strict=True):
        members.setdefault(kind, set()).add(group)
    edits, kept = [], {}
    for kind, groups in members.items():
        kept[kind] = max(groups)
        edits += [Merge(sorted(groups), kept[kind])] if len(groups) > 1 else []
        edits.append(Rename(kept[kind], kind.upper()))
    correct(run, *edits)
    return kept


def snapshot(folder):
    left_out = (".lock", "corrections.sqlite-shm", "corrections.sqlite-wal")
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name not in left_out
    }


def count_embedded(monkeypatch):
    """Return a loaded backbone and the list of how many images each of its batches had."""
    backbone, sizes = load_backbone("pixels"), []
    embed = backbone.embed
    monkeypatch.setattr(
        backbone, "embed", lambda images, variants: (sizes.append(len(images)), embed(images, variants))[1]
    )
    return backbone, sizes


class TestReplacingACorrectedRun:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda photos: (photos / "red" / "2.png").unlink(), "1 gone"),
            (lambda photos: write_images(photos, 60), "15 new"),
            (lambda photos: shutil.copy(photos / "red" / "2.png", photos / "red" / "5.png"), "images"),
            (lambda photos: (photos / "red" / "2.png").write_bytes(b""), "images"),
        ],
        ids=["deleted", "added", "overwritten", "emptied"],
    )
    def test_a_changed_folder_is_refused_before_any_work(self, run, photos, change, words):
        correct(run, Rename(0, "cats"), Merge([1], 2))
        change(photos)
        before = snapshot(run.path)
        with pytest.raises(InputError, match=rf"2 corrections.*{words}.*--force"):
            kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        assert snapshot(run.path) == before

    @pytest.mark.parametrize(
        "options", [{"n_clusters": 5}, {"random_state": 1}, {"method": "icce"}, {"backbone": "hog"}]
    )
    def test_other_parameters_are_refused(self, run, photos, options):
        correct(run, Rename(0, "cats"))
        before = snapshot(run.path)
        with pytest.raises(InputError, match=r"1 correction\)"):
            kinfold.cluster(photos, out=run.path, **{"n_clusters": 6, **KMEANS, **options})
        assert snapshot(run.path) == before

    def test_force_replaces_it_and_keeps_the_corrections_beside(self, run, photos, caplog):
        correct(run, Rename(0, "cats"))
        kept = (run.path / "corrections.sqlite").read_bytes()
        again = kinfold.cluster(photos, 5, out=run.path, force=True, **KMEANS)
        assert again.n_clusters == 5
        assert "corrections-1.sqlite" in caplog.text
        assert (run.path / "corrections-1.sqlite").read_bytes() == kept
        correct(again, Rename(0, "dogs"))  # nothing is in the way of new ones
        kinfold.cluster(photos, 4, out=run.path, force=True, **KMEANS)
        assert (run.path / "corrections-2.sqlite").exists()

    def test_undone_corrections_are_none(self, run, photos):
        correct(run, Rename(0, "cats"))
        with Corrections.open(run) as corrections:
            corrections.undo()
        assert kinfold.cluster(photos, 5, out=run.path, **KMEANS).n_clusters == 5

    def test_corrections_that_cannot_be_read_are_not_replaced_either(self, run, photos):
        (run.path / "corrections.sqlite").write_bytes(b"precious " * 1000)
        with pytest.raises(InputError, match="how often can't be told"):
            kinfold.cluster(photos, 5, out=run.path, **KMEANS)

    @pytest.mark.parametrize("change", ["nothing", "touched", "copied"])
    def test_the_same_images_keep_it_and_are_not_embedded_again(self, run, photos, monkeypatch, change):
        correct(run, Merge([1], 2))
        if change == "touched":
            for file in photos.rglob("*.png"):
                os.utime(file)
        if change == "copied":
            for file in photos.rglob("*.png"):
                content = file.read_bytes()
                file.unlink()
                file.write_bytes(content)
        backbone, sizes = count_embedded(monkeypatch)
        before = (run.path / "assignments.parquet").read_bytes()
        again = kinfold.cluster(photos, 6, out=run.path, **{**KMEANS, "backbone": backbone})
        assert not sizes
        assert (run.path / "assignments.parquet").read_bytes() == before
        assert not Corrections.open(again, write=False).state.groups[1].alive

    def test_damaged_features_of_the_same_images_are_made_anew(self, run, photos):
        correct(run, Merge([1], 2))
        shutil.rmtree(run.path / "features")
        (run.path / "model.safetensors").unlink()
        again = kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        assert not Corrections.open(again, write=False).state.groups[1].alive


class TestFeaturesByContent:
    def test_only_new_files_are_embedded(self, run, photos, tmp_path, monkeypatch):
        write_images(photos, 60)
        (photos / "red" / "2.png").rename(photos / "blue" / "moved.png")
        (photos / "green" / "1.png").unlink()
        backbone, sizes = count_embedded(monkeypatch)
        kinfold.embed(photos, run.path / "features", backbone=backbone, n_workers=0)
        assert sum(sizes) == 15
        again = kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        fresh = kinfold.cluster(photos, 6, out=tmp_path / "fresh", **KMEANS)
        assert again.assignments.equals(fresh.assignments)
        assert again.features().fingerprint() == fresh.features().fingerprint()
        again.features().verify()

    def test_a_file_of_other_content_under_the_old_name_is_embedded(self, run, photos, monkeypatch):
        shutil.copy(photos / "red" / "2.png", photos / "blue" / "0.png")
        (photos / "blue" / "3.png").write_bytes(b"")
        backbone, sizes = count_embedded(monkeypatch)
        kinfold.embed(photos, run.path / "features", backbone=backbone, n_workers=0)
        again = kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        assert sum(sizes) == 0  # the same bytes as another file's
        groups = dict(zip(again.assignments["key"].to_pylist(), again.labels.tolist(), strict=True))
        assert groups["blue/0.png"] == groups["red/2.png"]
        assert again.skipped["key"].to_pylist() == ["blue/3.png"]

    def test_a_store_without_hashes_is_embedded_again(self, run, photos, monkeypatch):
        (run.path / "features" / "contents.parquet").unlink()
        write_images(photos, 48)
        backbone, sizes = count_embedded(monkeypatch)
        kinfold.embed(photos, run.path / "features", backbone=backbone, n_workers=0)
        assert sum(sizes) == 48

    def test_interrupted_renewals_go_on(self, run, photos, monkeypatch, tmp_path):
        write_images(photos, 60)
        store = run.path / "features"
        replace, calls = os.replace, []

        def dying(source, target):
            calls.append(source)
            if Path(source).parent.name == "renewed" and Path(source).name == "index.parquet":
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            kinfold.embed(photos, store, backbone="pixels", n_workers=0)
        monkeypatch.setattr(os, "replace", replace)
        again = kinfold.embed(photos, store, backbone="pixels", n_workers=0)
        fresh = kinfold.embed(photos, tmp_path / "fresh", backbone="pixels", n_workers=0)
        again.verify()
        assert again.fingerprint() == fresh.fingerprint()
        assert {file.name for file in store.iterdir()} == {file.name for file in fresh.path.iterdir()}
