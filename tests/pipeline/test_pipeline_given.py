"""Claims about sources in memory: they give what the same images and vectors give from a path."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import kinfold
import kinfold.pipeline._predict as predicting
from kinfold.errors import InputError
from kinfold.run import Run

KMEANS = {"method": "kmeans", "backbone": "pixels", "n_workers": 0, "report": False}


@pytest.fixture
def files(photos):
    return sorted(photos.rglob("*.png"))


@pytest.fixture
def expected(photos, tmp_path):
    """Group of each file, by its path, of a run of the folder."""
    run = kinfold.cluster(photos, 3, out=tmp_path / "folder", **KMEANS)
    keys = [str(photos / key) for key in run.assignments["key"].to_pylist()]
    return dict(zip(keys, run.labels.tolist(), strict=True))


def partition(labels):
    """Return labels renumbered by their first occurrence."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def as_dataset(files):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"image": [str(file) for file in files], "label": [0] * len(files)})
    return made.cast_column("image", datasets.Image())


def as_frame(library, **columns):
    return pytest.importorskip(library).DataFrame(columns)


def pixels(files):
    return np.stack([np.asarray(Image.open(file)) for file in files])


WAYS = {
    "list of str": lambda files: [str(file) for file in files],
    "tuple of Path": tuple,
    "mapping to paths": lambda files: {str(number): file for number, file in enumerate(files)},
    "PIL images": lambda files: [Image.open(file) for file in files],
    "pairs of image and label": lambda files: [(Image.open(file), 1) for file in files],
    "bytes": lambda files: [file.read_bytes() for file in files],
    "array of images": pixels,
    "tensor of images": lambda files: torch.from_numpy(pixels(files)).permute(0, 3, 1, 2),
    "tensor from 0 to 1": lambda files: torch.from_numpy(pixels(files)).permute(0, 3, 1, 2) / 255,
    "list of arrays": lambda files: list(pixels(files)),
    "pandas, paths": lambda files: as_frame("pandas", path=[str(f) for f in files], label=[1] * len(files)),
    "pandas, images": lambda files: as_frame("pandas", image=[Image.open(f) for f in files]),
    "polars, paths": lambda files: as_frame("polars", path=[str(f) for f in files], label=[1] * len(files)),
    "polars, bytes": lambda files: as_frame("polars", img=[f.read_bytes() for f in files]),
    "Arrow": lambda files: pa.table({"file": [str(f) for f in files], "other": ["x"] * len(files)}),
    "Hugging Face": as_dataset,
    "Hugging Face, shuffled": lambda files: as_dataset(files).shuffle(seed=0).sort("label"),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_in_memory_are_grouped_as_those_of_a_folder(files, expected, tmp_path, way):
    source = WAYS[way](files)
    run = kinfold.cluster(source, 3, out=tmp_path / "run", **KMEANS)
    assert len(run.labels) == 45
    assert run.skipped.num_rows == 0
    if "shuffled" not in way:
        assert partition(run.labels.tolist()) == partition([expected[str(file)] for file in files])
    images = run.images()
    for row in (0, 44):
        assert images.read(row)  # they can be looked at later


def test_keys_of_a_list_are_its_paths_and_of_a_mapping_its_keys(files, tmp_path):
    run = kinfold.cluster(files, 3, out=tmp_path / "a", **KMEANS)
    assert run.assignments["key"].to_pylist() == [str(file) for file in files]
    named = {f"image {number}": file for number, file in enumerate(files)}
    assert kinfold.cluster(named, 3, out=tmp_path / "b", **KMEANS).assignments["key"].to_pylist() == list(
        named
    )
    frame = as_frame("pandas", path=[str(file) for file in files], key=[f"k{n}" for n in range(45)])
    run = kinfold.cluster(frame, 3, out=tmp_path / "c", **KMEANS)
    assert run.assignments["key"].to_pylist() == frame["key"].to_list()
    twice = kinfold.cluster([*files, files[0]], 3, out=tmp_path / "d", **KMEANS)
    assert twice.assignments["key"][45].as_py() == f"{files[0]}#2"


def vectors():
    random = np.random.default_rng(0)
    return (np.repeat(np.eye(3, 6), 20, axis=0) + random.normal(0, 0.05, (60, 6))).astype(np.float32)


VECTORS = {
    "array": vectors,
    "float64": lambda: vectors().astype(np.float64),
    "tensor": lambda: torch.from_numpy(vectors()),
    "bfloat16 tensor": lambda: torch.from_numpy(vectors()).bfloat16(),
    "nested lists": lambda: vectors().tolist(),
    "list of arrays": lambda: list(vectors()),
    "list of tensors": lambda: list(torch.from_numpy(vectors())),
    "pandas, numbers": lambda: pytest.importorskip("pandas").DataFrame(vectors()),
    "pandas, a column": lambda: as_frame(
        "pandas", embedding=list(vectors()), name=[str(n) for n in range(60)]
    ),
    "polars, numbers": lambda: pytest.importorskip("polars").DataFrame(vectors()),
    "polars, a column": lambda: as_frame("polars", key=[str(n) for n in range(60)], v=vectors().tolist()),
    "Arrow": lambda: pa.table({"v": vectors().tolist(), "text": ["x"] * 60}),
}


@pytest.mark.parametrize("way", VECTORS)
def test_vectors_in_memory_are_grouped(tmp_path, way):
    run = kinfold.cluster(VECTORS[way](), 3, out=tmp_path / "run", method="kmeans", report=False)
    assert partition(run.labels.tolist()) == np.repeat([0, 1, 2], 20).tolist()
    assert run.images() is None


def test_a_run_of_vectors_in_memory_can_be_moved(tmp_path):
    kinfold.cluster(vectors(), 3, out=tmp_path / "run", method="kmeans", report=False)
    moved = Run.open(shutil.move(tmp_path / "run", tmp_path / "elsewhere"))
    np.testing.assert_array_equal(np.asarray(moved.features().matrix()), vectors())


def test_a_run_of_images_in_memory_can_be_moved(files, tmp_path):
    kinfold.cluster([Image.open(file) for file in files], 3, out=tmp_path / "run", **KMEANS)
    moved = Run.open(shutil.move(tmp_path / "run", tmp_path / "elsewhere"))
    assert moved.images().read(3)


def test_the_same_content_goes_on_and_other_content_is_refused(tmp_path, caplog):
    caplog.set_level(logging.INFO, "kinfold")
    options = {"out": tmp_path / "run", "method": "kmeans", "report": False}
    kinfold.cluster(vectors(), 3, **options)
    caplog.clear()
    kinfold.cluster(vectors(), 3, **options)
    assert not [record for record in caplog.records if record.msg == "stage %s: starts"]
    before = {file.name for file in (tmp_path / "run").iterdir()}
    with pytest.raises(InputError, match="is a run of"):
        kinfold.cluster(vectors() + 1, 3, **options)
    assert {file.name for file in (tmp_path / "run").iterdir()} == before


def test_images_in_memory_are_not_embedded_again(files, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kinfold")
    for _ in range(2):
        caplog.clear()
        kinfold.cluster([Image.open(file) for file in files], 3, out=tmp_path / "run", **KMEANS)
    assert not [record for record in caplog.records if record.msg == "stage %s: starts"]


def test_without_a_place_the_run_is_named_after_the_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = kinfold.cluster(vectors(), 3, method="kmeans", report=False)
    second = kinfold.cluster(vectors() * 2 + 1, 3, method="kmeans", report=False)
    assert first.path != second.path
    assert first.path.parent == tmp_path
    assert first.path.name.startswith("vectors-")
    assert {one.name for one in tmp_path.iterdir()} == {first.path.name, second.path.name}


def test_what_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(InputError):
        kinfold.cluster(vectors(), 100, out=tmp_path / "run", method="kmeans")
    assert not list(tmp_path.iterdir())


REFUSED = {
    "nothing": ([], "empty"),
    "an empty array": (np.empty((0, 5)), "holds nothing"),
    "a generator": ((path for path in ("a.png",)), "make it a list"),
    "a number": (5, "source is a int; give a path"),
    "numbers": ([1.0, 2.0], "list of float"),
    "unequal vectors": ([[1.0, 2.0], [1.0]], "element 1"),
    "one dimension": (np.ones(5), "shape"),
    "texts": (np.array([["a", "b"]]), "real numbers"),
    "complex numbers": (np.ones((3, 2), complex), "real numbers"),
    "images of large numbers": (np.full((4, 8, 8, 3), 1000.0), "floating point from 0 to 1"),
    "paths and others": (["a.png", 5], "element 1 is a int"),
    "labels among numbers": (pa.table({"a": [1.0], "target": [1]}), "looks like labels"),
    "no column": (pa.table({"a": [1.0], "b": [None]}), "not all of its columns are numbers"),
    "two columns": (pa.table({"a": [[1.0]], "b": [[1.0]]}), "which column"),
    "no rows": (pa.table({"path": pa.array([], pa.string())}), "no rows"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_cannot_be_understood_is_refused_with_words(tmp_path, way):
    source, words = REFUSED[way]
    with pytest.raises(InputError, match=words):
        kinfold.cluster(source, 1, out=tmp_path / "run", **KMEANS)
    assert not list(tmp_path.iterdir())


def test_a_column_can_be_named(files, tmp_path):
    frame = pa.table({"a": [str(file) for file in files], "b": ["x"] * 45, "id": list(range(45))})
    options = {"path_column": "a", "key_column": "id"}
    run = kinfold.cluster(frame, 3, out=tmp_path / "run", source_options=options, **KMEANS)
    assert run.assignments["key"][3].as_py() == "3"
    with pytest.raises(InputError, match="no column 'c'"):
        kinfold.cluster(frame, 3, out=tmp_path / "other", source_options={"path_column": "c"}, **KMEANS)


def test_vectors_beside_images_are_taken_where_they_are_named(files, tmp_path):
    frame = pa.table({"image": [file.read_bytes() for file in files], "v": vectors()[:45].tolist()})
    run = kinfold.cluster(frame, 2, out=tmp_path / "run", source_options={"column": "v"}, **KMEANS)
    assert run.manifest.source["kind"] == "features"


def test_missing_values_are_skipped_rows(files, tmp_path):
    paths = [str(file) for file in files]
    frame = as_frame("pandas", path=[*paths[:3], None, *paths[4:]])
    run = kinfold.cluster(frame, 3, out=tmp_path / "run", **KMEANS)
    assert run.skipped["row"].to_pylist() == [3]


def test_embed_and_predict_take_them_too(files, tmp_path):
    store = kinfold.embed(files, tmp_path / "store", backbone="pixels", n_workers=0)
    assert len(store.rows) == 45
    run = kinfold.cluster(store, 3, out=tmp_path / "run", method="kmeans", report=False)
    assert run.images().read(0) == files[0].read_bytes()
    table = kinfold.predict(run, [Image.open(file) for file in files], tmp_path / "p.parquet", n_workers=0)
    assert table["cluster"].to_pylist() == run.labels.tolist()
    some = np.asarray(store.matrix())[:7]
    assert (
        kinfold.predict(run, some, tmp_path / "q.parquet")["cluster"].to_pylist() == run.labels[:7].tolist()
    )
    assert sorted(one.suffix for one in tmp_path.iterdir() if one.is_file()) == [".parquet"] * 3
    with pytest.raises(InputError, match="holds features already"):
        kinfold.embed(some, tmp_path / "again", backbone="pixels")


def test_verbose_shows_progress(capsys, tmp_path):
    kinfold.cluster(vectors(), 3, out=tmp_path / "a", method="kmeans", report=False)
    assert capsys.readouterr().err == ""
    kinfold.cluster(vectors(), 3, out=tmp_path / "b", method="kmeans", report=False, verbose=True)
    assert "Grouping by k-means: 10 tries" in capsys.readouterr().err


def test_nothing_in_the_manifest_is_of_memory(tmp_path):
    run = kinfold.cluster(vectors(), 3, out=tmp_path / "run", method="kmeans", report=False)
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["features"]["path"].startswith("given-")
    assert (run.path / manifest["features"]["path"]).is_file()


@pytest.mark.parametrize(
    "wrong",
    [{"backbone": "nope"}, {"variants": ("nope",)}, {"batch_size": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_embedding_that_is_refused_leaves_nothing_beside(files, tmp_path, wrong):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        kinfold.embed(files, tmp_path / "sub" / "store", **{"backbone": "pixels", "n_workers": 0, **wrong})
    assert set(tmp_path.rglob("*")) == before


def test_interrupted_predictions_of_images_in_memory_go_on(photos, files, tmp_path, monkeypatch):
    run = kinfold.cluster(photos, 3, out=tmp_path / "run", **KMEANS)
    extract, done = predicting.extract_features, []

    def killed(*given, **options):
        done.append(extract(*given, **options).manifest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "extract_features", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                kinfold.predict(run, [Image.open(file) for file in files], tmp_path / "p.csv", n_workers=0)
            assert len(list(tmp_path.glob(".partial-p.csv-*"))) == 1
    assert done[0].source["fingerprint"] == done[1].source["fingerprint"]
    kinfold.predict(run, [Image.open(file) for file in files], tmp_path / "p.csv", n_workers=0)
    assert not list(tmp_path.glob(".partial-*"))
    other = [Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for file in files]
    with monkeypatch.context() as patch:
        patch.setattr(predicting, "extract_features", killed)
        with pytest.raises(KeyboardInterrupt):
            kinfold.predict(run, other, tmp_path / "p.csv", n_workers=0)
    assert done[2].source["fingerprint"] != done[1].source["fingerprint"]
