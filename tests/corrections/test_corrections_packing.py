from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.corrections._store import pack_labels, pack_rows, unpack_labels, unpack_rows


@given(st.sets(st.integers(0, 2**62), max_size=50))
def test_rows_come_back(rows):
    rows = np.array(sorted(rows), np.int64)
    assert unpack_rows(pack_rows(rows)).tolist() == rows.tolist()


@given(st.lists(st.integers(0, 2**31 - 1), max_size=50))
def test_labels_come_back(labels):
    found = unpack_labels(pack_labels(np.array(labels, np.int32)))
    assert found.tolist() == labels
    assert found.dtype == np.int32


def test_a_hundred_thousand_random_rows_take_less_than_a_byte_each():
    rows = np.sort(np.random.default_rng(0).choice(1_000_000, 100_000, replace=False))
    assert len(pack_rows(rows)) < 100_000


@pytest.mark.parametrize("data", [b"\x01", b"\x03" + bytes(8) + b"x", b"\x01" + bytes(8) + b"junk"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"."):
        unpack_rows(data)
    with pytest.raises(ValueError, match=r"."):
        unpack_labels(data[-2:])
