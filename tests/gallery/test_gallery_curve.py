"""Claims about the curve of an estimate: drawn where it is, and nothing about it can spoil a page."""

from __future__ import annotations

import json
import math

import pytest

from kinfold.gallery._curve import read_curve
from support.galleries import ESTIMATE


def points_of(text):
    return [tuple(map(float, pair.split(","))) for pair in text.split()]


def test_numbers_lie_on_a_logarithmic_axis_and_marks_on_the_line():
    curve = read_curve(ESTIMATE)
    line = points_of(curve.line)
    assert len(line) == len(ESTIMATE["n_groups"])
    steps = [line[k + 1][0] - line[k][0] for k in (2, 4)]  # 4 to 6 and 8 to 12
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert all(curve.left <= x <= curve.right and curve.top <= y <= curve.bottom for x, y in line)
    assert [(mark.n_groups, mark.chosen) for mark in curve.marks] == [(3, False), (6, True), (12, False)]
    assert all((mark.x, mark.y) in line for mark in curve.marks)
    assert min(y for _, y in line) == next(mark.y for mark in curve.marks if mark.chosen)
    assert len(points_of(curve.null)) == 7
    json.dumps(curve.as_dict(), allow_nan=False)


def test_a_candidate_between_two_numbers_lies_between_them():
    estimate = {"n_groups": [2, 8], "separation": [0.0, 1.0], "candidates": [4], "chosen": 4}
    curve = read_curve(estimate)
    (mark,) = curve.marks
    (low, high) = points_of(curve.line)
    assert low[0] < mark.x < high[0]
    assert high[1] < mark.y < low[1]


def test_a_number_off_the_line_has_no_mark_and_none_is_chosen_where_none_is_clear():
    curve = read_curve({**ESTIMATE, "candidates": [3, 90], "chosen": None, "recommended": None})
    assert [mark.n_groups for mark in curve.marks] == [3]
    assert curve.candidates == (3, 90)
    assert curve.chosen is None


@pytest.mark.parametrize("missing", list(ESTIMATE))
def test_any_key_may_be_missing(missing):
    curve = read_curve({name: value for name, value in ESTIMATE.items() if name != missing})
    assert curve is not None
    assert bool(curve.line) == (missing not in ("n_groups", "separation"))


@pytest.mark.parametrize(
    "estimate",
    [
        None,
        {},
        [],
        {"reason": 7},
        {"n_groups": 3, "separation": 4},
        {"n_groups": [2], "separation": [0.5]},
        {"n_groups": [True, -2, "5", None], "separation": [1, 2, 3, 4]},
        {"n_groups": [2, 3], "separation": [math.nan, math.inf]},
    ],
)
def test_of_what_is_no_curve_nothing_is_drawn(estimate):
    assert read_curve(estimate) is None


def test_equal_separations_and_one_reason_alone_are_drawn_too():
    assert len(points_of(read_curve({"n_groups": [2, 3], "separation": [0, 0]}).line)) == 2
    words = read_curve({"reason": "no clear number"})
    assert (words.reason, words.line, words.marks) == ("no clear number", "", ())
