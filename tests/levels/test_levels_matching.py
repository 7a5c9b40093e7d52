"""Claims about which groups of two levels hold the same samples."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.levels import Levels, match_groups
from kinfold.methods import MergeTree

# Clusters 0 and 2 of three live; 1 has no samples. Parts 0, 1 are of cluster 0, parts 2, 3, 4 of cluster 2.
TREE = MergeTree(np.array([[2, 3], [0, 1], [4, 5], [6, 7]], np.int32), np.array([4.0, 3.0, 2.0, 1.0]))
LEVELS = Levels(3, np.array([0, 0, 2, 2, 2], np.int32), np.full(5, 7), np.eye(5, dtype=np.float32), TREE)


@pytest.mark.parametrize("first", range(1, 6))
@pytest.mark.parametrize("second", range(1, 6))
def test_groups_match_whose_parts_are_the_same(first, second):
    found = match_groups(LEVELS, first, second)
    ours, theirs = LEVELS.groups(first), LEVELS.groups(second)
    for group in np.unique(ours).tolist():
        mine = set(np.flatnonzero(ours == group))
        holders = [b for b in np.unique(theirs).tolist() if mine <= set(np.flatnonzero(theirs == b))]
        equal = [b for b in holders if mine == set(np.flatnonzero(theirs == b))]
        assert [found.within[group]] if group in found.within else holders == []
        assert ([found.same[group]] if group in found.same else []) == equal


def test_empty_clusters_of_the_fit_are_the_same_where_levels_have_them():
    assert match_groups(LEVELS, 3, 5).same[1] == 1
    assert 1 not in match_groups(LEVELS, 3, 1).same
    # Of the coarser level, number 0 is all there is.
    assert match_groups(LEVELS, 1, 3).same == {}


class Predicting:
    """A model of three clusters that takes rows for probabilities."""

    n_clusters_ = 3

    def predict_proba(self, X):
        return np.asarray(X[:, :3], np.float32)


def test_images_closest_to_an_empty_cluster_go_to_the_next_that_has_parts():
    X = np.array([[0.1, 0.7, 0.2, 0.0, 0.5], [0.3, 0.6, 0.1, 0.0, 0.0]], np.float32)
    parts = LEVELS.predict_parts(Predicting(), X)
    assert LEVELS.part_clusters[parts].tolist() == [2, 0]
    assert LEVELS.groups(5)[parts].tolist() == LEVELS.top(Predicting(), X, 5).clusters[:, 0].tolist()
    assert LEVELS.predict_parts(Predicting(), X[:0]).shape == (0,)
