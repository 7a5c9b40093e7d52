"""What SCANv2 alone does; what it shares with other heads is in test_methods_heads.py."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kinfold import SCAN, TEMI
from kinfold.errors import InputError
from kinfold.metrics import normalized_mutual_info

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"n_clusters": 4, "n_heads": 2, "n_epochs": 10, "tol": 0, "random_state": 0}


def uneven(n=300):
    """Return rows of two kinds, nine of one to one of the other."""
    random = np.random.default_rng(0)
    truth = (np.arange(n) % 10 == 0).astype(int)
    return (random.normal(size=(2, 16))[truth] + 0.5 * random.normal(size=(n, 16))).astype(np.float32)


def test_the_entropy_weight_evens_out_the_use_of_clusters():
    def evenness(weight):
        sizes = np.bincount(SCAN(entropy_weight=weight, **QUICK).fit(uneven()).labels_, minlength=4) / 300
        return -np.sum(sizes * np.log(sizes + 1e-12)) / np.log(4)

    assert evenness(20.0) > 0.9
    assert evenness(20.0) > evenness(0.01)


def test_it_is_not_temi():
    X = uneven()
    assert not np.allclose(SCAN(**QUICK).fit(X).history_, TEMI(**QUICK).fit(X).history_)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_are_sorted():
    X, y = load_digits(return_X_y=True)
    labels = SCAN(n_clusters=10, n_heads=8, random_state=0).fit(X).labels_
    assert normalized_mutual_info(y, labels) > 0.7
    assert len(np.unique(labels)) == 10


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), "much", None])
def test_an_impossible_entropy_weight_is_refused_by_name(weight):
    with pytest.raises(InputError, match="entropy_weight must be a positive number"):
        SCAN(entropy_weight=weight).fit(uneven())
