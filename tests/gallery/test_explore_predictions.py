"""Claims about ``kinfold explore --predictions``: what it shows, and which files it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from kinfold.cli import main
from kinfold.corrections import Corrections
from kinfold.errors import FormatError, InputError
from kinfold.exports import take_out, write_csv_file
from kinfold.gallery.explore import create_app
from kinfold.gallery.explore._predictions import predictions_as_run
from kinfold.run import add_typicality, write_predictions, write_skipped, write_table
from support.galleries import make_gallery_run, served, write_images

KEYS = pa.array(["000.png", "001.png", "002.png"])


class Best:
    def __init__(self, clusters):
        self.clusters = np.array(clusters, np.int32)[:, None]
        self.probabilities = np.full((len(clusters), 1), 0.75, np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("predicted"), n=30, graph=False)


@pytest.fixture
def predicted(tmp_path):
    """Predictions of eight images, of which one couldn't be used; group 7 was made by hand."""
    write_images(tmp_path / "new", 8)
    rows = [0, 1, 2, 3, 5, 6, 7]
    keys = pa.array([f"{row:03d}.png" for row in rows])
    path = tmp_path / "new.parquet"
    nouns = ["cats", None, "<b>dogs</b>", None, None, None, None, "by hand"]
    write_predictions(path, np.array(rows), keys, Best([0, 1, 2, 0, 0, 7, 2]), nouns)
    skipped = {"row": pa.array([4]), "key": pa.array(["004.png"]), "reason": pa.array(["not an image: text"])}
    write_skipped(tmp_path / "new.skipped.parquet", pa.table(skipped))
    return path


def test_predictions_are_shown_by_group_with_their_names_and_pictures(run, predicted):
    before = predicted.read_bytes()
    with predictions_as_run(run, predicted, predicted.parent / "new") as (made, images):
        home = made.path.parent
        app = create_app(made, images=images, read_only=True, n_workers=1, device="cpu")
        with TestClient(app, base_url="http://127.0.0.1") as client:
            facts = client.get("/api/run").json()
            assert (facts["title"], facts["n_images"], facts["n_skipped"]) == ("new", 7, 1)
            assert facts["read_only"]
            groups = client.get("/api/groups", params={"sort": "number"}).json()["groups"]
            sizes = {one["id"]: (one["size"], one["name"]) for one in groups if one["size"]}
            assert sizes.keys() == {0, 1, 2, 7}
            assert sizes[0] == (3, "cats")
            assert sizes[2] == (2, "<b>dogs</b>")
            assert sizes[7] == (1, "by hand")
            assert not sizes[1][1]
            shown = client.get("/api/images", params={"group": 2}).json()["images"]
            assert {one["key"] for one in shown} == {"002.png", "007.png"}
            assert client.get("/thumb/7").headers["content-type"] == "image/webp"
            assert client.get("/api/skipped").json()["images"][0]["key"] == "004.png"
            headers = {"Origin": "http://127.0.0.1"}
            edit = {"kind": "rename", "group": 0, "name": "x"}
            assert client.post("/api/edits", json=edit, headers=headers).status_code == 403
    assert not home.exists()
    assert predicted.read_bytes() == before


def test_the_command_serves_predictions_and_leaves_the_run_alone(run, predicted):
    before = sorted(path.name for path in run.path.iterdir())
    source = str(predicted.parent / "new")
    with served(str(run.path), "--predictions", str(predicted), "--source", source) as (address, _):
        assert address.startswith("http://127.0.0.1:")
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_without_a_source_or_with_another_one_it_says_which_images_are_meant(run, predicted, tmp_path):
    with pytest.raises(InputError, match="--source"), predictions_as_run(run, predicted, None):
        pass
    write_images(tmp_path / "fewer", 4)
    message = r"row 5 is '005.png' there, and missing here"
    with pytest.raises(InputError, match=message), predictions_as_run(run, predicted, tmp_path / "fewer"):
        pass


@pytest.mark.parametrize("what", ["nothing", "text", "other", "unordered", "negative", "cut"])
def test_a_file_that_holds_no_predictions_is_refused(run, tmp_path, what):
    path = tmp_path / "p.parquet"
    write_images(tmp_path / "new", 3)
    if what == "text":
        path.write_text("no table")
    elif what == "other":
        pq.write_table(pa.table({"row": [1]}), path)
    elif what == "unordered":
        write_predictions(path, np.array([2, 1, 0]), KEYS, Best([0, 0, 0]))
    elif what != "nothing":
        write_predictions(path, np.array([0, 1, 2]), KEYS, Best([0, -5 if what == "negative" else 0, 0]))
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    with (
        pytest.raises((InputError, FormatError), match=r"p\.parquet"),
        predictions_as_run(run, path, tmp_path / "new"),
    ):
        pass


def test_no_predictions_at_all_are_shown_as_none(run, tmp_path):
    write_images(tmp_path / "new", 3)
    path = tmp_path / "p.parquet"
    write_predictions(path, np.array([], np.int64), pa.array([], pa.string()), Best([]))
    with predictions_as_run(run, path, tmp_path / "new") as (made, images):
        app = create_app(made, images=images, read_only=True, n_workers=1, device="cpu")
        with TestClient(app, base_url="http://127.0.0.1") as client:
            assert client.get("/api/run").json()["n_images"] == 0
            assert client.get("/api/groups").status_code == 200


def test_a_map_of_predictions_is_refused(run, predicted, monkeypatch, capsys):
    words = ["kinfold", "explore", str(run.path), "--predictions", str(predicted), "--map", "--no-browser"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--predictions" in capsys.readouterr().err


def as_csv(file):
    table = pq.read_table(file)
    write_csv_file(table, file.with_suffix(".csv"))
    return file.with_suffix(".csv")


def test_predictions_in_csv_are_shown_as_those_in_parquet_are(run, predicted):
    source = predicted.parent / "new"
    as_csv(predicted.with_name("new.skipped.parquet"))
    with predictions_as_run(run, predicted, source) as (made, _):
        expected, skipped, names = made.assignments, made.skipped, names_in(made)
    predicted.with_name("new.skipped.parquet").unlink()
    with predictions_as_run(run, as_csv(predicted), source) as (made, _):
        assert made.assignments.equals(expected)
        assert made.skipped.equals(skipped)
        assert names_in(made) == names


def names_in(run):
    with Corrections.open(run, write=False) as corrections:
        return {group: one.name for group, one in corrections.state.groups.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("row,key,label\n0,000.png,1\n", "isn't a file of predictions"),
        ("row,key,cluster,confidence,name\nx,000.png,1,1,\n", "is damaged"),
        ("row,key,cluster,confidence,name\n0,000.png,,1,\n", "lacks a value"),
    ],
)
def test_other_csv_files_are_refused(run, predicted, text, words):
    file = predicted.with_suffix(".csv")
    file.write_text(text)
    with (
        pytest.raises((FormatError, InputError), match=words),
        predictions_as_run(run, file, predicted.parent / "new"),
    ):
        pass


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_strays_are_shown_as_a_group_that_belongs_nowhere(run, predicted, ending):
    table = add_typicality(pq.read_table(predicted), np.linspace(0, 0.9, 7, dtype=np.float32))
    path = predicted.with_suffix(ending)
    table = take_out(table, np.array([True, False, True, False, False, False, False]))
    if ending == ".csv":
        write_csv_file(table, path)
        write_csv_file(
            pq.read_table(predicted.with_name("new.skipped.parquet")), path.with_name("new.skipped.csv")
        )
    else:
        write_table(path, table)
    with predictions_as_run(run, path, predicted.parent / "new") as (made, _):
        with Corrections.open(made, write=False) as corrections:
            names = {one.id: one.name for one in corrections.state.groups.values()}
        assert made.labels.tolist() == [8, 1, 8, 0, 0, 7, 2]
        assert names[8] == "belongs nowhere"
        assert names[7] == "by hand"
