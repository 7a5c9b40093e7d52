"""Claims about votes, against dense arrays."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.consensus import _voting
from kinfold.consensus._heads import read_heads
from kinfold.consensus._soft import read_probabilities
from kinfold.consensus._voting import Ballot, vote
from kinfold.errors import InputError


def make_ballots(heads, n_labels, n_choices, random):
    ballots = []
    for head in heads:
        targets = np.stack([random.permutation(n_labels)[:n_choices] for _ in range(head.n_clusters)], axis=1)
        ballots.append(Ballot(targets, random.random(targets.shape)))
    return ballots


@pytest.mark.parametrize("n_choices", [1, 3])
def test_the_most_votes_win(n_choices, monkeypatch):
    monkeypatch.setattr(_voting, "_VOTES_PER_BLOCK", 64)
    monkeypatch.setattr(_voting, "_MIN_ROWS", 7)  # so that blocks end in the middle
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
    monkeypatch.setattr(_voting, "_VOTES_PER_BLOCK", 64)
    monkeypatch.setattr(_voting, "_MIN_ROWS", 7)
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
    monkeypatch.setattr(_voting, "_VOTES_PER_BLOCK", 4)
    monkeypatch.setattr(_voting, "_MIN_ROWS", 1)
    matrix = np.full((9, 2), 0.5)
    matrix[5, 1] = np.nan
    with pytest.raises(InputError, match="head 1 hold nan for sample 5"):
        read_probabilities([np.ones((9, 2)), matrix], read_heads([[0, 1, 0] * 3] * 2))
