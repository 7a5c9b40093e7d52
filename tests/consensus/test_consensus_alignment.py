"""Claims about alignment and its votes, against all permutations, dense arrays and loops over the formula."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from kinfold.consensus import alignment
from kinfold.consensus.alignment import (
    Alignment,
    Ballot,
    align,
    equal_ballot,
    iterate_alignment,
    likelihood_ballot,
    read_probabilities,
    vote,
)
from kinfold.consensus.labelings import read_heads, read_labeling
from kinfold.errors import InputError
from kinfold.metrics import clustering_accuracy


def make_heads(n_heads=7, n_samples=300, k=3, noise=0.4, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, k, n_samples)
    heads = np.empty((n_heads, n_samples), dtype=np.int64)
    for head in heads:
        noisy = random.random(n_samples) < noise
        head[:] = np.where(noisy, random.integers(0, k, n_samples), random.permutation(k)[truth])
    return heads, truth


@pytest.mark.parametrize("max_dense", [2_048, 1])
def test_a_head_is_aligned_like_the_best_of_all_permutations(max_dense, monkeypatch):
    monkeypatch.setattr(alignment, "_MAX_DENSE", max_dense)
    heads, truth = make_heads()
    for head in heads:
        best = max(permutations(range(3)), key=lambda order: (np.array(order)[head] == truth).sum())
        aligned = align(read_labeling(head, "head"), read_labeling(truth, "truth"), 3)
        assert aligned.targets.tolist() == list(best)
        assert aligned.matched.all()


def test_alignment_elects_what_a_vote_over_all_permutations_elects():
    heads, _ = make_heads()
    reference = heads[0]
    votes = np.zeros((heads.shape[1], 3), dtype=int)
    for head in heads:
        best = max(permutations(range(3)), key=lambda order: (np.array(order)[head] == reference).sum())
        votes[np.arange(len(head)), np.array(best)[head]] += 1
    read = read_heads(heads)
    aligned = [align(head, read[0], 3) for head in read]
    np.testing.assert_array_equal(Alignment(read, 3).plurality(aligned), votes.argmax(axis=1))


@pytest.mark.parametrize("max_dense", [2_048, 1])
def test_spare_clusters_stand_for_their_majority_label(max_dense, monkeypatch):
    monkeypatch.setattr(alignment, "_MAX_DENSE", max_dense)
    head = read_labeling(np.array([0, 0, 0, 1, 1, 2, 2, 2]), "head")
    labels = read_labeling(np.array([0, 0, 0, 0, 0, 4, 4, 4]), "labels")
    aligned = align(head, labels, 6)
    assert aligned.targets.tolist() == [0, 0, 4]
    assert aligned.matched.tolist() == [True, False, True]
    assert equal_ballot(aligned).weights.tolist() == [[1.0, 1.0, 1.0]]


def test_likelihood_votes_are_the_logarithm_of_the_two_probabilities():
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 500)
    head = np.where(random.random(500) < 0.5, random.integers(0, 6, 500), labels // 2)
    ballot = likelihood_ballot(align(read_labeling(head, "head"), read_labeling(labels, "labels"), 6))
    for cluster in range(6):
        inside = np.array([((head == cluster) & (labels == label)).sum() for label in range(6)])
        largest = sorted(range(6), key=lambda label: (-inside[label], label))[:3]
        others = [label for label in range(6) if label not in largest]
        n_others = sum((labels == label).sum() for label in others)
        elsewhere = (inside[others].sum() + 1) / (n_others + 1)
        assert ballot.targets[:, cluster].tolist() == largest
        for choice, label in enumerate(largest):
            expected = max(0.0, np.log(inside[label] / (labels == label).sum() / elsewhere))
            assert ballot.weights[choice, cluster] == pytest.approx(expected, abs=1e-12)


def test_a_merged_cluster_votes_for_its_parts_and_a_head_of_noise_for_hardly_anything():
    truth = np.repeat(np.arange(10), 100)
    reference = read_labeling(truth, "truth")
    merged = align(read_labeling(truth // 2, "head"), reference, 10)
    noise = align(read_labeling(np.random.default_rng(0).integers(0, 5, 1000), "head"), reference, 10)
    ballot = likelihood_ballot(merged)
    for cluster in range(5):
        voted = ballot.targets[ballot.weights[:, cluster] > 0, cluster]
        assert sorted(voted.tolist()) == [2 * cluster, 2 * cluster + 1]
    assert likelihood_ballot(noise).weights.max() < 0.2 * ballot.weights.max()


def test_the_elected_labels_are_better_than_every_head():
    heads, truth = make_heads(n_heads=15, n_samples=2_000, k=8, noise=0.5)
    labels, note = iterate_alignment(read_heads(heads), [("a head", heads[0].astype(np.int32))], 8)
    assert clustering_accuracy(truth, labels) > max(clustering_accuracy(truth, h) for h in heads) + 0.3
    assert note.startswith("from a head, by ")


def test_a_label_that_the_reference_lacks_is_found():
    heads, truth = make_heads(n_heads=9, n_samples=900, k=4, noise=0.2)
    start = np.where(truth == 3, 2, truth).astype(np.int32)
    labels, _ = iterate_alignment(read_heads(heads), [("start", start)], 4)
    assert clustering_accuracy(truth, labels) > 0.95


def test_probabilities_are_tried_and_win_where_they_tell_more():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 800)
    probabilities = []
    for _ in range(3):
        sure = random.random(800) < 0.5
        matrix = np.where(sure[:, None], np.eye(4)[truth], random.dirichlet(np.full(4, 20.0), 800))
        probabilities.append(matrix.astype(np.float32))
    labels = np.stack([matrix.argmax(axis=1) for matrix in probabilities])
    heads = read_heads(labels)
    soft = read_probabilities(probabilities, heads)
    reference = [align(head, read_labeling(truth, "truth"), 4).targets for head in heads]
    by_probability = np.mean(soft.vote(reference, 4) == truth)
    by_vote = np.mean(
        Alignment(heads, 4).plurality([align(head, read_labeling(truth, "truth"), 4) for head in heads])
        == truth
    )
    assert by_probability > by_vote + 0.05
    found, note = iterate_alignment(heads, [("a head", labels[0].astype(np.int32))], 4, soft)
    assert clustering_accuracy(truth, found) >= by_vote - 0.02
    assert "by " in note


def make_ballots(heads, n_labels, n_choices, random):
    ballots = []
    for head in heads:
        targets = np.stack([random.permutation(n_labels)[:n_choices] for _ in range(head.n_clusters)], axis=1)
        ballots.append(Ballot(targets, random.random(targets.shape)))
    return ballots


@pytest.mark.parametrize("n_choices", [1, 3])
def test_the_most_votes_win(n_choices, monkeypatch):
    monkeypatch.setattr(alignment, "_VOTES_PER_BLOCK", 64)
    monkeypatch.setattr(alignment, "_MIN_ROWS", 7)  # so that blocks end in the middle
    random = np.random.default_rng(0)
    heads = read_heads(random.integers(0, 6, (5, 100)))
    ballots = make_ballots(heads, 8, n_choices, random)
    votes = np.zeros((100, 8))
    for head, ballot in zip(heads, ballots, strict=True):
        for sample, cluster in enumerate(head.codes):
            votes[sample, ballot.targets[:, cluster]] += ballot.weights[:, cluster]
    np.testing.assert_array_equal(vote(heads, ballots, 8), votes.argmax(axis=1))


def test_the_lower_label_wins_a_tie_whatever_the_order_of_heads():
    heads = read_heads([[0], [0], [0], [0]])
    ballots = [Ballot(np.array([[label]]), np.array([[0.1]])) for label in (3, 1, 3, 1)]
    assert vote(heads, ballots, 4).tolist() == [1]
    assert vote(heads, ballots[::-1], 4).tolist() == [1]


def test_a_sample_without_votes_gets_the_lowest_label():
    heads = read_heads([[0, 0]])
    assert vote(heads, [Ballot(np.array([[2]]), np.array([[0.0]]))], 3).tolist() == [0, 0]


def test_soft_votes_sum_the_probabilities_of_renamed_columns(monkeypatch):
    monkeypatch.setattr(alignment, "_VOTES_PER_BLOCK", 64)
    monkeypatch.setattr(alignment, "_MIN_ROWS", 7)
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(4, 0.3), size=(3, 50))
    heads = read_heads(probabilities.argmax(axis=2))
    soft = read_probabilities(list(probabilities), heads)
    names = [random.permutation(4) for _ in heads]
    votes = np.zeros((50, 4))
    for matrix, name in zip(probabilities, names, strict=True):
        votes[:, name] += matrix
    np.testing.assert_array_equal(soft.vote(names, 4), votes.argmax(axis=1))


def test_columns_that_are_no_ones_first_choice_do_not_count():
    heads = read_heads([[0, 2]])
    soft = read_probabilities([np.array([[0.5, 0.5, 0.0], [0.0, 0.4, 0.6]])], heads)
    assert soft.vote([np.array([1, 0])], 2).tolist() == [1, 0]


@pytest.mark.parametrize(
    "probabilities",
    [
        [np.ones((2, 2))],
        [np.ones((2, 2)), np.ones((3, 2))],
        [np.ones((2, 2)), np.ones((2, 1))],
        [np.ones((2, 2)), np.ones(2)],
        [np.ones((2, 2)), [[0.5, 0.5], [1.0]]],
        [np.ones((2, 2)), np.array([[0.5, 0.5], [0.5, np.nan]])],
        [np.ones((2, 2)), np.array([[0.5, 0.5], [1.5, -0.5]])],
        [np.ones((2, 2)), np.array([[0.5, np.inf], [0.5, 0.5]])],
        [np.ones((2, 2)), np.array([["a", "b"], ["c", "d"]])],
        [np.ones((2, 2)), np.ones((2, 2), complex)],
    ],
)
def test_probabilities_that_do_not_fit_the_labels_are_refused(probabilities):
    with pytest.raises(InputError, match="probabilities"):
        read_probabilities(probabilities, read_heads([[0, 1], [1, 0]]))


def test_the_sample_that_holds_no_probabilities_is_named(monkeypatch):
    monkeypatch.setattr(alignment, "_VOTES_PER_BLOCK", 4)
    monkeypatch.setattr(alignment, "_MIN_ROWS", 1)
    matrix = np.full((9, 2), 0.5)
    matrix[5, 1] = np.nan
    with pytest.raises(InputError, match="head 1 hold nan for sample 5"):
        read_probabilities([np.ones((9, 2)), matrix], read_heads([[0, 1, 0] * 3] * 2))
