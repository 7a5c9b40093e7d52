"""Claims about trees of groups: what joins, in which order, and how a tree is cut."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from kinfold.errors import InputError
from kinfold.methods import MergeTree, join_by_variance


def test_cuts_nest():
    X = np.random.default_rng(1).normal(size=(40, 3))
    tree = join_by_variance(X, np.ones(40, dtype=np.int64))
    for k in range(1, 40):
        coarse, fine = tree.cut(k), tree.cut(k + 1)
        assert len(np.unique(fine)) == k + 1
        assert len({(a, b) for a, b in zip(fine, coarse, strict=True)}) == k + 1


@pytest.mark.parametrize("k", [0, 6])
def test_a_cut_that_the_tree_lacks_is_refused(k):
    tree = MergeTree(np.array([[0, 1], [2, 3], [5, 6], [4, 7]], np.int32), np.ones(4))
    with pytest.raises(InputError, match="1 to 5 groups"):
        tree.cut(k)


def test_one_cluster_is_a_tree():
    tree = join_by_variance(np.ones((1, 2)), np.array([3]))
    assert (tree.n_leaves, tree.cut(1).tolist()) == (1, [0])


def test_a_point_of_many_samples_joins_like_its_copies():
    X = np.random.default_rng(5).normal(size=(12, 3))
    sizes = np.random.default_rng(6).integers(1, 5, 12)
    copies = join_by_variance(np.repeat(X, sizes, axis=0), np.ones(sizes.sum(), dtype=np.int64))
    once = join_by_variance(X, sizes)
    for k in range(1, 13):
        assert adjusted_rand_score(copies.cut(k), np.repeat(once.cut(k), sizes)) == 1


def test_ward_of_single_samples_is_scipys():
    X = np.random.default_rng(3).normal(size=(60, 4))
    tree = join_by_variance(X, np.ones(60, dtype=np.int64))
    peer = linkage(X, "ward")
    # scipy's height squared is twice what the union adds to the sum of squares.
    np.testing.assert_allclose(-tree.similarities, peer[:, 2] ** 2 / 2, rtol=1e-9)
    for k in (2, 5, 17):
        assert adjusted_rand_score(tree.cut(k), fcluster(peer, k, "maxclust")) == 1
