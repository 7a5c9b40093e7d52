"""Claims about reading rows at unit length, and about rows that stay on a device."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from kinfold.errors import InputError
from kinfold.rows import ShardedMatrix
from kinfold.rows import readers as module
from kinfold.rows.readers import UnitRows, resident_rows

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def X():  # noqa: N802
    return np.random.default_rng(0).normal(size=(57, 4))


def at_unit_length(X):
    X = np.asarray(X, dtype=np.float64)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_])
def test_rows_of_any_type_have_unit_length_and_their_direction(X, dtype):
    given = (3 * np.abs(X) + 1).astype(dtype)
    got = UnitRows(given, CPU).read(0, 57)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), at_unit_length(given), atol=2e-7)


def test_a_small_budget_changes_no_bit_and_reads_few_rows_at_once(X):
    class Counted(np.ndarray):
        most = 0

        def __getitem__(self, rows):
            got = np.asarray(super().__getitem__(rows))
            Counted.most = max(Counted.most, len(got))
            return got

    expected = UnitRows(X, CPU).read(3, 50)
    few = UnitRows(X.view(Counted), CPU, n_bytes=7 * 32 * 4)
    few.check()
    assert torch.equal(few.read(3, 50), expected)
    assert Counted.most == 7


def test_chosen_rows_come_in_their_order(X):
    rows = UnitRows(X.astype(np.float32), CPU)
    assert torch.equal(rows.take(np.array([50, 3, 3])), rows.read(0, 57)[[50, 3, 3]])


def test_shards_give_what_the_whole_gives(X, tmp_path):
    X = X.astype(np.float32)
    for number, part in enumerate(np.array_split(X, 3)):
        np.save(tmp_path / f"{number}.npy", part)
    shards = ShardedMatrix([tmp_path / f"{number}.npy" for number in range(3)], [19] * 3, 4, np.float32)
    assert torch.equal(UnitRows(shards, CPU).read(5, 45), UnitRows(X, CPU).read(5, 45))


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1e300)])
def test_tiny_and_huge_rows_keep_their_direction(X, dtype, scale):
    got = UnitRows((X * scale).astype(dtype), CPU).read(0, 57)
    np.testing.assert_allclose(got.numpy(), at_unit_length(X), atol=1e-6)


def test_rows_without_a_direction_are_refused_by_number_and_zero_stays_zero(X):
    X[7] = 0
    X[50, 2] = np.nan
    X[51, 0] = -np.inf
    rows = UnitRows(X, CPU, n_bytes=1)
    with pytest.raises(InputError, match=r"7 \(all zero\), 50 \(not finite\), 51 \(not finite\)"):
        rows.check()
    with pytest.raises(InputError, match="and 52 more"):
        UnitRows(np.zeros((57, 4)), CPU).check()
    assert not rows.read(7, 8).any()


def test_what_is_read_is_left_as_it_was(X):
    before = X.copy()
    UnitRows(X, CPU).read(0, 57)
    np.testing.assert_array_equal(X, before)


@pytest.fixture
def torch_warns_always():
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(False)


def read_only(dtype=np.float32):
    X = np.arange(12, dtype=dtype).reshape(4, 3)
    X.flags.writeable = False
    return X


@pytest.mark.usefixtures("torch_warns_always")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
def test_an_array_in_memory_is_shared_even_where_it_is_read_only(dtype):
    X = read_only(dtype)
    rows = resident_rows(X, CPU)
    assert rows.data_ptr() == X.ctypes.data
    np.testing.assert_array_equal(rows.numpy(), X)


def test_what_is_on_disk_stays_there(tmp_path):
    np.save(tmp_path / "x.npy", read_only())
    assert resident_rows(np.load(tmp_path / "x.npy", mmap_mode="r"), CPU) is None


def test_a_tensor_is_taken_as_it_is():
    tensor = torch.ones(4, 3)
    assert resident_rows(tensor, CPU) is tensor


@pytest.mark.usefixtures("torch_warns_always")
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float32, torch.float32),
        (np.float16, torch.float16),
        (np.float64, torch.float32),
        (">f4", torch.float32),
    ],
)
def test_an_accelerator_takes_what_fits_half_of_its_memory(dtype, expected, tmp_path, monkeypatch):
    X = read_only(dtype)
    np.save(tmp_path / "x.npy", X)
    needed = X.size * expected.itemsize
    for given in (X, np.load(tmp_path / "x.npy", mmap_mode="r")):
        monkeypatch.setattr(module, "_total_memory", lambda _: 2 * needed)
        rows = resident_rows(given, META)
        assert (rows.shape, rows.dtype, rows.device) == (X.shape, expected, META)
        monkeypatch.setattr(module, "_total_memory", lambda _: 2 * needed - 1)
        assert resident_rows(given, META) is None
