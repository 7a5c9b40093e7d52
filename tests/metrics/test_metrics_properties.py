"""Every measure of agreement equals a naive version and scikit-learn's, on whatever hypothesis draws."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from kinfold.errors import InputError
from kinfold.metrics import (
    adjusted_mutual_info,
    adjusted_rand_index,
    clustering_accuracy,
    compare,
    head_agreement,
    match_clusters,
    normalized_mutual_info,
    per_class_accuracy,
    purity,
)
from kinfold.metrics.information import expected_mutual_information
from support import naive_metrics as naive

AVERAGES = ("arithmetic", "geometric", "min", "max")
many = settings(max_examples=60, deadline=None)
some = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")
        yield


@some
@given(naive.partitions(max_samples=25, max_labels=4))
def test_accuracy_is_that_of_the_best_of_all_maps(labels):
    y_true, y_pred = labels
    match = match_clusters(y_true, y_pred)
    assert match.n_correct == naive.best_correct(y_true, y_pred)
    assert match.n_correct == sum(match.mapping.get(p) == t for t, p in zip(y_true, y_pred, strict=True))
    assert len(set(match.mapping.values())) == len(match.mapping)
    assert {*match.mapping, *match.leftover} == set(y_pred)


@many
@given(naive.partitions())
def test_both_conventions_and_purity_come_in_this_order(labels):
    wrong, majority = (clustering_accuracy(*labels, majority=given) for given in (False, True))
    assert wrong <= majority <= purity(*labels) + 1e-12
    if len(set(labels[1])) <= len(set(labels[0])) and not match_clusters(*labels).leftover:
        assert wrong == majority


@many
@given(naive.partitions())
def test_a_majority_map_gives_spare_clusters_their_commonest_class(labels):
    y_true, y_pred = np.array(labels[0]), np.array(labels[1])
    alone, joined = match_clusters(*labels), match_clusters(*labels, majority=True)
    for cluster in joined.mapping:
        if cluster in alone.mapping:
            assert joined.mapping[cluster] == alone.mapping[cluster]
        else:
            counts = np.bincount(y_true[y_pred == cluster])
            assert counts[joined.mapping[cluster]] == counts.max()
    assert joined.n_correct == sum(
        joined.mapping[p] == t for t, p in zip(y_true.tolist(), y_pred.tolist(), strict=True)
    )


@many
@given(naive.partitions(), st.sampled_from(AVERAGES))
def test_information_agrees_with_scikit_learn(labels, average):
    expected = sk.normalized_mutual_info_score(*labels, average_method=average)
    assert normalized_mutual_info(*labels, average_method=average) == pytest.approx(expected, abs=1e-9)
    assert adjusted_rand_index(*labels) == pytest.approx(sk.adjusted_rand_score(*labels), abs=1e-9)


@many
@given(naive.partitions())
def test_the_expectation_is_the_sum_over_all_counts(labels):
    sizes = [np.unique(some, return_counts=True)[1] for some in labels]
    expected = naive.expected_mutual_information(*labels)
    assert expected_mutual_information(*sizes) == pytest.approx(expected, rel=1e-11, abs=1e-14)


@many
@given(naive.partitions(), st.sampled_from(AVERAGES))
def test_adjusted_information_agrees_with_scikit_learn_where_it_is_defined(labels, average):
    found = adjusted_mutual_info(*labels, average_method=average)
    entropies = [naive.entropy(some) for some in labels]
    means = {
        "arithmetic": np.mean(entropies),
        "geometric": np.sqrt(np.prod(entropies)),
        "min": min(entropies),
        "max": max(entropies),
    }
    if means[average] - naive.expected_mutual_information(*labels) > 1e-9:
        expected = sk.adjusted_mutual_info_score(*labels, average_method=average)
        assert found == pytest.approx(expected, abs=1e-7)
    else:
        same = len(set(zip(*labels, strict=True))) == len(set(labels[0])) == len(set(labels[1]))
        assert found == float(same)


@pytest.mark.parametrize("n_labels", [3, 50, 700])
def test_adjusted_information_agrees_with_scikit_learn_on_many_samples(n_labels):
    rng = np.random.default_rng(n_labels)
    shares = rng.lognormal(0, 1, n_labels)
    y_true = rng.choice(n_labels, 5000, p=shares / shares.sum())
    y_pred = np.where(rng.random(5000) < 0.4, y_true, rng.integers(0, n_labels, 5000))
    for average in AVERAGES:
        expected = sk.adjusted_mutual_info_score(y_true, y_pred, average_method=average)
        assert adjusted_mutual_info(y_true, y_pred, average_method=average) == pytest.approx(
            expected, abs=1e-10
        )


def test_the_expectation_stays_exact_where_factorials_lose_their_digits():
    sizes = np.array([4_000_000, 3_500_000, 3_560_000])
    found = expected_mutual_information(sizes, sizes[::-1])
    # By Miller's correction the expectation tends to (R − 1)(C − 1) / 2N in large samples.
    assert found == pytest.approx(4 / (2 * sizes.sum()), rel=1e-5)


@many
@given(naive.partitions())
def test_purity_is_the_share_of_majority_classes(labels):
    assert purity(*labels) == pytest.approx(naive.purity(*labels))


@many
@given(naive.partitions())
def test_classes_and_clusters_are_scored_one_by_one(labels):
    y_true, y_pred = np.array(labels[0]), np.array(labels[1])
    for majority in (False, True):
        found, match = (f(*labels, majority=majority) for f in (per_class_accuracy, match_clusters))
        right = np.array([match.mapping.get(p) == t for t, p in zip(*labels, strict=True)])
        assert found.classes == tuple(sorted(set(labels[0])))
        for name, size, accuracy in zip(found.classes, found.class_sizes, found.accuracies, strict=True):
            assert (size, accuracy) == ((y_true == name).sum(), pytest.approx(right[y_true == name].mean()))
        for cluster, stands_for, precision in zip(
            found.clusters, found.cluster_classes, found.precisions, strict=True
        ):
            assert stands_for == match.mapping.get(cluster)
            if stands_for is None:
                assert np.isnan(precision)
            else:
                assert precision == pytest.approx((y_true[y_pred == cluster] == stands_for).mean())
        assert found.accuracies @ found.class_sizes / len(y_true) == pytest.approx(match.accuracy)


@many
@given(naive.partitions())
def test_comparing_at_once_gives_what_each_measure_gives(labels):
    found = compare(*labels)
    assert found.accuracy == clustering_accuracy(*labels)
    assert found.accuracy_majority == pytest.approx(clustering_accuracy(*labels, majority=True))
    assert found.nmi == normalized_mutual_info(*labels)
    assert found.ami == adjusted_mutual_info(*labels)
    assert found.ari == adjusted_rand_index(*labels)
    assert found.purity == purity(*labels)
    assert found.match == match_clusters(*labels)
    assert (found.n_samples, found.n_classes, found.n_clusters) == (
        len(labels[0]),
        *(len(set(some)) for some in labels),
    )


@some
@given(st.lists(st.lists(st.integers(0, 3), min_size=12, max_size=12), min_size=2, max_size=4))
def test_heads_agree_as_much_as_their_pairs_do(heads):
    pairs = [(a, b) for i, a in enumerate(heads) for b in heads[:i]]
    found = head_agreement(heads)
    assert found.nmi == pytest.approx(
        np.mean([sk.normalized_mutual_info_score(*pair, average_method="geometric") for pair in pairs]),
        abs=1e-9,
    )
    assert found.accuracy == pytest.approx(np.mean([clustering_accuracy(*pair) for pair in pairs]))
    assert found.n_heads == len(heads)


def test_one_head_alone_agrees_with_nobody():
    with pytest.raises(InputError, match=r"two heads or more.*\(1, 3\)"):
        head_agreement([[0, 1, 2]])


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float32, bool, object, "U3"], ids=str
)
def test_labels_of_every_type_give_the_same_figures(dtype):
    y_true = np.array([0, 1, 1, 0, 1, 0, 0])
    y_pred = np.array([1, 0, 1, 1, 0, 1, 1])
    assert compare(y_true.astype(dtype), y_pred.astype(dtype)).ami == compare(y_true, y_pred).ami
    assert match_clusters(y_true.astype(dtype), y_pred).mapping == {
        1: y_true.astype(dtype)[0],
        0: y_true.astype(dtype)[1],
    }


@pytest.mark.parametrize(
    "labels",
    [
        np.array([-128, 127, -128], np.int8),
        np.array([2**63 + 5, 3, 2**63 + 5], np.uint64),
        np.array([-(2**62), 2**62, -(2**62)]),
    ],
    ids=["edges of int8", "above int64", "far apart"],
)
def test_numbers_far_apart_are_different_labels(labels):
    match = match_clusters(labels, ["a", "b", "a"])
    assert match.mapping == {"a": int(labels[0]), "b": int(labels[1])}
    assert match.accuracy == 1.0
