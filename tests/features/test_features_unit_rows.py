"""Claims about reading rows at unit length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinfold.errors import InputError
from kinfold.features import ShardedMatrix
from kinfold.features.unit_rows import UnitRows

CPU = torch.device("cpu")


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
