"""Run folders that come from elsewhere: nothing outside them is touched, and what is damaged is refused."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy

import kinfold
from kinfold import Run, cluster
from kinfold.corrections import Corrections, Rename
from kinfold.errors import FormatError, InputError
from kinfold.run import finish_replacing, read_manifest
from support.image_folders import write_images


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of images, and a corrected run of it that nobody may change."""
    home = tmp_path_factory.mktemp("home")
    write_images(home / "photos")
    labels = "".join(f"{path.relative_to(home / 'photos')},x\n" for path in (home / "photos").rglob("*.png"))
    (home / "labels.csv").write_text(f"key,label\n{labels}")
    run = cluster(home / "photos", 3, method="kmeans", backbone="pixels", out=home / "run", n_workers=1)
    with Corrections.open(run) as corrections:
        corrections.apply(Rename(0, "cats"))
    return home


@pytest.fixture
def path(home, tmp_path):
    """A copy of the run beside a precious file and folder."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    return shutil.copytree(home / "run", tmp_path / "run")


def snapshot(folder):
    return {file.relative_to(folder): file.lstat().st_ino for file in folder.rglob("*")} | {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def work(verb, path, home):
    """Run a command that writes into the run."""
    if verb == "cluster":
        cluster(home / "photos", 3, method="kmeans", backbone="pixels", out=path, n_workers=1)
    elif verb == "evaluate":
        kinfold.evaluate(path, home / "labels.csv")
    elif verb == "corrections":
        with Corrections.open(Run.open(path)) as corrections:
            corrections.apply(Rename(0, "dogs"))
    elif verb == "export":
        kinfold.export(path, "csv", path.parent / "out.csv")
    elif verb == "predict":
        kinfold.predict(path, home / "photos", path.parent / "new.parquet", n_workers=1)
    else:
        getattr(kinfold, verb)(path)


VERBS = ("cluster", "report", "evaluate", "refine", "corrections", "export", "predict")
NAMES = (
    ".partial-report.html",
    ".partial-manifest.json",
    ".lock",
    ".next",
    "proposals.parquet",
    "thumbnails.sqlite",
    "corrections.sqlite-wal",
    "neighbors",
    "report.html",
    "manifest.json",
    "corrections.sqlite",
    "features",
    "features/variants",
    "features/index.parquet",
)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", [".partial-report.html", ".lock", "corrections.sqlite", "features/variants"])
def test_no_verb_follows_a_link_in_a_run(path, home, verb, name):
    check_refused(path, home, verb, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_link_of_any_name_in_a_run_is_refused(path, home, name):
    check_refused(path, home, "report", name)


def check_refused(path, home, verb, name):
    link = path / name
    if link.is_dir():
        shutil.move(link, path.parent / "moved")
        link.symlink_to(path.parent / "moved")
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(path.parent / "outside" / ("precious" if "." in name[1:] else ""))
    before = snapshot(path.parent)
    with pytest.raises((InputError, FormatError), match="is a link"):
        work(verb, path, home)
    assert snapshot(path.parent) == before


@pytest.mark.parametrize("verb", ["report", "refine", "corrections"])
@pytest.mark.parametrize("name", ["corrections.sqlite", "manifest.json", "assignments.parquet", ".lock"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(path, home, verb, name):
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    with pytest.raises((InputError, FormatError)):
        work(verb, path, home)


def edit(path, change):
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["../outside/precious", "..", "/etc/hosts", "a/b", "manifest.json", "unknown.txt", "", 1, None]
)
def test_only_files_of_stages_are_moved_into_their_place(path, home, name):
    (path / ".next").mkdir()
    edit(path, lambda manifest: manifest.update(replacing=[name]))
    before = snapshot(path.parent)
    with pytest.raises(FormatError, match="'replacing' lists what is no file of a run"):
        finish_replacing(path)
    with pytest.raises(FormatError, match="'replacing'"):
        work("cluster", path, home)
    assert snapshot(path.parent) == before


@pytest.mark.parametrize("name", ["../outside/precious", "/etc/hosts", "manifest.json"])
def test_only_files_of_stages_are_outputs(path, name):
    edit(path, lambda manifest: manifest["stages"]["assign"]["outputs"].update({name: "0" * 64}))
    with pytest.raises(FormatError, match="the record of stage 'assign'"):
        Run.open(path)


@pytest.mark.parametrize(
    "record", [1, [], None, {"outputs": []}, {"outputs": {"model.json": 1}}, {"seconds": "1"}]
)
def test_a_record_of_another_form_is_damage(path, record):
    edit(path, lambda manifest: manifest["stages"].update(fit=record))
    with pytest.raises(FormatError, match=r"is damaged: '?stages.fit|the record of stage 'fit'"):
        Run.open(path)


@pytest.mark.parametrize("where", ["../outside", "a/../../outside", "..", 1, ["features"]])
def test_features_are_in_the_run_or_at_a_full_path(path, where):
    edit(path, lambda manifest: manifest["features"].update(path=where))
    with pytest.raises(FormatError, match=r"no place of features|'features.path' can't be"):
        Run.open(path)


@pytest.mark.parametrize("where", ["/data/features", "C:\\data\\features", "features"])
def test_features_at_a_full_path_of_any_system_are_fine(path, where):
    edit(path, lambda manifest: manifest["features"].update(path=where))
    assert Run.open(path).manifest.features["path"] == where


def damage_weights(file, how):
    tensors = {name: value.copy() for name, value in safetensors.numpy.load(file.read_bytes()).items()}
    largest = tensors[max(tensors, key=lambda name: tensors[name].size)]
    if how == "nan":
        largest[0, 0] = np.nan
    elif how == "zeros":
        largest[:] = 0
    content = bytearray(safetensors.numpy.save(tensors))
    if how == "a bit":
        content[-3] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["nan", "zeros", "a bit"])
def test_a_model_that_is_not_what_was_written_predicts_nothing(path, home, how):
    damage_weights(path / "model.safetensors", how)
    with pytest.raises(FormatError, match=r"model\.safetensors is damaged"):
        work("predict", path, home)
    with pytest.raises(FormatError, match=r"model\.safetensors is damaged"):
        Run.open(path).load_model()
    assert not (path.parent / "new.parquet").exists()


def test_a_model_whose_description_was_changed_predicts_nothing(path, home):
    file = path / "model.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(FormatError, match=r"model\.json is damaged"):
        work("predict", path, home)


@pytest.mark.parametrize(("name", "read"), [("assignments", "labels"), ("skipped", "skipped")])
def test_a_table_that_is_not_what_was_written_is_refused(path, name, read):
    import pyarrow.parquet as pq

    file = path / f"{name}.parquet"
    pq.write_table(pq.read_table(file), file)  # the same rows in other bytes
    with pytest.raises(FormatError, match=rf"{name}\.parquet is damaged \(its content isn't"):
        getattr(Run.open(path), read)


def test_a_run_that_was_opened_before_a_change_reads_what_is_there_now(path):
    opened = Run.open(path)
    file = path / "assignments.parquet"
    import pyarrow.parquet as pq

    from kinfold.run import write_manifest
    from kinfold.storage import hash_file

    pq.write_table(pq.read_table(file), file)
    manifest = read_manifest(path)
    manifest.stages["assign"]["outputs"][file.name] = hash_file(file)
    write_manifest(path, manifest)
    assert len(opened.labels) == 45
