"""Claims about the data sets of the studies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from kinfold.errors import InputError
from studies import photographs
from studies.data import DATA_SETS, DataSet, draw_rows, load_data

CLASSES = np.repeat(np.arange(10), 500)


def test_a_plain_draw_has_the_size_asked_for_and_no_row_twice():
    rows = draw_rows(CLASSES, DataSet("cifar", 700), np.random.default_rng(0))
    assert len(np.unique(rows)) == 700


def test_the_same_seed_draws_the_same_rows_and_another_one_others():
    facts = DataSet("cifar", 300)
    first, again, other = (draw_rows(CLASSES, facts, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_class_sizes_of_an_unbalanced_draw_fall_geometrically_from_ten_to_one():
    rows = draw_rows(CLASSES, DataSet("cifar", 1000, imbalance=10.0), np.random.default_rng(3))
    sizes = np.sort(np.bincount(CLASSES[rows], minlength=10))[::-1]
    assert sizes.sum() == len(np.unique(rows)) == 1000
    assert sizes[0] / sizes[-1] == pytest.approx(10, rel=0.1)
    assert sizes[1:-1] / sizes[2:] == pytest.approx(np.full(8, 10 ** (1 / 9)), rel=0.06)


def test_the_seed_draws_which_class_is_large():
    facts = DataSet("cifar", 1000, imbalance=10.0)
    largest = {
        int(np.bincount(CLASSES[draw_rows(CLASSES, facts, np.random.default_rng(seed))]).argmax())
        for seed in range(8)
    }
    assert len(largest) > 2


def test_digits_are_what_the_table_of_data_sets_says():
    digits = load_data("digits", 0, None)
    facts = DATA_SETS["digits"]
    assert digits.train.X.shape == (facts.n_samples, facts.n_features)
    assert digits.train.X.dtype == np.float32
    assert len(np.unique(digits.train.y)) == facts.n_clusters
    assert digits.test is None


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 12_000), ("test", 40)):
        features = rng.integers(0, 255, (n, 4), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        np.savez(tmp_path / f"cifar10_mobilenetv2_{part}.npz", features=features, labels=labels)
    return tmp_path


def test_subsets_are_scaled_and_tested_on_the_whole_test_set(folder):
    found = load_data("cifar-10000", 0, folder)
    assert found.train.X.shape == (10_000, 4)
    assert found.train.X.dtype == np.float32
    assert found.train.X.max() <= 255 * 0.0235
    assert len(found.test.X) == len(found.test.y) == 40
    assert load_data("cifar-500", 0, folder).test is None


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(InputError, match="KINFOLD_DATA"):
        load_data("cifar-500", 0, None)
    with pytest.raises(InputError, match=r"train\.npz is missing"):
        load_data("cifar-500", 0, tmp_path)


def test_photographs_of_every_second_class_are_numbered_anew_in_both_parts(monkeypatch, tmp_path):
    y = np.repeat(np.arange(100), 200)
    X = np.repeat(np.arange(100, dtype=np.float32), 200)[:, None]
    monkeypatch.setattr(photographs, "load_photographs", lambda folder: ((X, y), (X[::4], y[::4])))
    data = load_data("tiny-imagenet-odd-unbalanced-2500", 0, tmp_path)
    for part in (data.train, data.test):
        np.testing.assert_array_equal(part.X[:, 0], 2 * part.y + 1)
        assert set(part.y) == set(range(50))
    assert len(data.test.y) == 2500


def test_small_photographs_are_read_by_part_and_class(monkeypatch, tmp_path):
    keys = ["test/cat/1.jpg", "test/dog/2.jpg", "train/cat/3.jpg", "train/dog/4.jpg", "train/dog/5.jpg"]
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    store = SimpleNamespace(keys=pa.array(keys), rows=np.arange(5), matrix=lambda: vectors)
    monkeypatch.setattr(photographs, "what_is_missing", lambda folder, archive: None)
    monkeypatch.setattr(photographs, "_open", lambda archive: store)
    (X, y), (X_test, y_test) = photographs.load_small_photographs(tmp_path)
    np.testing.assert_array_equal(X, vectors[2:])
    np.testing.assert_array_equal(X_test, vectors[:2])
    assert (y.tolist(), y_test.tolist()) == ([0, 1, 1], [0, 1])
