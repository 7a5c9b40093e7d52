"""Claims about the data of a cell: rows and labels meet by key, and nothing is guessed."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.benchmark._suite_data import load_task, open_part
from kinfold.benchmark._suite_file import BenchmarkEntry, FeatureEntry
from kinfold.errors import InputError


@pytest.fixture(autouse=True)
def forget():
    yield
    open_part.cache_clear()


@pytest.fixture
def made(tmp_path):
    X = np.arange(1, 61, dtype=np.float32).reshape(20, 3)
    np.savez(
        tmp_path / "made.npz", features=X, labels=np.arange(20) % 3, keys=[f"k{row}" for row in range(20)]
    )
    return X


def write_labels(path, rows, head=("key", "label", "split")):
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
    return str(path)


def entry(path, **more):
    return FeatureEntry("made", "made", path=str(path), **more)


def benchmark(labels, **more):
    return BenchmarkEntry("b", "b", labels, **more)


def test_rows_and_labels_meet_by_key_in_any_order(tmp_path, made):
    order = np.random.default_rng(0).permutation(20)
    rows = [(f"k{row}", f"c{row % 4}", "train" if row < 15 else "val") for row in order]
    labels = write_labels(tmp_path / "labels.csv", [*rows, ("elsewhere", "c0", "train")])
    task = load_task(entry(tmp_path / "made.npz"), benchmark(labels), 0)
    assert [task.classes[code] for code in task.train.y] == [f"c{row % 4}" for row in range(15)]
    assert np.array_equal(task.train.X[:], made[:15])
    assert np.array_equal(task.test.X[:], made[15:])
    assert task.n_classes == 4
    assert task.unmatched == {"without_label": 0, "without_image": 1}


def test_images_without_label_are_left_out_and_counted(tmp_path, made):
    labels = write_labels(tmp_path / "labels.csv", [(f"k{row}", "a") for row in (3, 5, 8)], ("key", "label"))
    task = load_task(entry(tmp_path / "made.npz"), benchmark(labels), 0)
    assert np.array_equal(task.train.X[:], made[[3, 5, 8]])
    assert task.unmatched["without_label"] == 17
    assert task.test is None


def test_columns_beside_the_vectors_are_labels_too(tmp_path, made):
    task = load_task(entry(tmp_path / "made.npz", scale=0.5), benchmark("column:labels"), 0)
    assert [int(task.classes[code]) for code in task.train.y] == [row % 3 for row in range(20)]
    assert np.array_equal(task.train.X, made * np.float32(0.5))
    table = pa.table({"vector": made.tolist(), "kind": ["x", "y"] * 10})
    pq.write_table(table, tmp_path / "made.parquet")
    found = load_task(entry(tmp_path / "made.parquet"), benchmark("column:kind"), 0)
    assert found.classes == ("x", "y")
    with pytest.raises(InputError, match="did you mean 'kind'"):
        load_task(entry(tmp_path / "made.parquet"), benchmark("column:kinds"), 0)


def test_test_features_apart_get_the_classes_of_the_training_rows(tmp_path, made):
    np.savez(tmp_path / "test.npz", features=made[:4], labels=[2, 1, 7, 0])
    both = entry(tmp_path / "made.npz", test=str(tmp_path / "test.npz"))
    task = load_task(both, benchmark("column:labels"), 0)
    assert [task.classes[code] for code in task.test.y] == ["2", "1", "0"]
    assert task.unmatched["of_other_classes"] == 1


def test_the_seed_draws_rows_and_the_classes_stay(tmp_path, made):
    tasks = [
        load_task(entry(tmp_path / "made.npz"), benchmark("column:labels", rows=4), seed)
        for seed in (0, 0, 1)
    ]
    assert tasks[0].identity == tasks[1].identity != tasks[2].identity
    assert len(tasks[0].train.y) == 4
    assert {task.n_classes for task in tasks} == {3}
    with pytest.raises(InputError, match="only 20"):
        load_task(entry(tmp_path / "made.npz"), benchmark("column:labels", rows=21), 0)


def test_folders_are_labels_and_splits(tmp_path, made):
    keys = [f"{'train' if row < 12 else 'val'}/{'ab'[row % 2]}/{row}.png" for row in range(20)]
    np.savez(tmp_path / "f.npz", features=made, keys=keys)
    task = load_task(entry(tmp_path / "f.npz"), benchmark("folder"), 0)
    assert (len(task.train.y), len(task.test.y), task.classes) == (12, 8, ("a", "b"))
    with pytest.raises(InputError, match="no split 'test'"):
        load_task(entry(tmp_path / "f.npz"), benchmark("folder", test_split="test"), 0)


def test_labels_of_other_images_are_refused_with_examples(tmp_path, made):
    labels = write_labels(tmp_path / "labels.csv", [("x.png", "a")], ("key", "label"))
    with pytest.raises(InputError, match=r"x\.png.*k0"):
        load_task(entry(tmp_path / "made.npz"), benchmark(labels), 0)


def test_labels_find_their_rows_however_either_writes_its_keys(tmp_path, made):
    keys = [f"./x//{row}.png" if row % 2 else f"/x/{row}.png" for row in range(20)]
    np.savez(tmp_path / "odd.npz", features=made, keys=np.array(keys))
    labels = write_labels(
        tmp_path / "labels.csv", [(f"x\\{row}.png", f"c{row % 4}") for row in range(20)], ("key", "label")
    )
    task = load_task(entry(tmp_path / "odd.npz"), benchmark(labels), 0)
    assert [task.classes[code] for code in task.train.y] == [f"c{row % 4}" for row in range(20)]
    assert task.unmatched == {"without_label": 0, "without_image": 0}
