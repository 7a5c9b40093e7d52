"""Claims about calibration, held against loops over the bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.metrics import calibration_curve, expected_calibration_error


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
