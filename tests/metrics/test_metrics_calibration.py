"""Claims about calibration, held against loops over the bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.metrics import GroupRanks, calibration_curve, expected_calibration_error


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_every_bin_holds_what_lies_above_its_lower_edge(pairs, n_bins):
    sure, right = np.array([p for p, _ in pairs]), np.array([r for _, r in pairs])
    curve = calibration_curve(sure, right, n_bins=n_bins)
    error = 0.0
    for m in range(n_bins):
        low, high = curve.edges[m], curve.edges[m + 1]
        inside = ((sure > low) & (sure <= high)) | ((m == 0) & (sure == 0))
        assert curve.counts[m] == inside.sum()
        if inside.any():
            assert curve.accuracies[m] == pytest.approx(right[inside].mean())
            assert curve.confidences[m] == pytest.approx(sure[inside].mean())
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
        else:
            assert np.isnan(curve.accuracies[m])
            assert np.isnan(curve.confidences[m])
    assert curve.counts.sum() == len(pairs)
    assert curve.error == pytest.approx(error) == expected_calibration_error(sure, right, n_bins=n_bins)


def test_probabilities_that_rounding_pushed_past_one_count_as_one():
    curve = calibration_curve(np.array([1.0000001], np.float32), [True])
    assert curve.counts[-1] == 1
    assert curve.error == 0


@pytest.mark.parametrize(
    ("sure", "right", "n_bins", "message"),
    [
        ([], [], 15, "no predictions"),
        ([0.5], [True, False], 15, "lists of one length"),
        ([[0.5]], [[True]], 15, "lists of one length"),
        ([0.5, 1.5], [True, True], 15, "confidence 1 is 1.5"),
        ([float("nan")], [True], 15, "confidence 0 is nan"),
        ([0.5], [1], 15, "must be booleans"),
        ([0.5], [True], 0, "n_bins must be"),
        ([0.5], [True], True, "n_bins must be"),
    ],
)
def test_what_is_no_prediction_is_refused(sure, right, n_bins, message):
    with pytest.raises(InputError, match=message):
        calibration_curve(sure, right, n_bins=n_bins)


def plain_share(value, others):
    """The share of others and the value itself that lie below it, equals counted half."""
    return sum((one < value) + (one == value) / 2 for one in others)


@pytest.mark.parametrize("members", [True, False])
def test_ranks_are_counts_of_what_lies_below(members):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 30, 260).astype(np.float32)  # with ties
    groups = np.repeat([0, 2, 3, -1], [150, 60, 1, 49])
    asked = values if members else rng.integers(-5, 35, 260).astype(np.float32)
    found = GroupRanks.of(values, groups).shares(asked, groups, members=members)
    inside = values[groups >= 0].tolist()
    for value, group, share in zip(asked.tolist(), groups.tolist(), found.tolist(), strict=True):
        if group < 0:
            assert np.isnan(share)
            continue
        own, everything = values[groups == group].tolist(), inside
        if not members:
            own, everything = [*own, value], [*everything, value]
        missing = max(0, 100 - len(own))
        expected = plain_share(value, own) + missing * plain_share(value, everything) / len(everything)
        assert share == pytest.approx(expected / (len(own) + missing), abs=1e-6)


def test_new_values_of_the_same_kind_lie_below_a_share_as_often_as_it_says():
    rng = np.random.default_rng(1)
    groups = np.arange(4000) % 4
    ranks = GroupRanks.of(rng.normal(size=4000) + groups, groups)
    fresh = ranks.shares(rng.normal(size=4000) + groups, groups, members=False)
    assert np.mean(fresh < 0.01) == pytest.approx(0.01, abs=0.005)
    assert np.mean(fresh < 0.2) == pytest.approx(0.2, abs=0.02)


def test_groups_that_nobody_is_in_and_values_that_are_none():
    ranks = GroupRanks.of(np.array([1.0, 2.0, np.nan]), np.array([0, 0, 1]))
    found = ranks.shares(np.array([1.5, 1.5, np.nan]), np.array([1, 700, 0]), members=False)
    assert found[0] == found[1] == pytest.approx(0.5)
    assert np.isnan(found[2])
    empty = GroupRanks.of(np.zeros(0), np.zeros(0, int)).shares(np.ones(2), np.array([0, -1]), members=False)
    assert empty[0] == pytest.approx(0.5)
    assert np.isnan(empty[1])


def test_a_known_order_changes_nothing():
    rng = np.random.default_rng(2)
    values, groups = rng.normal(size=300).astype(np.float32), rng.integers(-1, 70_000, 300)
    first = GroupRanks.of(values, groups)
    second = GroupRanks.of(values, groups, order=np.argsort(values, kind="stable"))
    assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))
