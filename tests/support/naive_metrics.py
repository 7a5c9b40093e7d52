"""Naive versions of every metric, in float64 and plain loops, and partitions for hypothesis to draw."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import strategies as st


@st.composite
def partitions(draw, max_samples=40, max_labels=6, min_samples=1):
    """Draw classes and clusters of the same samples: tied, lopsided, one-cluster and one-class ones too."""
    n = draw(st.integers(min_samples, max_samples))
    n_classes, n_clusters = draw(st.integers(1, max_labels)), draw(st.integers(1, max_labels))
    y_true = draw(st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n))
    kind = draw(st.sampled_from(["free", "same", "near"]))
    if kind == "free":
        return y_true, draw(st.lists(st.integers(0, n_clusters - 1), min_size=n, max_size=n))
    y_pred = [10 - c for c in y_true]
    if kind == "near":
        for place in draw(st.lists(st.integers(0, n - 1), max_size=5)):
            y_pred[place] = 99
    return y_true, y_pred


def maps(y_true, clusters):
    """Yield every one-to-one map of clusters to classes, spare clusters to nobody."""
    classes = sorted(set(y_true))
    spare = [None] * len(clusters)
    seen = set()
    for chosen in permutations([*classes, *spare], len(clusters)):
        if chosen not in seen:
            seen.add(chosen)
            yield dict(zip(clusters, chosen, strict=True))


def best_correct(y_true, y_pred):
    return max(
        sum(chosen[p] == t for t, p in zip(y_true, y_pred, strict=True))
        for chosen in maps(y_true, sorted(set(y_pred)))
    )


def purity(y_true, y_pred):
    most = 0
    for cluster in set(y_pred):
        inside = Counter(t for t, p in zip(y_true, y_pred, strict=True) if p == cluster)
        most += max(inside.values())
    return most / len(y_true)


def entropy(labels):
    counts = Counter(labels).values()
    return -sum(c / len(labels) * math.log(c / len(labels)) for c in counts)


def expected_mutual_information(y_true, y_pred):
    """Sum over every count that the margins allow, with exact binomials."""
    n, total = len(y_true), 0.0
    for a in Counter(y_true).values():
        for b in Counter(y_pred).values():
            for k in range(max(1, a + b - n), min(a, b) + 1):
                chance = math.comb(a, k) * math.comb(n - a, b - k) / math.comb(n, b)
                total += k / n * math.log(n * k / (a * b)) * chance
    return total


def silhouettes(X, labels):
    X, values = np.asarray(X, float), []
    for i, own in enumerate(labels):
        apart = np.sqrt(((X - X[i]) ** 2).sum(axis=1))
        means = {
            c: np.mean([d for d, o, j in zip(apart, labels, range(len(X)), strict=True) if o == c and j != i])
            for c in set(labels)
            if c != own or labels.count(own) > 1
        }
        if own not in means:
            values.append(0.0)
            continue
        a, b = means.pop(own), min(means.values())
        values.append((b - a) / max(a, b) if max(a, b) > 0 else 0.0)
    return values
