"""Claims about what judges strays and new kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from studies.strays import HALVES, MEASURES, auroc, hold_out, load


def test_the_halves_share_no_data():
    assert not set(HALVES["developed"]) & set(HALVES["judged"])


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(3, 9, 40), rng.integers(0, 7, 30)
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(np.mean(pairs))


def test_classes_that_are_held_out_are_in_no_run_and_every_measure_scores_them_lower():
    X, y = load("digits", Path())
    setting = hold_out(X[:400], y[:400], 2, seed=0)
    assert not set(setting.classes) & set(setting.strange_classes)
    assert len(setting.X) + len(setting.new) + len(setting.strange) == 400
    for measure in MEASURES.values():
        assert auroc(measure(setting, setting.new), measure(setting, setting.strange)) > 0.7
