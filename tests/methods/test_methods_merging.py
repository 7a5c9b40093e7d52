"""Claims about trees of groups: what joins, in which order, and how a tree is cut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from kinfold.errors import InputError
from kinfold.methods import MergeTree, contract, join_clusters
from kinfold.methods._merging import join_by_variance


def blocks_graph(sizes=(4, 3, 5), between=0.01, seed=0):
    """Return a dense graph of blocks that weak edges connect, and the block of every node."""
    random = np.random.default_rng(seed)
    block = np.repeat(np.arange(len(sizes)), sizes)
    weights = np.where(block[:, None] == block, 1.0, between) * random.uniform(0.9, 1.1, (len(block),) * 2)
    weights = np.triu(weights, 1)
    return weights + weights.T, block


def join_naively(weights):
    """Return the merges and similarities of the definition, every pair looked at anew."""
    weights = weights / weights.sum()
    groups = {node: [node] for node in range(len(weights))}
    merges, similarities = [], []
    while len(groups) > 1:
        best = None
        for a in groups:
            for b in groups:
                if a < b:
                    between = weights[np.ix_(groups[a], groups[b])].sum()
                    volumes = weights[groups[a]].sum() * weights[groups[b]].sum()
                    found = between / volumes
                    if best is None or found > best[0] * (1 + 1e-9):
                        best = found, a, b
        value, a, b = best
        groups[len(weights) + len(merges)] = groups.pop(a) + groups.pop(b)
        merges.append((a, b))
        similarities.append(value)
    return merges, similarities


def test_clusters_join_as_the_definition_says():
    weights, _ = blocks_graph()
    tree = join_clusters(sparse.csr_matrix(weights), np.eye(len(weights)))
    merges, similarities = join_naively(weights)
    assert [tuple(sorted(pair)) for pair in tree.merges.tolist()] == merges
    np.testing.assert_allclose(tree.similarities, similarities)
    assert np.all(np.diff(tree.similarities) <= 1e-12)


def test_a_cut_finds_the_blocks_of_a_graph():
    weights, block = blocks_graph()
    tree = join_clusters(sparse.csr_matrix(weights), np.eye(len(weights)))
    assert adjusted_rand_score(tree.cut(3), block) == 1
    assert tree.cut(1).tolist() == [0] * len(block)
    assert tree.cut(len(block)).tolist() == list(range(len(block)))


def test_what_no_edge_joins_is_joined_by_direction():
    weights, _ = blocks_graph((3, 3, 3), between=0.0)
    directions = np.repeat([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], 3, axis=0)
    tree = join_clusters(sparse.csr_matrix(weights), directions)
    assert tree.cut(2).tolist() == [0] * 6 + [1] * 3
    assert tree.similarities[-2:].tolist() == [0, 0]


def test_cuts_nest():
    weights, _ = blocks_graph((6, 6, 6, 6), between=0.3, seed=1)
    tree = join_clusters(sparse.csr_matrix(weights), np.eye(len(weights)))
    for k in range(1, len(weights)):
        coarse, fine = tree.cut(k), tree.cut(k + 1)
        assert len(np.unique(fine)) == k + 1
        assert len({(a, b) for a, b in zip(fine, coarse, strict=True)}) == k + 1


@pytest.mark.parametrize("k", [0, 6])
def test_a_cut_that_the_tree_lacks_is_refused(k):
    tree = MergeTree(np.array([[0, 1], [2, 3], [5, 6], [4, 7]], np.int32), np.ones(4))
    with pytest.raises(InputError, match="1 to 5 groups"):
        tree.cut(k)


def test_one_cluster_is_a_tree():
    tree = join_clusters(sparse.csr_matrix((1, 1)), np.ones((1, 2)))
    assert (tree.n_leaves, tree.cut(1).tolist()) == (1, [0])


def test_contracted_weights_are_sums_over_pairs():
    weights, _ = blocks_graph()
    members = np.array([0, 0, 1, 1, 2, 2, 2, 0, 1, 2, 0, 1])
    onehot = np.eye(3)[members]
    found = contract(sparse.csr_matrix(weights), members, 3).toarray()
    np.testing.assert_allclose(found, onehot.T @ weights @ onehot)


def test_ward_of_single_samples_is_scipys():
    X = np.random.default_rng(3).normal(size=(60, 4))
    tree = join_by_variance(X, np.ones(60, dtype=np.int64))
    peer = linkage(X, "ward")
    # scipy's height squared is twice what the union adds to the sum of squares.
    np.testing.assert_allclose(-tree.similarities, peer[:, 2] ** 2 / 2, rtol=1e-9)
    for k in (2, 5, 17):
        assert adjusted_rand_score(tree.cut(k), fcluster(peer, k, "maxclust")) == 1
