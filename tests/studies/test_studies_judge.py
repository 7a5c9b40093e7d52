"""Claims about what is said of a fit's confidence."""

from __future__ import annotations

import numpy as np
import pytest

from studies.data import Data, Split
from studies.judge import judge_confidence


class Sure:
    """Two clusters told by the sign of the only column; confidence is what the temperature makes of 0.9."""

    name = "temi"

    def __init__(self, X, temperature):
        self.temperature_ = temperature
        self.labels_ = self.predict(X)

    def predict(self, X):
        return (X[:, 0] > 0).astype(np.int32)

    def predict_proba(self, X):
        odds = 9 ** (1 / self.temperature_)
        sure = np.full(len(X), odds / (1 + odds))
        return np.where(self.predict(X)[:, None] == [0, 1], sure[:, None], 1 - sure[:, None])


def made(signs, classes):
    return Split(np.array(signs, np.float32)[:, None], np.array(classes, np.int64))


def test_confidence_is_compared_with_what_is_right_under_the_map_of_the_training_set():
    # Cluster 0 is class 1 and cluster 1 class 0: three of four are right; of the test set one of two.
    train = made([-1, -1, 1, 1], [1, 1, 0, 1])
    test = made([-1, 1], [0, 0])
    estimator = Sure(train.X, 2.0)
    found = judge_confidence(estimator, Data(train, test))
    assert found["temperature"] == 2.0
    assert found["train"]["acc"] == 0.75
    assert found["test"]["acc"] == 0.5
    assert found["train"]["before"] == pytest.approx({"confidence": 0.9, "error": 0.15})
    assert found["train"]["after"] == pytest.approx({"confidence": 0.75, "error": 0.0})
    assert found["test"]["after"] == pytest.approx({"confidence": 0.75, "error": 0.25})
    assert estimator.temperature_ == 2.0


def test_without_a_test_set_the_training_set_is_judged_alone():
    train = made([-1, 1], [0, 1])
    assert set(judge_confidence(Sure(train.X, 1.5), Data(train))) == {"temperature", "train"}
