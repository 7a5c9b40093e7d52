"""What TEMI alone does; what it shares with other heads is in test_methods_heads.py."""

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kinfold.methods._heads as heads_module
from kinfold import TEMI
from kinfold.errors import InputError
from kinfold.heads import StudentTeacher
from kinfold.methods import plan_training
from kinfold.metrics import clustering_accuracy

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"n_clusters": 3, "n_heads": 2, "n_epochs": 4, "tol": 0, "random_state": 0}


def rows(n=120, dim=8):
    return np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_digits_are_sorted_better_than_k_means_by_the_head_chosen_without_labels():
    digits = load_digits()
    scores = [
        clustering_accuracy(digits.target, TEMI(n_clusters=10, random_state=s).fit(digits.data).labels_)
        for s in range(3)
    ]
    assert np.mean(scores) >= 0.85


@pytest.mark.parametrize("change", [{"beta": 1.0}, {"weighted": False}, {"beta": 1.0, "weighted": False}])
def test_the_ablations_reach_the_objective(change, monkeypatch):
    made = []

    class Recorded(StudentTeacher):
        def __init__(self, network, objective, *rest, **options):
            super().__init__(network, objective, *rest, **options)
            made.append(objective)

    monkeypatch.setattr(heads_module, "StudentTeacher", Recorded)
    losses = [
        TEMI(**QUICK, **given).fit(rows()).history_ for given in (change, {"beta": 0.6, "weighted": True})
    ]
    assert {name: getattr(made[0], name) for name in change} == change
    assert not made[0].balanced
    assert not np.allclose(*losses)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"beta": 1.5}, "beta must be in"),
        ({"beta": 0}, "beta must be a positive"),
        ({"weighted": "yes"}, "weighted must be true or false"),
        ({"n_neighbors": 0}, "n_neighbors must be a positive whole"),
    ],
)
def test_impossible_parameters_are_refused_by_name(parameters, words):
    with pytest.raises(InputError, match=words):
        TEMI(**{**QUICK, **parameters}).fit(rows())


def test_heads_are_many_where_they_are_cheap_and_never_more_than_the_samples_feed():
    n_heads = {
        (n, dim): plan_training(n, dim, 10).n_heads for n in (30, 700, 2_000, 50_000) for dim in (64, 1_280)
    }
    assert {n_heads[30, 64], n_heads[30, 1_280]} == {12}
    assert n_heads[700, 64] == 700 // 20
    assert 40 <= n_heads[2_000, 64] <= 50
    assert 12 < n_heads[2_000, 1_280] < n_heads[2_000, 64]
    assert n_heads[50_000, 1_280] == 12
    assert plan_training(30, 64, 10, n_heads=80).n_heads == 80


def test_no_number_of_heads_is_the_plans():
    method = TEMI(**{**QUICK, "n_heads": None, "n_epochs": 2}).fit(rows())
    assert len(method.head_labels_) == method.plan_.n_heads == 12


def test_whole_epochs_hold_the_wanted_steps_but_where_one_more_would_be_a_tenth_too_long():
    for n in range(5_000, 2_000_000, 9_973):
        plan = plan_training(n, 64, 10)
        wanted = 500 * math.sqrt(n / 5000) / plan.steps_per_epoch
        assert plan.schedule.n_epochs - wanted < 1
        assert wanted - plan.schedule.n_epochs < 0.1 * wanted
        if wanted > 10:
            assert plan.schedule.n_epochs >= wanted - 1e-3
    assert plan_training(50_000, 1_280, 10).schedule.n_epochs == 8  # of 195 steps; 1,582 are wanted


def test_the_plan_keeps_steps_while_n_grows_and_never_exceeds_n():
    for n in (2, 50, 200, 1_000, 10_000, 100_000, 1_300_000):
        plan = plan_training(n, 64, 10)
        assert plan.batch_size <= n
        assert plan.steps_per_epoch == n // plan.batch_size
        assert plan.schedule.n_epochs * plan.steps_per_epoch >= 300
        assert 0 <= plan.schedule.momentum <= 0.996
        assert plan.schedule.warmup_steps < plan.schedule.n_epochs * plan.steps_per_epoch
