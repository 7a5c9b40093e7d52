"""Which images of a group are shown, and the bars of charts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from kinfold.gallery._groups import (
    MAX_SHEETS,
    SheetPlan,
    arrange_groups,
    draw_bars,
    draw_confidence,
    draw_sizes,
    plan_sheets,
    trace,
)

PLAN = SheetPlan(n_top=4, n_least=2, side=64, max_bytes=1000)


def make_rows(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, 8, n).astype(np.float32) / 8  # many ties
    return rng.integers(0, k, n).astype(np.int32), confidence


def test_members_are_those_of_a_plain_sort():
    labels, confidence = make_rows(500, 7)
    grouping = arrange_groups(labels, confidence, range(7), PLAN)
    assert len(grouping.sheets) == 7
    for sheet in grouping.sheets:
        members = [i for i in range(500) if labels[i] == sheet.group]
        ranked = sorted(members, key=lambda i: (-confidence[i], i))
        assert sheet.top.tolist() == ranked[:4]
        assert sheet.least.tolist() == ranked[::-1][:2]
        assert sheet.size == len(members)
        assert sheet.mean_confidence == pytest.approx(float(np.mean(confidence[members])))


def test_groups_come_by_falling_mean_confidence():
    grouping = arrange_groups(*make_rows(500, 7), range(7), PLAN)
    means = [sheet.mean_confidence for sheet in grouping.sheets]
    assert means == sorted(means, reverse=True)


def test_top_and_least_never_overlap_and_small_groups_are_shown_whole():
    for size in range(1, 12):
        labels, confidence = np.zeros(size, np.int32), np.linspace(0, 1, size, dtype=np.float32)
        (sheet,) = arrange_groups(labels, confidence, range(1), PLAN).sheets
        shown = [*sheet.top.tolist(), *sheet.least.tolist()]
        assert len(set(shown)) == len(shown)
        assert len(shown) == size or len(shown) >= PLAN.n_top + 1


def test_empty_groups_are_listed_and_get_no_sheet():
    grouping = arrange_groups(np.array([3, 3, 1]), np.array([0.5, 0.6, 0.7]), range(5), PLAN)
    assert grouping.empty == [0, 2, 4]
    assert [sheet.group for sheet in grouping.sheets] == [1, 3]
    assert grouping.sizes.tolist() == [0, 1, 0, 2, 0]


def test_every_row_is_in_the_histograms_also_at_the_edges():
    confidence = np.array([0.0, 1.0, 0.5, np.nan, 1.0000001], np.float32)
    grouping = arrange_groups(np.zeros(5, np.int32), confidence, range(1), PLAN)
    assert grouping.histogram.sum() == 5
    assert grouping.histogram[0] == 2
    assert grouping.histogram[-1] == 2


def test_a_run_without_rows_is_no_error():
    grouping = arrange_groups(np.zeros(0, np.int32), np.zeros(0, np.float32), range(3), PLAN)
    assert grouping.sheets == []
    assert grouping.mean_confidence == 0.0


def test_more_groups_than_sheets_keeps_the_most_confident():
    k = MAX_SHEETS + 20
    confidence = np.linspace(0, 1, k, dtype=np.float32)
    grouping = arrange_groups(np.arange(k), confidence, range(k), PLAN)
    assert grouping.n_left_out == 20
    assert {sheet.group for sheet in grouping.sheets} == set(range(20, k))


@pytest.mark.parametrize("k", [1, 2, 10, 21, 100, 101, 300, 1000, 50_000])
def test_all_thumbnails_together_keep_the_budget(k):
    plan = plan_sheets(k, budget=16_000_000)
    assert (plan.n_top + plan.n_least) * min(k, MAX_SHEETS) * plan.max_bytes * 4 / 3 <= 16_000_000
    assert plan.n_top > plan.n_least >= 2
    assert plan.side >= 64


def test_more_groups_never_mean_larger_thumbnails():
    plans = [plan_sheets(k) for k in range(1, 1200)]
    for before, after in pairwise(plans):
        assert after.n_top + after.n_least <= before.n_top + before.n_least
        assert after.side <= before.side


def test_bars_scale_to_the_largest_and_nothing_vanishes():
    bars = draw_bars([1000, 500, 1, 0], "abcd")
    assert [bar.height for bar in bars] == [100, 50, 1.5, 0]


def test_very_many_groups_are_drawn_as_an_even_choice():
    bars = draw_sizes(np.arange(5000))
    assert len(bars) == 240
    assert bars[0].title == "Group 4999: 4,999"
    assert bars[-1].title == "Group 0: 0"


def test_confidence_bars_name_their_bins():
    bars = draw_confidence(np.array([1, 2, 0, 4]))
    assert bars[1].title == "0.25 to 0.50: 2"


def test_a_trace_has_one_bar_per_filled_bin():
    assert trace(np.array([0, 2, 1])).count("M") == 2
    assert trace(np.zeros(3, int)) == "M0 100"
