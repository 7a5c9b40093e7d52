from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from kinfold.errors import InputError
from kinfold.metrics import adjusted_rand_index, normalized_mutual_info

AVERAGES = ("arithmetic", "geometric", "min", "max")


def partitions():
    rng = np.random.default_rng(0)
    for n, n_classes, n_clusters in [(200, 5, 5), (300, 3, 40), (50, 50, 2), (1000, 100, 100)]:
        y_true = rng.integers(0, n_classes, n)
        yield y_true, rng.integers(0, n_clusters, n)
        yield y_true, np.where(rng.random(n) < 0.7, y_true % n_clusters, 0)
    yield np.zeros(9, int), np.zeros(9, int)
    yield np.arange(9), np.arange(9)
    yield np.zeros(9, int), np.arange(9)
    yield np.array([3]), np.array([1])


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_nmi_agrees_with_scikit_learn(average):
    for y_true, y_pred in partitions():
        expected = normalized_mutual_info_score(y_true, y_pred, average_method=average)
        found = normalized_mutual_info(y_true, y_pred, average_method=average)
        assert found == pytest.approx(expected, abs=1e-10)


def test_nmi_averages_arithmetically_by_default():
    y_true, y_pred = [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]
    assert normalized_mutual_info(y_true, y_pred) == pytest.approx(
        normalized_mutual_info_score(y_true, y_pred)
    )
    assert normalized_mutual_info(y_true, y_pred) != pytest.approx(
        normalized_mutual_info(y_true, y_pred, average_method="max")
    )


@pytest.mark.filterwarnings("ignore:The number of unique classes")
def test_ari_agrees_with_scikit_learn():
    for y_true, y_pred in partitions():
        assert adjusted_rand_index(y_true, y_pred) == pytest.approx(
            adjusted_rand_score(y_true, y_pred), abs=1e-12
        )


def test_ari_is_exact_where_pair_products_pass_64_bits():
    y_true, y_pred = np.arange(4_000_000) % 2, np.arange(4_000_000) % 4
    assert adjusted_rand_index(y_true, y_pred) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("metric", [adjusted_rand_index, normalized_mutual_info])
def test_agreement_is_symmetric_and_blind_to_names(metric):
    for y_true, y_pred in partitions():
        assert metric(y_true, y_pred) == pytest.approx(metric(y_pred, y_true), abs=1e-12)
        assert metric([f"class {c}" for c in y_true], y_pred) == pytest.approx(
            metric(y_true, y_pred), abs=1e-12
        )
        assert metric(y_true, y_true) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [adjusted_rand_index, normalized_mutual_info])
def test_unusable_labels_are_refused(metric):
    with pytest.raises(InputError, match="empty"):
        metric([], [])
    with pytest.raises(InputError, match="in the same order"):
        metric([1, 2], [1])


def test_an_unknown_average_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'arithmetic'"):
        normalized_mutual_info([0], [0], average_method="arithmetics")
