"""Claims about the consensus as a whole, and about its graphs and how they are cut, against dense arrays."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from scipy import sparse

import kinfold
from kinfold.consensus import METHODS, consensus, ensemble, mean_nmi
from kinfold.consensus.ensemble import (
    MetaGraph,
    clusters_of,
    co_association,
    mcla,
    partition_graph,
    partition_hypergraph,
    thin,
)
from kinfold.consensus.labelings import compare_heads, read_heads
from kinfold.errors import InputError
from kinfold.metrics import clustering_accuracy
from support.torchrun import run_together

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
    assert list(values) == ["best head", "cspa", "hgpa", "mcla", "alignment"]
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
    monkeypatch.setattr(ensemble, "MAX_CSPA_SAMPLES", 10)
    monkeypatch.setattr(ensemble, "MAX_PINS", 10)
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


@pytest.mark.parametrize("partitioner", ["pymetis", "mtkahypar"])
def test_parts_are_of_one_size_by_what_nodes_weigh(partitioner, monkeypatch):
    if partitioner == "mtkahypar":
        monkeypatch.setitem(sys.modules, "pymetis", None)
    path = sparse.diags([np.ones(8, np.int32)] * 2, [-1, 1], format="csr", dtype=np.int32)
    plain, weighted = (
        partition_graph(path, 2, seed=0, node_weights=weights)
        for weights in (None, np.array([1, 1, 1, 1, 1, 1, 1, 1, 8]))
    )
    assert sorted(np.bincount(plain)) == [4, 5]
    assert np.flatnonzero(weighted == weighted[-1]).tolist() == [8]


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


def test_weighted_mcla_cuts_the_meta_graph_by_the_sizes_of_clusters(noisy_heads):
    heads, _ = noisy_heads
    graph = MetaGraph(heads)
    compare_heads(heads, graph.add)
    sizes = dense_indicator(heads).sum(axis=0)
    np.testing.assert_array_equal(graph.sizes(), sizes)
    parts = partition_graph(graph.adjacency(), 4, 1, sizes.astype(int))
    members = np.eye(4)[parts]
    association = dense_indicator(heads) @ (members / members.sum(axis=0))
    labels = mcla(heads, graph, 4, 1, weighted=True)
    np.testing.assert_allclose(association[np.arange(300), labels], association.max(axis=1), atol=1e-5)


def test_mcla_keeps_kinds_of_uneven_sizes_and_weighted_mcla_evens_them_out():
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(6), [800, 400, 200, 100, 50, 50])
    noisy = random.random((12, 1600)) < 0.3
    heads = np.where(noisy, random.integers(0, 6, (12, 1600)), truth)
    plain, weighted = (
        consensus(heads, n_clusters=6, method=method, random_state=0).labels
        for method in ("mcla", "weighted-mcla")
    )
    assert clustering_accuracy(truth, plain) > 0.98
    assert clustering_accuracy(truth, weighted) < 0.9
    assert np.bincount(weighted).max() < np.bincount(plain).max()


def _orders(n):
    from itertools import permutations

    return permutations(range(n))
