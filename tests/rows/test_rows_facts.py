"""Claims about what one scan of a matrix finds out."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.rows import facts as module
from kinfold.rows import scan_rows, unusable_in_block, unusable_rows


def test_unusable_rows_are_found_with_their_reasons(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 64)
    X = np.ones((100, 3))
    X[7] = 0
    X[50, 1] = np.nan
    X[99, 2] = np.inf
    assert unusable_rows(X) == {7: "all zero", 50: "not finite", 99: "not finite"}
    assert unusable_rows(np.eye(3, dtype=np.uint8)) == {}
    assert unusable_rows(np.diag([1, 0]).astype(np.int64)) == {1: "all zero"}


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.int64, np.uint64, np.float16, np.float64])
def test_the_largest_value_of_every_row_is_found_for_any_type(dtype):
    X = np.random.default_rng(0).normal(scale=50, size=(40, 3)).astype(dtype)
    X[3] = 0
    if X.dtype.kind in "iu":
        X[5] = np.iinfo(dtype).min
    np.testing.assert_array_equal(
        scan_rows(X, rows_at_once=7).largest, np.abs(X.astype(np.float64)).max(axis=1)
    )


def test_rows_that_are_not_finite_are_told_from_zero_ones():
    X = np.ones((9, 2))
    X[1], X[4], X[6] = 0, np.nan, [0, -np.inf]
    found = scan_rows(X)
    assert found.all_zero.tolist() == [1]
    assert found.not_finite.tolist() == [4, 6]
    assert found.usable.tolist() == [0, 2, 3, 5, 7, 8]
    assert found.reasons() == unusable_in_block(X) == {1: "all zero", 4: "not finite", 6: "not finite"}
    with pytest.raises(InputError, match=r"not finite: 1 \(all zero\), 4 \(not finite\), 6 \(not finite\)"):
        found.refuse_unusable()
    with pytest.raises(InputError, match=r"not finite: 4, 6; leave these rows out$"):
        found.refuse_not_finite()
    scan_rows(X[[0, 1]]).refuse_not_finite()
    scan_rows(X[[0, 2]]).refuse_unusable()
