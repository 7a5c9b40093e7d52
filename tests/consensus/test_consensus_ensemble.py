"""Claims about the consensus as a whole."""

from __future__ import annotations

import numpy as np
import pytest

import kinfold
from kinfold.consensus import METHODS, consensus, graphs, mean_nmi
from kinfold.errors import InputError
from kinfold.metrics import clustering_accuracy

FUNCTIONS = METHODS[1:]


def make_heads(n_heads=12, n_samples=1_500, k=6, noise=0.4, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, k, n_samples)
    heads = np.empty((n_heads, n_samples), dtype=np.int32)
    for head in heads:
        noisy = random.random(n_samples) < noise
        head[:] = np.where(noisy, random.integers(0, k, n_samples), random.permutation(k)[truth])
    return heads, truth


def best_accuracy(heads, truth):
    return max(clustering_accuracy(truth, head) for head in heads)


@pytest.mark.parametrize("method", ["cspa", "mcla", "alignment"])
def test_the_consensus_of_noisy_copies_is_better_than_every_copy(method):
    heads, truth = make_heads()
    found = consensus(heads, n_clusters=6, method=method, random_state=0)
    assert clustering_accuracy(truth, found.labels) > best_accuracy(heads, truth) + 0.2
    assert found.method == method
    assert [each.name for each in found.candidates] == [method]


def test_hgpa_finds_the_clusters_that_all_heads_nearly_agree_on():
    heads, truth = make_heads(noise=0.02, n_samples=600)
    found = consensus(heads, n_clusters=6, method="hgpa", random_state=0)
    assert clustering_accuracy(truth, found.labels) > 0.9


def test_the_candidate_of_the_highest_mean_nmi_wins():
    heads, _ = make_heads(n_samples=300)
    found = consensus(heads, n_clusters=6, random_state=0)
    values = {each.name: each.mean_nmi for each in found.candidates}
    assert list(values) == ["best head", *FUNCTIONS]
    assert found.mean_nmi == values[found.method] == max(values.values())
    assert found.mean_nmi == pytest.approx(mean_nmi(heads, found.labels), abs=1e-12)
    assert found.labels.dtype == np.int32
    assert set(found.labels.tolist()) == set(range(6))
    assert all(each.n_clusters == 6 and each.seconds >= 0 for each in found.candidates)


def test_dead_and_collapsed_heads_do_not_hurt():
    heads, truth = make_heads()
    clean = consensus(heads, n_clusters=6, method="alignment", random_state=0)
    heads[:3] = [[0], [5], [1]]
    heads[3] = truth // 3
    hurt = consensus(heads, n_clusters=6, method="alignment", random_state=0)
    assert clustering_accuracy(truth, hurt.labels) > clustering_accuracy(truth, clean.labels) - 0.02


def test_merges_and_splits_that_several_heads_share_are_outvoted():
    heads, truth = make_heads(noise=0.2)
    heads[:4] = np.where(heads[:4] == 1, heads[:4] * 0, heads[:4])
    halves = np.arange(len(truth)) % 2 == 0
    heads[4:7] = np.where((heads[4:7] == 2) & halves, 6, heads[4:7])
    found = consensus(heads, n_clusters=6, random_state=0)
    assert clustering_accuracy(truth, found.labels) > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_labels(method):
    heads, _ = make_heads(n_samples=400)
    first, second = (consensus(heads, n_clusters=6, method=method, random_state=7) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.mean_nmi == second.mean_nmi


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("heads", "n_clusters"),
    [
        pytest.param([[0, 1, 2, 2]], 3, id="one head"),
        pytest.param([[0, 1, 2, 2]] * 4, 3, id="equal heads"),
        pytest.param([[4, 4, 4, 4]] * 4, 3, id="dead heads"),
        pytest.param([[0, 1, 1, 0], [1, 1, 0, 0]], 1, id="one cluster"),
        pytest.param([[0, 0, 1, 1], [0, 0, 1, 1]], 4, id="more clusters than any head has"),
        pytest.param([[0, 1, 2, 3], [3, 2, 1, 0]], 2, id="fewer clusters than any head has"),
        pytest.param([[8]], 1, id="one sample"),
        pytest.param([[0, 10**14, 10**14, 3], [7, 9, 9, 7]], 3, id="huge names"),
        pytest.param(np.uint64([[2**62, 1, 1], [0, 1, 1]]), 2, id="unsigned names"),
    ],
)
def test_odd_heads_give_sensible_labels(heads, n_clusters, method):
    found = consensus(heads, n_clusters=n_clusters, method=method, random_state=0)
    assert found.labels.shape == (len(heads[0]),)
    assert found.labels.dtype == np.int32
    assert 0 <= found.labels.min() <= found.labels.max() < n_clusters
    assert 0 <= found.mean_nmi <= 1


def test_equal_heads_are_their_own_consensus():
    head = np.repeat([0, 1, 2], 20)
    found = consensus([head, 2 - head, head + 5], n_clusters=3, random_state=0)
    assert found.mean_nmi == pytest.approx(1)
    assert clustering_accuracy(head, found.labels) == 1


@pytest.mark.parametrize("others", [[], [[0] * 60]], ids=["alone", "beside a head without vote"])
def test_a_single_head_is_returned_at_once(others):
    head = np.repeat([2, 0, 5], 20)
    found = consensus([*others, head], n_clusters=4, random_state=0)
    assert clustering_accuracy(head, found.labels) == 1
    assert found.method == "best head"
    assert found.mean_nmi == pytest.approx(1 / (1 + len(others)))
    (only,) = found.candidates
    assert only.note == f"head {len(others)}, the only one that tells something; 1 cluster left empty"


def test_a_single_head_of_too_many_clusters_is_cut():
    found = consensus([np.repeat([0, 1, 2], 20)], n_clusters=2, random_state=0)
    assert found.labels.max() <= 1
    assert {each.name for each in found.candidates if each.mean_nmi is not None} >= {"mcla", "alignment"}


def test_clusters_that_stay_empty_are_told():
    found = consensus([[0, 0, 1, 1]] * 2, n_clusters=3, method="mcla", random_state=0)
    assert found.candidates[0].n_clusters == 2
    assert "1 cluster left empty" in found.candidates[0].note


def test_what_is_too_slow_at_this_size_is_left_out_and_says_so(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_SAMPLES", 10)
    monkeypatch.setattr(graphs, "MAX_PINS", 10)
    heads, _ = make_heads(n_samples=100)
    found = consensus(heads, n_clusters=6, random_state=0)
    left_out = {each.name: each.note for each in found.candidates if each.mean_nmi is None}
    assert set(left_out) == {"cspa", "hgpa"}
    assert all(note.startswith("left out") for note in left_out.values())
    with pytest.raises(InputError, match="at most 10"):
        consensus(heads, n_clusters=6, method="cspa")


def test_probabilities_may_be_given():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 200)
    mixed = 0.6 * np.eye(3)[truth] + 0.4 * random.dirichlet(np.ones(3), (5, 200))
    found = consensus(mixed.argmax(axis=2), n_clusters=3, probabilities=list(mixed), random_state=0)
    assert clustering_accuracy(truth, found.labels) > 0.95


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_clusters": 5}, "is more than n_samples=4"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"n_clusters": 2.0}, "n_clusters"),
        ({"method": "mlca"}, "did you mean 'mcla'"),
        ({"probabilities": []}, "probabilities"),
        ({"labels": [[0, 1, -1, 0]]}, "negative|label -1"),
        ({"labels": [[0, 1, 1, 0], [0, 1]]}, "rows of one length"),
        ({"labels": [[0, 1, 1, 0], 3]}, "rows of one length"),
        ({"probabilities": [[[0.5, 0.5]] * 3 + [[1.5, -0.5]]]}, "head 0 hold -0.5 for sample 3"),
    ],
)
def test_what_can_not_be_done_is_refused(change, words):
    arguments = {"labels": [[0, 1, 1, 0]], "n_clusters": 2, **change}
    with pytest.raises(InputError, match=words):
        consensus(arguments.pop("labels"), **arguments)


def test_the_room_opens_from_the_package():
    assert kinfold.consensus.consensus is consensus
