"""Claims about matrices that are read row by row."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError
from kinfold.rows import LazyMatrix, RowMatrix, SelectedRows, ShardedMatrix, as_row_matrix, let_go
from kinfold.rows import matrix as module


@pytest.fixture
def whole():
    return np.random.default_rng(0).normal(size=(57, 4)).astype(np.float32)


@pytest.fixture
def shards(tmp_path, whole):
    bounds = [0, 0, 20, 20, 21, 50, 57, 57]
    paths, lengths = [], []
    for number in range(len(bounds) - 1):
        part = whole[bounds[number] : bounds[number + 1]]
        np.save(tmp_path / f"{number}.npy", part)
        paths.append(tmp_path / f"{number}.npy")
        lengths.append(len(part))
    return ShardedMatrix(paths, lengths, 4, np.float32)


def both(shards, whole):
    rows = np.random.default_rng(1).permutation(57)
    return [(shards, whole), (SelectedRows(shards, rows), whole[rows])]


CHOICES = [
    slice(None),
    slice(5, 40),
    slice(20, 21),
    slice(40, 5),
    slice(-10, None),
    slice(None, None, 7),
    slice(None, None, -3),
    slice(0, 10**9),
    np.array([3, 50, 3, 0, 56, 20]),
    np.array([-1, -57]),
    np.array([], dtype=np.int64),
    np.array([], dtype=float),
    np.arange(57, dtype=np.uint8),
    [4, 2],
    np.arange(57) % 2 == 0,
    13,
    -2,
    np.int32(7),
]


@pytest.mark.parametrize("choice", CHOICES, ids=repr)
def test_rows_are_those_an_array_gives(shards, whole, choice):
    for lazy, array in both(shards, whole):
        expected = array[np.asarray(choice, dtype=np.int64) if getattr(choice, "size", 1) == 0 else choice]
        np.testing.assert_array_equal(lazy[choice], expected)
        assert lazy[choice].dtype == np.float32


def test_what_is_read_may_be_changed_and_changes_nothing_on_disk(shards, whole):
    for choice in (slice(0, 10), np.array([0, 1])):
        shards[choice][:] = 9
        np.testing.assert_array_equal(np.asarray(shards), whole)


def test_a_lazy_matrix_is_a_row_matrix_and_becomes_an_array(shards, whole):
    for lazy, array in both(shards, whole):
        assert isinstance(lazy, LazyMatrix)
        assert isinstance(lazy, RowMatrix)
        assert (lazy.shape, lazy.ndim, len(lazy), lazy.dtype) == ((57, 4), 2, 57, np.float32)
        np.testing.assert_array_equal(np.asarray(lazy), array)
        assert np.asarray(lazy, dtype=np.float64).dtype == np.float64
        with pytest.raises(ValueError, match="copy"):
            lazy.__array__(copy=False)


@pytest.mark.parametrize("choice", [57, -58, np.array([0, 57]), np.array([-58])])
def test_rows_out_of_range_are_refused(shards, choice):
    with pytest.raises(IndexError, match="out of range for 57 rows"):
        shards[choice]


@pytest.mark.parametrize("choice", [np.array([0.5]), np.zeros((2, 2), int), np.array([True]), "a"])
def test_other_choices_are_refused(shards, choice):
    with pytest.raises(IndexError):
        shards[choice]


def test_few_shards_stay_open(monkeypatch, shards, whole):
    monkeypatch.setattr(module, "_MAPS_KEPT", 2)
    np.testing.assert_array_equal(shards[np.arange(56, -1, -1)], whole[::-1])
    assert len(shards._maps) == 2


def resident(path):
    """Return the kilobytes of a mapped file that count as memory of this process."""
    found, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counts = words[-1] == str(path)
        elif counts and words[0] == "Rss:":
            found += int(words[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped files")
@pytest.mark.parametrize("kind", ["map", "shards", "selected"])
def test_what_was_read_of_mapped_files_is_given_back_and_read_again(tmp_path, kind):
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(1 << 20, dtype=np.float32).reshape(-1, 64))
    matrix = np.load(path, mmap_mode="r")
    if kind != "map":
        matrix = ShardedMatrix([path], [len(matrix)], 64, np.float32)
    if kind == "selected":
        matrix = SelectedRows(matrix, np.arange(0, 1 << 14))
    before = np.array(matrix[:])
    assert resident(path) >= 4096
    let_go(matrix)
    assert resident(path) < 512
    np.testing.assert_array_equal(matrix[:], before)
    array = np.ones((3, 2), np.float32)
    let_go(array)
    assert (array == 1).all()


def test_a_copy_and_a_pickle_open_their_own_shards(shards, whole):
    shards[0]
    for other in (copy.copy(shards), pickle.loads(pickle.dumps(shards))):
        np.testing.assert_array_equal(other[:], whole)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "shape", "dtype"])
def test_a_damaged_shard_is_named(shards, tmp_path, damage):
    file = tmp_path / "4.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "text":
        file.write_text("hello")
    elif damage == "shape":
        np.save(file, np.zeros((29, 5), np.float32))
    else:
        np.save(file, np.zeros((29, 4), np.float64))
    with pytest.raises(FormatError, match=r"4\.npy"):
        shards[30]


def test_nothing_pickled_is_loaded(tmp_path):
    np.save(tmp_path / "0.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"0\.npy holds Python objects"):
        ShardedMatrix([tmp_path / "0.npy"], [1], 1, object)[0]


def test_arrays_and_memory_maps_are_taken_without_a_copy(shards, whole, tmp_path):
    assert as_row_matrix(whole) is whole
    assert as_row_matrix(shards) is shards
    assert as_row_matrix([[1, 2]]).shape == (1, 2)
    import torch

    assert as_row_matrix(torch.ones(3, 2)).dtype == np.float32
    assert as_row_matrix(torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32


def test_sparse_matrices_are_refused():
    from scipy.sparse import csr_matrix

    with pytest.raises(InputError, match="sparse"):
        as_row_matrix(csr_matrix(np.eye(3)))
