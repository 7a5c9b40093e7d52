"""Claims about what predictions are written as, and where."""

from __future__ import annotations

import csv
import shutil

import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.corrections import Corrections, Rename
from kinfold.errors import InputError
from kinfold.run import Run
from support.image_folders import write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("made")
    write_images(home / "photos")
    options = {"method": "kmeans", "backbone": "pixels", "n_workers": 0, "report": False}
    run = kinfold.cluster(home / "photos", 3, out=home / "run", **options)
    with Corrections.open(run) as corrections:
        corrections.apply(Rename(0, "cats / dogs"))
    return home


@pytest.fixture
def run(made):
    return Run.open(made / "run")


@pytest.fixture
def new(tmp_path):
    write_images(tmp_path / "new", 9, seed=4)
    (tmp_path / "new" / "empty.png").write_bytes(b"")
    return tmp_path / "new"


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("by", ["suffix", "to"])
def test_a_csv_has_what_the_parquet_file_has(run, new, tmp_path, by):
    options = {"to": "csv"} if by == "to" else {}
    table = kinfold.predict(run, new, tmp_path / "p.csv", n_workers=0, **options)
    lines = read_csv(tmp_path / "p.csv")
    assert [line["key"] for line in lines] == table["key"].to_pylist()
    assert [int(line["cluster"]) for line in lines] == table["cluster"].to_pylist()
    assert [line["name"] or None for line in lines] == table["name"].to_pylist()
    assert [line["key"] for line in read_csv(tmp_path / "p.skipped.csv")] == ["empty.png"]
    kinfold.predict(run, new / "red", tmp_path / "p.csv", n_workers=0)  # earlier ones are replaced
    assert len(read_csv(tmp_path / "p.csv")) == 3
    assert not (tmp_path / "p.skipped.csv").exists()


def test_other_csv_files_are_left(run, new, tmp_path):
    (tmp_path / "p.csv").write_text("key,label\na,b\n")
    with pytest.raises(InputError, match="wasn't written by `kinfold predict`"):
        kinfold.predict(run, new, tmp_path / "p.csv", n_workers=0)
    assert (tmp_path / "p.csv").read_text() == "key,label\na,b\n"


def test_folders_hold_the_images_of_each_group(run, new, tmp_path):
    table = kinfold.predict(run, new, tmp_path / "sorted", to="folders", n_workers=0)
    lines = read_csv(tmp_path / "sorted" / "labels.csv")
    assert len(lines) == 9
    for line, key, cluster in zip(lines, table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True):
        assert (tmp_path / "sorted" / line["file"]).read_bytes() == (new / key).read_bytes()
        assert line["file"].split("/")[0] == ("cats _ dogs" if cluster == 0 else f"group {cluster}")
    assert pq.read_table(tmp_path / "sorted.skipped.parquet")["key"].to_pylist() == ["empty.png"]


def test_folders_are_replaced_by_force_alone(run, new, tmp_path):
    kinfold.predict(run, new, tmp_path / "sorted", to="folders", n_workers=0)
    with pytest.raises(InputError, match="--force"):
        kinfold.predict(run, new, tmp_path / "sorted", to="folders", n_workers=0)
    kinfold.predict(run, new / "red", tmp_path / "sorted", to="folders", force=True, n_workers=0)
    assert len(read_csv(tmp_path / "sorted" / "labels.csv")) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("1")
    for force in (False, True):
        with pytest.raises(InputError, match="isn't an earlier export"):
            kinfold.predict(run, new, tmp_path / "other", to="folders", force=force, n_workers=0)


def test_folders_of_features_find_the_images_by_themselves(run, new, tmp_path):
    store = kinfold.embed(new, tmp_path / "store", backbone="pixels", n_workers=0)
    kinfold.predict(run, store, tmp_path / "sorted", to="folders")
    assert len(read_csv(tmp_path / "sorted" / "labels.csv")) == 9
    with pytest.raises(InputError, match="folders need the images"):
        kinfold.predict(run, store.matrix()[:], tmp_path / "others", to="folders")


@pytest.mark.parametrize(
    ("to", "name"), [(None, "predictions.parquet"), ("csv", "predictions.csv"), ("folders", "predictions")]
)
def test_without_a_place_they_are_in_the_current_folder(run, new, tmp_path, monkeypatch, to, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    kinfold.predict(run, new, to=to, n_workers=0)
    assert (tmp_path / "here" / name).exists()


@pytest.mark.parametrize(
    ("out", "to"),
    [("p.tsv", None), ("p.json", None), ("p.parquet", "csv"), ("p.csv", "parquet"), ("p", "csv")],
)
def test_a_suffix_of_another_form_is_refused(run, new, tmp_path, out, to):
    with pytest.raises(InputError, match="by another name"):
        kinfold.predict(run, new, tmp_path / out, to=to, n_workers=0)


def test_an_unknown_form_is_named(run, new, tmp_path):
    with pytest.raises(InputError, match=r"to .*parquet"):
        kinfold.predict(run, new, tmp_path / "p", to="excel", n_workers=0)


@pytest.mark.parametrize("out", ["p.csv", "sorted"])
def test_nothing_is_written_into_the_run(made, new, out, tmp_path):
    run = Run.open(shutil.copytree(made / "run", tmp_path / "run"))
    before = sorted(run.path.rglob("*"))
    with pytest.raises(InputError, match="is inside the run"):
        kinfold.predict(run, new, run.path / out, to=None if "." in out else "folders", n_workers=0)
    assert sorted(run.path.rglob("*")) == before
