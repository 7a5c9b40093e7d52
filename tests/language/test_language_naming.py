from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kinfold.errors import InputError
from kinfold.hierarchy import load_wordnet
from kinfold.language.naming import name_clusters

DIM = 32


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made(n_groups=6, per_group=40, n_nouns=300, seed=0, spread=0.8):
    """Groups of images around directions of their own, and nouns, of which the first are those directions."""
    rng = np.random.default_rng(seed)
    nouns = rng.normal(size=(n_nouns, DIM))
    labels = np.repeat(np.arange(n_groups), per_group)
    noise = rng.normal(size=(len(labels), DIM))
    X = unit(nouns)[labels] * rng.uniform(0.5, 2, (len(labels), 1)) + spread / math.sqrt(DIM) * noise
    return X.astype(np.float32), labels, nouns.astype(np.float32), [f"word {i}" for i in range(n_nouns)]


def naive(X, labels, k, features, nouns, *, n_names=5, n_candidates=64, n_rivals=5, scale=100.0, needed=0.0):
    """The rule in float64, one group at a time, with no regard to distinct names."""
    X, features = unit(X), unit(features)
    alive = [c for c in range(k) if (labels == c).any()]
    centres = {c: unit(X[labels == c].mean(0)[None])[0] for c in alive}
    found = {}
    for c in alive:
        others = sorted((other for other in alive if other != c), key=lambda o: -(centres[o] @ centres[c]))
        rivals = others[:n_rivals]
        logits = scale * features @ centres[c]
        candidates = np.argsort(-logits)[:n_candidates]
        total = math.log(sum(math.exp(value - logits.max()) for value in logits)) + logits.max()
        rows = []
        for v in candidates:
            among = [logits[v], *(scale * features[v] @ centres[r] for r in rivals)]
            score = (logits[v] - total) + (logits[v] - np.logaddexp.reduce(among))
            aucs = []
            for r in rivals:
                own, theirs = X[labels == c] @ features[v], X[labels == r] @ features[v]
                truth = np.r_[np.ones(len(own)), np.zeros(len(theirs))]
                aucs.append(roc_auc_score(truth, np.r_[own, theirs]))
            rows.append((nouns[v], score, logits[v] / scale, np.mean(aucs)))
        rows.sort(key=lambda row: -row[1])
        found[c] = [row for row in rows if row[3] >= needed][:n_names]
    return found


@pytest.mark.parametrize(("spread", "scale"), [(0.8, 100.0), (3.0, 20.0)])
def test_scores_and_separations_are_those_of_a_naive_float64_loop(spread, scale):
    X, labels, features, nouns = made(spread=spread)
    expected = naive(X, labels, 6, features, nouns, n_rivals=3, scale=scale)
    found = name_clusters(
        X, labels, 6, features, nouns, n_rivals=3, logit_scale=scale, min_separation=0, device="cpu"
    )
    for c, rows in expected.items():
        assert found[c].noun == f"word {c}"
        assert [name.noun for name in found[c].names] == [row[0] for row in rows]
        got = [(name.score, name.similarity, name.separation) for name in found[c].names]
        np.testing.assert_allclose(got, [row[1:] for row in rows], atol=2e-4)


def test_the_right_words_are_found_and_no_group_shares_its_first():
    X, labels, features, nouns = made(n_groups=40, n_nouns=2000)
    found = name_clusters(X, labels, 40, features, nouns, device="cpu")
    assert found.nouns == tuple(nouns[:40])
    assert all(0.6 <= name.separation <= 1 for one in found.values() for name in one.names)
