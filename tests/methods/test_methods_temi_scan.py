"""What TEMI and SCANv2 alone do; what they share with other heads is in test_methods_heads.py."""

import inspect
import traceback

import numpy as np
import pytest
from sklearn.datasets import load_digits

import kinfold.methods._heads as heads_module
from kinfold import SCAN, TEMI
from kinfold.errors import InputError
from kinfold.heads import StudentTeacher
from kinfold.heads import objectives as objectives_module
from kinfold.metrics import clustering_accuracy, normalized_mutual_info

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TEMI_QUICK = {"n_clusters": 3, "n_heads": 2, "n_epochs": 4, "tol": 0, "random_state": 0}


def rows(n=120, dim=8):
    return np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_temi_sorts_digits_better_than_k_means_by_the_head_chosen_without_labels():
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
        TEMI(**TEMI_QUICK, **given).fit(rows()).history_
        for given in (change, {"beta": 0.6, "weighted": True})
    ]
    assert {name: getattr(made[0], name) for name in change} == change
    assert not made[0].balanced
    assert not np.allclose(*losses)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"beta": 1.5}, r"beta must be a number in \(0, 1\]"),
        ({"beta": 0}, r"beta must be a number in \(0, 1\]"),
        ({"weighted": "yes"}, "weighted must be True or False"),
        ({"n_neighbors": 0}, "n_neighbors must be an integer of at least 1"),
    ],
)
def test_impossible_parameters_of_temi_are_refused_by_name(parameters, words):
    with pytest.raises(InputError, match=words):
        TEMI(**{**TEMI_QUICK, **parameters}).fit(rows())


@pytest.mark.parametrize("method", [TEMI, SCAN])
def test_five_calls_lead_from_a_fit_to_the_line_of_its_loss(method, monkeypatch):
    calls, whole = [], objectives_module.pair_loss_gradient

    def seen(*arguments, **options):
        ours = [frame for frame, _ in traceback.walk_stack(inspect.currentframe())]
        ours = [frame.f_code for frame in ours if frame.f_globals["__name__"].startswith("kinfold.")]
        # From the inside outwards: the caller of the loss comes first, the fit last.
        assert ours[-1] is method.fit.__code__
        calls.append([code.co_name for code in reversed(ours)] + [whole.__name__])
        return whole(*arguments, **options)

    monkeypatch.setattr(objectives_module, "pair_loss_gradient", seen)
    method(n_clusters=3, n_heads=2, n_epochs=1, random_state=0).fit(rows())
    assert calls
    assert all(len(names) - 1 <= 5 for names in calls), calls[0]


def test_no_number_of_heads_is_the_plans():
    method = TEMI(**{**TEMI_QUICK, "n_heads": None, "n_epochs": 2}).fit(rows())
    assert len(method.head_labels_) == method.plan_.n_heads == 12


SCAN_QUICK = {"n_clusters": 4, "n_heads": 2, "n_epochs": 10, "tol": 0, "random_state": 0}


def uneven(n=300):
    """Return rows of two kinds, nine of one to one of the other."""
    random = np.random.default_rng(0)
    truth = (np.arange(n) % 10 == 0).astype(int)
    return (random.normal(size=(2, 16))[truth] + 0.5 * random.normal(size=(n, 16))).astype(np.float32)


def test_the_entropy_weight_evens_out_the_use_of_clusters():
    def evenness(weight):
        sizes = (
            np.bincount(SCAN(entropy_weight=weight, **SCAN_QUICK).fit(uneven()).labels_, minlength=4) / 300
        )
        return -np.sum(sizes * np.log(sizes + 1e-12)) / np.log(4)

    assert evenness(20.0) > 0.9
    assert evenness(20.0) > evenness(0.01)


def test_scan_is_not_temi():
    X = uneven()
    assert not np.allclose(SCAN(**SCAN_QUICK).fit(X).history_, TEMI(**SCAN_QUICK).fit(X).history_)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_scan_sorts_digits():
    X, y = load_digits(return_X_y=True)
    labels = SCAN(n_clusters=10, n_heads=8, random_state=0).fit(X).labels_
    assert normalized_mutual_info(y, labels) > 0.7
    assert len(np.unique(labels)) == 10


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), "much", None])
def test_an_impossible_entropy_weight_is_refused_by_name(weight):
    with pytest.raises(InputError, match="entropy_weight must be a number above 0"):
        SCAN(entropy_weight=weight).fit(uneven())
