"""Claims about corrected runs: they are never replaced unasked, and every verb speaks of their groups."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

import kinfold
from kinfold.backbones import load_backbone
from kinfold.corrections import Corrections, Mark, Merge, Move, Rename, Split
from kinfold.errors import FormatError, InputError
from kinfold.images import UnusableImage
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


class TestPredictions:
    def test_they_go_to_no_group_that_was_merged_away(self, run, photos, tmp_path):
        kept = merge_kinds(run)
        table = kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        kinds = [key.split("/")[0] for key in table["key"].to_pylist()]
        assert table["cluster"].to_pylist() == [kept[kind] for kind in kinds]
        assert table["name"].to_pylist() == [kind.upper() for kind in kinds]

    def test_chains_of_merges_are_followed(self, run, photos, tmp_path):
        correct(run, Merge([0], 1), Merge([1, 2], 3), Merge([3], 5))
        table = kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        assert set(table["cluster"].to_pylist()) == {4, 5}

    def test_images_of_a_split_group_go_to_the_closest_part(self, run, photos, tmp_path):
        state = correct(run, Merge([0, 1, 2, 3, 4], 5), Split(5, 3))
        table = kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        assert table["cluster"].to_pylist() == state.labels.tolist()
        assert len(set(state.labels.tolist())) == 3

    def test_without_features_they_go_to_the_part_that_kept_the_number(self, run, photos, tmp_path, caplog):
        correct(run, Merge([0, 1, 2, 3, 4], 5), Split(5, 3))
        shutil.rmtree(run.path / "features")
        table = kinfold.predict(run.path, photos, tmp_path / "p.parquet", n_workers=0)
        assert set(table["cluster"].to_pylist()) == {5}
        assert "can't be told apart" in caplog.text

    def test_images_moved_by_hand_and_marks_change_nothing_for_others(self, run, photos, tmp_path):
        before = kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        correct(run, Move([0, 1], 5), Move([2], None, name="odd"), Mark([3], "noise"))
        after = kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        assert after["cluster"].to_pylist() == before["cluster"].to_pylist()

    def test_damaged_corrections_are_told_before_any_work(self, run, photos, tmp_path):
        (run.path / "corrections.sqlite").write_bytes(b"precious " * 1000)
        with pytest.raises(FormatError, match=r"corrections\.sqlite"):
            kinfold.predict(run, photos, tmp_path / "p.parquet", n_workers=0)
        assert not (tmp_path / "p.parquet").exists()


class TestEvaluation:
    def test_the_corrected_groups_are_judged_and_the_others_told_beside(self, run):
        before = kinfold.evaluate(run, "folder")
        merge_kinds(run)
        after = kinfold.evaluate(run, "folder")
        assert (before.accuracy < 0.8, before.uncorrected, before.n_corrections) == (True, None, 0)
        assert after.accuracy == 1.0
        assert after.uncorrected == before
        assert after.n_groups == 3
        recorded = json.loads((run.path / "manifest.json").read_text())["metrics"]
        assert recorded["accuracy"] == 1.0
        assert recorded["uncorrected"]["accuracy"] == before.accuracy
        assert set(recorded["classes"].values()) == {"red", "green", "blue"}

    def test_marked_images_are_in_no_group_and_counted(self, run):
        merge_kinds(run)
        red = [row for row, key in enumerate(run.assignments["key"].to_pylist()) if key.startswith("red")]
        correct(run, Mark(red[:4], "noise"))
        found = kinfold.evaluate(run, "folder")
        assert (found.n_marked, found.n_matched, found.uncorrected.n_matched) == (4, 41, 45)
        correct(run, Mark(list(range(45)), "wrong"))
        with pytest.raises(InputError, match="none is in a group"):
            kinfold.evaluate(run, "folder")

    def test_a_class_of_which_all_are_marked_is_none(self, run):
        merge_kinds(run)
        red = [row for row, key in enumerate(run.assignments["key"].to_pylist()) if key.startswith("red")]
        correct(run, Mark(red, "noise"))
        found = kinfold.evaluate(run, "folder")
        assert (found.accuracy, found.n_classes, found.n_groups) == (1.0, 2, 2)

    def test_each_of_the_best_groups_counts_once(self, run):
        merge_kinds(run)
        found = kinfold.evaluate(run, "folder")
        assert found.top_k[1] == 1.0
        assert list(found.top_k) == list(found.uncorrected.top_k)

    def test_several_labels_are_judged_by_corrected_groups(self, run):
        merge_kinds(run)
        correct(run, Mark([0], "noise"))
        labels = {key: [key.split("/")[0], "thing"] for key in run.assignments["key"].to_pylist()}
        found = kinfold.evaluate(run, labels, multi_label=True)
        assert found.several.accuracies[1] >= found.uncorrected.several.accuracies[1]

    @pytest.mark.parametrize(
        ("label", "words"), [(lambda row: "cat", "have one label, 'cat'"), (str, "have different labels")]
    )
    def test_labels_that_say_nothing_are_warned_of(self, run, caplog, label, words):
        labels = {key: label(row) for row, key in enumerate(run.assignments["key"].to_pylist())}
        found = kinfold.evaluate(run, labels)
        assert words in caplog.text
        assert words in found.as_dict()["warnings"][0]

    def test_good_labels_are_not_warned_of(self, run, caplog):
        assert kinfold.evaluate(run, "folder").warnings == ()
        assert not caplog.records


class TestThePage:
    def test_it_shows_the_corrected_groups_and_their_names(self, run):
        merge_kinds(run)
        text = kinfold.report(run).read_text()
        assert "45 images in 3 groups" in text
        for name in ("RED", "GREEN", "BLUE"):
            assert name in text

    def test_clustering_again_writes_it_anew_once_it_was_corrected(self, run, photos, caplog):
        caplog.set_level(logging.INFO, "kinfold")
        kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        merge_kinds(run)
        kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        assert "45 images in 3 groups" in run.report_path.read_text()
        caplog.clear()
        kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        assert not [record for record in caplog.records if record.msg == "stage %s: starts"]

    def test_corrections_of_other_groups_are_told_and_left_out(self, run, photos, caplog):
        correct(run, Merge([1], 2))
        kinfold.cluster(photos, 5, out=run.path, force=True, **KMEANS)
        shutil.move(run.path / "corrections-1.sqlite", run.path / "corrections.sqlite")  # as it was before
        caplog.clear()
        kinfold.report(run.path)
        assert "corrections of other groups" in caplog.text
        assert "45 images in 5 groups" in run.report_path.read_text()

    def test_a_notebook_shows_the_corrected_groups(self, run):
        merge_kinds(run)
        correct(run, Rename(Corrections.open(run, write=False).state.alive[0], "<b>cats & dogs"))
        text = run._repr_html_()
        assert "45 images in 3 groups" in text
        assert "&lt;b&gt;cats &amp; dogs" in text
        (run.path / "corrections.sqlite").write_bytes(b"precious " * 1000)
        assert "without its corrections" in run._repr_html_()


class TestChangedPictures:
    def test_pictures_of_a_changed_folder_are_still_shown(self, run, photos, caplog):
        """A corrected run isn't replaced, so it must be possible to look at what is left of it."""
        merge_kinds(run)
        (photos / "blue" / "0.png").unlink()
        write_images(photos / "green" / "new", 3, seed=9)
        images = run.images()
        keys = run.assignments["key"].to_pylist()
        assert list(images.keys) == keys
        assert all(images.read(row) == (photos / keys[row]).read_bytes() for row in range(1, 45))
        with pytest.raises(UnusableImage, match="no picture of this key"):
            images.read(0)
        assert "44 found, 1 of the first without a picture, 3 of the second in no row" in caplog.text
        assert "45 images in 3 groups" in kinfold.report(run).read_text()


def test_a_log_without_its_file_does_not_pass_for_an_uncorrected_run(run, photos, tmp_path):
    (run.path / "corrections.sqlite-wal").write_bytes(b"edits")
    with pytest.raises(FormatError, match="is missing"):
        kinfold.evaluate(run, "folder")
    with pytest.raises(InputError, match="how often can't be told"):
        kinfold.cluster(photos, 5, out=run.path, **KMEANS)


class TestCorrectionsThatAreSetAside:
    def lone_log(self, run, tmp_path):
        """Leave the log of corrections without its file, as someone does who takes away the file alone."""
        corrections = Corrections.open(run)
        corrections.apply(Rename(0, "precious"))
        log = run.path / "corrections.sqlite-wal"
        shutil.copy(log, tmp_path / "log")
        corrections.close()
        (run.path / "corrections.sqlite").rename(tmp_path / "taken.sqlite")
        shutil.copy(tmp_path / "log", log)
        return (tmp_path / "log").read_bytes()

    def test_a_log_without_its_file_is_kept_to_the_byte(self, run, photos, tmp_path):
        log = self.lone_log(run, tmp_path)
        kinfold.cluster(photos, 5, out=run.path, force=True, **KMEANS)
        assert (run.path / "corrections-1.sqlite-wal").read_bytes() == log
        assert not (run.path / "corrections-1.sqlite").exists()

    def test_the_log_of_an_empty_file_is_kept(self, run, photos, tmp_path):
        log = self.lone_log(run, tmp_path)
        (run.path / "corrections.sqlite").touch()
        kinfold.cluster(photos, 5, out=run.path, force=True, **KMEANS)
        assert (run.path / "corrections-1.sqlite-wal").read_bytes() == log

    def test_they_never_replace_a_log_that_was_set_aside_before(self, run, photos, tmp_path):
        log = self.lone_log(run, tmp_path)
        kinfold.cluster(photos, 5, out=run.path, force=True, **KMEANS)
        self.lone_log(Run.open(run.path), tmp_path)
        kinfold.cluster(photos, 4, out=run.path, force=True, **KMEANS)
        assert (run.path / "corrections-1.sqlite-wal").read_bytes() == log
        assert (run.path / "corrections-2.sqlite-wal").read_bytes() != log


class TestACorrectedRunThatIsBeingMendedWhenItIsKilled:
    @pytest.fixture
    def killed(self, run, photos, monkeypatch):
        correct(run, Rename(0, "precious"))
        (run.path / "model.safetensors").unlink()
        with monkeypatch.context() as patch:

            def kill(*_):
                raise KeyboardInterrupt

            patch.setattr("kinfold.pipeline._cluster.save_model", kill)
            for _ in range(2):
                with pytest.raises(KeyboardInterrupt):
                    kinfold.cluster(photos, 6, out=run.path, **KMEANS)
        return run

    def test_it_gets_no_other_groups_unasked(self, killed, photos):
        with pytest.raises(InputError, match=r"isn't finished.*other groups.*--force"):
            kinfold.cluster(photos, 5, out=killed.path, **KMEANS)
        assert (killed.path / "corrections.sqlite").exists()

    def test_the_same_call_goes_on_and_the_corrections_hold(self, killed, photos):
        again = kinfold.cluster(photos, 6, out=killed.path, **KMEANS)
        with Corrections.open(again, write=False) as corrections:
            assert corrections.state.groups[0].name == "precious"
        assert "former_fit" not in again.manifest

    def test_by_force_they_are_kept_beside(self, killed, photos):
        assert kinfold.cluster(photos, 5, out=killed.path, force=True, **KMEANS).n_clusters == 5
        assert (killed.path / "corrections-1.sqlite").exists()
