"""Claims about the agreement of labelings, against loops over the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kinfold.consensus import mean_nmi, pairwise_nmi
from kinfold.consensus.labelings import count_pairs, read_labeling
from kinfold.errors import InputError
from kinfold.metrics import normalized_mutual_info


def formula(a, b):
    """Strehl and Ghosh 2002, equation 3, term by term."""
    n = len(a)
    above = sum_a = sum_b = 0.0
    for i in set(a):
        n_i = sum(x == i for x in a)
        sum_a += n_i * math.log(n_i / n)
        for j in set(b):
            both = sum(x == i and y == j for x, y in zip(a, b, strict=True))
            if both:
                above += both * math.log(n * both / (n_i * sum(y == j for y in b)))
    for j in set(b):
        n_j = sum(y == j for y in b)
        sum_b += n_j * math.log(n_j / n)
    return above / math.sqrt(sum_a * sum_b)


@pytest.fixture
def heads():
    random = np.random.default_rng(0)
    return np.stack([random.integers(0, k, 200) for k in (2, 3, 7, 40)])


def test_pairwise_nmi_is_the_formula(heads):
    found = pairwise_nmi(heads)
    for a in range(len(heads)):
        for b in range(len(heads)):
            assert found[a, b] == pytest.approx(formula(heads[a].tolist(), heads[b].tolist()), abs=1e-12)


def test_mean_nmi_is_the_mean_of_the_formula(heads):
    candidate = np.random.default_rng(1).integers(0, 5, 200)
    expected = np.mean([formula(head.tolist(), candidate.tolist()) for head in heads])
    assert mean_nmi(heads, candidate) == pytest.approx(expected, abs=1e-12)


def test_it_is_the_metric_of_the_same_name(heads):
    expected = normalized_mutual_info(heads[2], heads[3], average_method="geometric")
    assert pairwise_nmi(heads)[2, 3] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [([0, 0], [3, 3]), ([0, 0], [0, 1]), ([1], [2])])
def test_constant_labelings_are_judged_as_the_metric_judges_them(a, b):
    expected = normalized_mutual_info(a, b, average_method="geometric")
    assert pairwise_nmi([a, b])[0, 1] == expected
    assert mean_nmi([a], b) == expected


def test_names_of_clusters_mean_nothing(heads):
    renamed = heads.astype(np.int64) * 10**15 + 7
    np.testing.assert_allclose(pairwise_nmi(renamed), pairwise_nmi(heads), rtol=0, atol=1e-15)


def test_independent_labelings_do_not_agree():
    assert mean_nmi([[0, 0, 1, 1]], [0, 1, 0, 1]) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("n_clusters", [3, 2_000])
def test_counted_pairs_are_the_counts_with_few_and_with_many_clusters(n_clusters):
    random = np.random.default_rng(0)
    first, second = random.integers(0, n_clusters, (2, 3_000))
    a, b = read_labeling(first, "a"), read_labeling(second, "b")
    table = count_pairs(a, b)
    expected = {}
    for pair in zip(a.codes.tolist(), b.codes.tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    pairs = zip(table.rows.tolist(), table.columns.tolist(), strict=True)
    assert dict(zip(pairs, table.counts.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], "shape"),
        (np.empty((0, 3), dtype=int), "shape"),
        (np.empty((3, 0), dtype=int), "shape"),
        ([[0.0, 1.0]], "integers"),
        (np.uint64([[0, 2**63]]), "64-bit signed"),
        ([[0, 1], [1, -1]], "head 1 holds the label -1 at position 1"),
    ],
)
def test_labels_that_are_no_heads_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        pairwise_nmi(labels)


@pytest.mark.parametrize("candidate", [[0], [0.0, 1.0], [[0, 1]], [0, -2], [[0, 1], [1]]])
def test_candidates_that_do_not_fit_are_refused(candidate):
    with pytest.raises(InputError, match="candidate"):
        mean_nmi([[0, 1]], candidate)
