"""Claims about the graphs of consensus functions and how they are cut, against dense arrays."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from scipy import sparse

from kinfold.consensus import consensus
from kinfold.consensus.graphs import (
    MetaGraph,
    clusters_of,
    co_association,
    mcla,
    partition_graph,
    partition_hypergraph,
    thin,
)
from kinfold.consensus.labelings import compare_heads, read_heads
from support.torchrun import run_together


def make_cliques(n_cliques=3, size=8, heavy=9):
    """Cliques with heavy edges, and edges of weight 1 between everything."""
    weights = np.ones((n_cliques * size, n_cliques * size), dtype=np.int32)
    for start in range(0, len(weights), size):
        weights[start : start + size, start : start + size] = heavy
    np.fill_diagonal(weights, 0)
    return sparse.csr_matrix(weights)


def is_partition_into_cliques(parts, size=8):
    parts = np.asarray(parts).reshape(-1, size)
    return bool((parts == parts[:, :1]).all()) and len(set(parts[:, 0])) == len(parts)


@pytest.fixture
def without_pymetis(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymetis", None)


def test_a_graph_is_cut_along_its_weakest_edges():
    assert is_partition_into_cliques(partition_graph(make_cliques(), 3, seed=0))


@pytest.mark.usefixtures("without_pymetis")
def test_where_pymetis_is_missing_mt_kahypar_cuts_the_graph():
    parts = partition_graph(make_cliques(), 3, seed=0)
    assert is_partition_into_cliques(parts)
    assert parts.dtype == np.int32


def test_a_hypergraph_is_cut_between_its_hyperedges():
    hyperedges = [np.arange(start, start + 8) for start in (0, 8, 16)] * 2 + [np.array([0, 8, 16])]
    assert is_partition_into_cliques(partition_hypergraph(hyperedges, 24, 3, seed=0))


@pytest.mark.parametrize("n_parts", [1, 4, 9])
def test_graphs_without_edges_and_of_few_nodes_are_cut_too(n_parts):
    for parts in (
        partition_graph(sparse.csr_matrix((5, 5), dtype=np.int32), n_parts, seed=0),
        partition_hypergraph([], 5, n_parts, seed=0),
    ):
        assert len(parts) == 5
        assert len(set(parts.tolist())) == min(n_parts, 5)


def cut_with_threads(n_threads):
    """Find every consensus in a process that has so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 600)
    heads = np.where(random.random((6, 600)) < 0.3, random.integers(0, 5, (6, 600)), truth)
    return {
        method: consensus(heads, n_clusters=5, method=method, random_state=3).labels
        for method in ("cspa", "hgpa", "mcla", "alignment")
    }


def test_threads_change_no_part():
    [one], [four] = (run_together(cut_with_threads, 1, n_threads=n) for n in (1, 4))
    assert len(one) == 4
    for method, labels in one.items():
        np.testing.assert_array_equal(labels, four[method])


def test_co_association_counts_the_heads_that_put_samples_together():
    labels = np.random.default_rng(0).integers(0, 4, (6, 700))
    expected = (labels[:, :, None] == labels[:, None, :]).sum(axis=0)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(co_association(read_heads(labels)).toarray(), expected)


def test_thinning_keeps_the_heaviest_edges_and_symmetry():
    graph = make_cliques()
    thinned = thin(graph, max_edges=200)
    assert set(thinned.data) == {9}
    assert thinned.nnz == 3 * 8 * 7
    assert (thinned != thinned.T).nnz == 0
    assert thin(graph, max_edges=10).nnz == 3 * 8 * 7  # the heaviest always stay
    assert thin(graph, max_edges=graph.nnz) is graph


def test_hyperedges_are_the_clusters_of_two_samples_or_more():
    found = clusters_of(read_heads([[0, 1, 0, 2], [5, 5, 9, 9]]))
    assert [edge.tolist() for edge in found] == [[0, 2], [0, 1], [2, 3]]


def dense_indicator(heads):
    return np.concatenate([np.eye(head.n_clusters)[head.codes] for head in heads], axis=1)


@pytest.fixture
def noisy_heads():
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 300)
    noisy = random.random((6, 300)) < 0.3
    return read_heads(np.where(noisy, random.integers(0, 4, (6, 300)), truth)), truth


def test_the_meta_graph_is_the_jaccard_similarity_in_percent(noisy_heads):
    heads, _ = noisy_heads
    graph = MetaGraph(heads)
    compare_heads(heads, graph.add)
    indicator = dense_indicator(heads)
    expected = np.zeros((24, 24))
    for a in range(24):
        for b in range(24):
            if a // 4 != b // 4:
                both = (indicator[:, a] * indicator[:, b]).sum()
                either = np.maximum(indicator[:, a], indicator[:, b]).sum()
                expected[a, b] = np.rint(100 * both / either)
    np.testing.assert_array_equal(graph.adjacency().toarray(), expected)


def test_mcla_gives_samples_to_the_meta_cluster_of_highest_association(noisy_heads):
    heads, truth = noisy_heads
    graph = MetaGraph(heads)
    compare_heads(heads, graph.add)
    parts = partition_graph(graph.adjacency(), 4, seed=1)
    members = np.eye(4)[parts]
    association = dense_indicator(heads) @ (members / members.sum(axis=0))
    labels = mcla(heads, graph, 4, seed=1)
    chosen = association[np.arange(300), labels]
    np.testing.assert_allclose(chosen, association.max(axis=1), atol=1e-5)
    assert max(np.mean(np.asarray(order)[labels] == truth) for order in _orders(4)) > 0.95


def _orders(n):
    from itertools import permutations

    return permutations(range(n))
