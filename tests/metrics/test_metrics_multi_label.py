from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.metrics import (
    LabelSets,
    clustering_accuracy,
    drawn_label_accuracy,
    match_clusters,
    multi_label_accuracy,
    top_k_accuracy,
)

some = settings(max_examples=50, deadline=None)


@st.composite
def ranked(draw, n_top=3, n_labels=5):
    n = draw(st.integers(1, 30))
    y_true = draw(st.lists(st.integers(0, n_labels - 1), min_size=n, max_size=n))
    orders = st.permutations(range(10, 10 + n_labels)).map(lambda order: order[:n_top])
    return y_true, np.array(draw(st.lists(orders, min_size=n, max_size=n)))


@some
@given(ranked(), st.integers(1, 3))
def test_a_hit_is_any_of_the_k_best_clusters_under_the_map_of_the_first(labels, k):
    y_true, top = labels
    mapping = match_clusters(y_true, top[:, 0]).mapping
    expected = [
        any(mapping.get(cluster, "none") == label for cluster in row)
        for label, row in zip(y_true, top[:, :k].tolist(), strict=True)
    ]
    assert top_k_accuracy(y_true, top, k) == pytest.approx(np.mean(expected))
    assert top_k_accuracy(y_true, top, k, match=match_clusters(y_true, top[:, 0])) == pytest.approx(
        np.mean(expected)
    )


@some
@given(ranked())
def test_the_best_cluster_alone_gives_the_accuracy_and_more_never_give_less(labels):
    y_true, top = labels
    found = [top_k_accuracy(y_true, top, k) for k in (1, 2, 3)]
    assert found[0] == clustering_accuracy(y_true, top[:, 0])
    assert found == sorted(found)


def test_clusters_without_a_class_and_missing_ranks_are_never_right():
    assert top_k_accuracy(["a", "b"], [[0, 7], [1, -1]], 2) == 1.0
    assert top_k_accuracy(["a", "a", "b"], [[0, -1], [1, -1], [-1, 0]], 2) == pytest.approx(1 / 3)
    match = match_clusters(["a", "a", "b"], [0, 0, 1], majority=True)
    assert top_k_accuracy(["a", "a", "b"], [[1, 0], [1, 0], [0, 0]], 2, match=match) == pytest.approx(2 / 3)


@some
@given(ranked(), st.integers(1, 3))
def test_numbers_of_clusters_may_lie_far_apart(labels, k):
    y_true, top = labels
    names = np.array([0, 5, 7, 1 << 20, 2**40, 2**50])[top - 10]
    assert top_k_accuracy(y_true, names, k) == top_k_accuracy(y_true, top, k)
    none = top.copy()
    none[:, 0] = -1
    assert top_k_accuracy(y_true, none, k) == 0.0  # nothing was best, so nothing is mapped
    sets = LabelSets.from_lists([[label] for label in y_true])
    assert multi_label_accuracy(y_true, sets, none, ks=(k,)) == {k: 0.0}


@some
@given(ranked(), st.data())
def test_multi_label_accuracy_counts_any_right_label(labels, data):
    y, top = labels
    sets = [{label, *data.draw(st.lists(st.integers(0, 6), max_size=3), label="others")} for label in y]
    mapping = match_clusters(y, top[:, 0]).mapping
    found = multi_label_accuracy(y, LabelSets.from_lists(sets), top, ks=(1, 3))
    for k in (1, 3):
        expected = [
            any(mapping.get(cluster, "none") in right for cluster in row)
            for right, row in zip(sets, top[:, :k].tolist(), strict=True)
        ]
        assert found[k] == pytest.approx(np.mean(expected))


@some
@given(ranked())
def test_one_right_label_per_sample_is_the_ordinary_top_k(labels):
    y, top = labels
    sets = LabelSets.from_lists([[label] for label in y])
    expected = {k: pytest.approx(top_k_accuracy(y, top, k)) for k in (1, 2, 3)}
    assert multi_label_accuracy(y, sets, top, ks=(1, 2, 3)) == expected
    drawn = drawn_label_accuracy(sets, top, ks=(1, 2, 3), n_draws=3)
    assert drawn.means == expected
    assert max(drawn.deviations.values()) < 1e-12
    assert LabelSets.of_classes(y, {}).counts.tolist() == [1] * len(y)


@some
@given(ranked())
def test_sets_by_class_are_those_of_every_sample(labels):
    y, top = labels
    above = {0: (0, 1, 4), 2: (2, 4), 3: ()}
    by_class = LabelSets.of_classes(y, above)
    by_sample = LabelSets.from_lists([above.get(label, (label,)) for label in y])
    assert by_class.counts.tolist() == by_sample.counts.tolist()
    if 3 not in y:
        expected = multi_label_accuracy(y, by_sample, top, ks=(1, 2))
        assert multi_label_accuracy(y, by_class, top, ks=(1, 2)) == expected


def test_ancestors_forgive_the_right_kind_of_mistake():
    y = ["dog"] * 4 + ["cat"] * 4 + ["animal"] * 2 + ["car"] * 2
    clusters = [0, 0, 0, 2, 1, 1, 1, 3, 2, 2, 3, 3]
    above = {"dog": ("dog", "animal"), "cat": ("cat", "animal"), "animal": ("animal",), "car": ("car",)}
    found = multi_label_accuracy(y, LabelSets.of_classes(y, above), np.array(clusters)[:, None])
    assert clustering_accuracy(y, clusters) == pytest.approx(10 / 12)
    assert found == {1: pytest.approx(11 / 12)}


def made_real(rng, quality, n=6000, n_classes=40):
    """Sets of one to three labels, some empty, and a guess that is in the set with a known chance."""
    sets, top = [], np.empty((n, 2), dtype=int)
    for i in range(n):
        chosen = rng.choice(n_classes, size=rng.choice([0, 1, 1, 1, 2, 3]), replace=False)
        sets.append(chosen.tolist())
        others = np.setdiff1d(np.arange(n_classes), chosen)
        top[i] = rng.choice(others, 2, replace=False)
        if len(chosen) and rng.random() < quality:
            top[i, 0] = rng.choice(chosen)
    return sets, (top * 7 + 3) % n_classes


@pytest.mark.parametrize("quality", [0.3, 0.8])
def test_drawn_labels_recover_a_known_quality(quality):
    sets, top = made_real(np.random.default_rng(1), quality)
    found = drawn_label_accuracy(LabelSets.from_lists(sets), top, ks=(1, 2), n_draws=20)
    assert found.n_without_label == sum(not some for some in sets)
    assert found.n_samples == len(sets) - found.n_without_label
    error = np.sqrt(quality * (1 - quality) / found.n_samples)
    assert abs(found.means[1] - quality) < 3 * error
    assert found.means[2] == found.means[1]  # the second guess is never right
    assert found.deviations[1] < error


def test_draws_differ_by_seed_alone():
    sets, top = made_real(np.random.default_rng(2), 0.2, n=300)
    found, again, other = (
        drawn_label_accuracy(LabelSets.from_lists(sets), top, n_draws=9, random_state=seed)
        for seed in (4, 4, 5)
    )
    assert found == again
    assert found.deviations[1] > 0
    assert found.means != other.means


def test_every_label_of_a_sample_is_drawn_about_as_often():
    sets = LabelSets.from_lists([["x"], ["a", "b", "c"]])
    drawn = sets.draw(np.ones(3000, dtype=np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=4)
    assert counts[sets.labels.index("x")] == 0
    assert sorted(counts)[1] > 900


def test_sets_may_be_of_any_labels_and_a_repeated_one_counts_once():
    sets = LabelSets.from_lists([["a", "a"], [("b", 1)], [], [None]])
    assert sets.counts.tolist() == [1, 1, 0, 1]
    owners, codes = sets.take(np.array([3, 2, 0]))
    assert owners.tolist() == [0, 2]
    assert [sets.labels[code] for code in codes] == [None, "a"]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: top_k_accuracy([0, 1], [[0], [1], [2]], 1), "2 samples with classes and 3 with clusters"),
        (lambda: top_k_accuracy([0, 1], [[0], [1]], 2), "from 1 to 1"),
        (lambda: top_k_accuracy([0, 1], [[0], [1]], True), "from 1 to 1"),
        (lambda: top_k_accuracy([0, 1], [0, 1], 1), "matrix of integers"),
        (lambda: top_k_accuracy([0, 1], [[0.5], [1]], 1), "matrix of integers"),
        (lambda: LabelSets.from_lists(["cat", "dog"]), "sample 0 are the string 'cat'"),
        (lambda: LabelSets.from_lists([[[1]]]), "sample 0 can't be compared"),
        (lambda: multi_label_accuracy([0], LabelSets.from_lists([[]]), [[0]]), "sample 0 has no right label"),
        (lambda: multi_label_accuracy([0], LabelSets.from_lists([[0]]), [[0]], ks=()), "ks is empty"),
        (lambda: drawn_label_accuracy(LabelSets.from_lists([[], []]), [[0], [1]]), "no sample has a label"),
        (lambda: drawn_label_accuracy(LabelSets.from_lists([[1]]), [[0]], n_draws=0), "n_draws"),
        (lambda: LabelSets.of_classes([], {}), "y_true is empty"),
    ],
)
def test_unusable_input_is_refused_in_words(run, words):
    with pytest.raises(InputError, match=words):
        run()
