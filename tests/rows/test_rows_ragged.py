"""Claims about ragged lists, against Python's lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kinfold.rows.ragged import blocks_of, entries_of, starts_of

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=12)


@given(lists=LISTS, data=st.data())
def test_the_entries_of_any_lists_are_those_of_the_lists(lists, data):
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=20))
    entries = np.array([entry for some in lists for entry in some], dtype=np.int64)
    starts = starts_of([len(some) for some in lists])
    assert starts.tolist() == [sum(map(len, lists[:n])) for n in range(len(lists) + 1)]
    owners, places = entries_of(starts, np.array(chosen, dtype=np.int64))
    expected = [(owner, entry) for owner, number in enumerate(chosen) for entry in lists[number]]
    assert list(zip(owners.tolist(), entries[places].tolist(), strict=True)) == expected


@given(lists=LISTS, most=st.integers(1, 12))
def test_blocks_hold_all_lists_in_order_and_no_more_entries_than_asked(lists, most):
    blocks = list(blocks_of(starts_of([len(some) for some in lists]), most))
    assert [number for first, last in blocks for number in range(first, last)] == list(range(len(lists)))
    for first, last in blocks:
        assert last == first + 1 or sum(map(len, lists[first:last])) <= most
