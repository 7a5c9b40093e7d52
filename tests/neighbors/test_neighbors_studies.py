"""Claims about graphs made of labels, for studies."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.neighbors import NeighborGraph, same_label_graph, studies


def test_everyone_gets_different_others_of_the_same_label():
    labels = np.random.default_rng(0).choice(
        ["cat", "dog", "emu", "owl"], size=600, p=[0.6, 0.35, 0.04, 0.01]
    )
    graph = same_label_graph(labels, 20, random_state=0)
    sizes = {name: int(np.sum(labels == name)) for name in set(labels)}
    for i in range(600):
        others = graph.neighbors(i)
        assert len(others) == min(20, sizes[labels[i]] - 1)
        assert len(set(others.tolist())) == len(others)
        assert (labels[others] == labels[i]).all()
        assert i not in others
    NeighborGraph.from_lists(graph.indptr, graph.indices, graph.similarities)


@pytest.mark.parametrize("crowded", [0, 10**6])
def test_all_others_are_drawn_equally_often(monkeypatch, crowded):
    """Whichever way they are drawn."""
    monkeypatch.setattr(studies, "_CROWDED", crowded)
    counts = np.zeros((12, 12))
    for seed in range(400):
        graph = same_label_graph(np.zeros(12), 4, random_state=seed)
        counts[np.repeat(np.arange(12), 4), graph.indices] += 1
    share = counts[~np.eye(12, dtype=bool)] / 400
    assert abs(share.mean() - 4 / 11) < 1e-9
    assert np.abs(share - 4 / 11).max() < 5 * np.sqrt(4 / 11 * 7 / 11 / 400)


def test_the_seed_decides():
    labels = np.arange(300) % 3
    first, again, other = (same_label_graph(labels, 10, random_state=seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_the_only_one_of_a_class_has_no_neighbours():
    graph = same_label_graph([3, 5, 3, 7], 2)
    assert graph.degrees.tolist() == [1, 0, 1, 0]
    assert graph.indices.tolist() == [2, 0]


def test_a_large_class_is_no_burden():
    graph = same_label_graph(np.zeros(200_000, dtype=np.int8), 50, random_state=0)
    assert graph.n_edges == 10_000_000
    rows = graph.indices.reshape(-1, 50)
    assert (np.diff(rows, axis=1) > 0).all()


@pytest.mark.parametrize(
    ("labels", "k"), [([], 5), ([[1, 2]], 5), ([1, 2], 0), ([1, 2], 1.5), ([1, 2], True)]
)
def test_what_makes_no_sense_is_refused(labels, k):
    with pytest.raises(InputError):
        same_label_graph(labels, k)
