"""Graph labelings against dense linear algebra, scikit-learn and SciPy, and on uneven kinds."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import brentq
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import kinfold.methods._graph_labelings as module
from kinfold import GraphClustering, SphericalKMeans
from kinfold.methods._graph_labelings import (
    N_LABELINGS,
    count_parts,
    count_steps,
    diffuse,
    graph_labelings,
    local_weights,
    principal_components,
    random_walk,
    ward,
)
from kinfold.neighbors import NeighborGraph, knn_graph

X = make_blobs(90, centers=4, n_features=6, cluster_std=3.0, random_state=1)[0].astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def uneven(seed=1):
    """One kind of 900 samples and four of 60."""
    random = np.random.default_rng(seed)
    centers = 6 * unit(random.normal(size=(5, 16)))
    truth = np.repeat(np.arange(5), [900, 60, 60, 60, 60])
    return (centers[truth] + random.normal(size=(len(truth), 16))).astype(np.float32), truth


class TestLocalWeights:
    def test_solve_the_equation_of_umap_for_every_sample(self):
        graph = knn_graph(X, n_neighbors=12)
        k, directed = 7, np.zeros((len(X), len(X)))
        for row in range(len(X)):
            others = graph.neighbors(row)[:k]
            excess = 1 - graph.similarities[graph.indptr[row] :][:k].astype(float)
            excess -= excess.min()
            scale = brentq(lambda s, e=excess: np.exp(-e / s).sum() - np.log2(k), 1e-6, 10)
            directed[row, others] = np.exp(-excess / scale)
        expected = directed + directed.T - directed * directed.T
        np.testing.assert_allclose(local_weights(graph, k).toarray(), expected, atol=1e-4)

    def test_are_symmetric_at_most_1_and_zero_on_the_diagonal(self):
        weights = local_weights(knn_graph(X, n_neighbors=5), 10).toarray()
        np.testing.assert_allclose(weights, weights.T, rtol=1e-6)
        assert 0 < weights.max() <= 1
        assert not weights.diagonal().any()
        assert ((weights > 0).sum(axis=1) >= 5).all()

    def test_are_1_where_all_neighbours_are_equally_close(self):
        same = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
        weights = local_weights(knn_graph(same, n_neighbors=3)).toarray()
        np.testing.assert_array_equal(weights, np.kron(np.eye(2), 1 - np.eye(4)))

    def test_take_samples_without_neighbours(self):
        graph = NeighborGraph.from_lists([0, 1, 2, 2], [1, 0], [0.5, 0.5])
        walk = random_walk(local_weights(graph)).toarray()
        np.testing.assert_array_equal(walk, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


class TestDiffusion:
    def test_is_the_sum_over_all_steps_of_the_walk(self):
        walk = random_walk(local_weights(knn_graph(X, n_neighbors=6)))
        dense, restart = walk.toarray().astype(float), 0.3
        n_steps = count_steps(restart)
        powers = [np.linalg.matrix_power(dense, t) @ X for t in range(n_steps + 1)]
        expected = sum(restart * (1 - restart) ** t * power for t, power in enumerate(powers[:-1]))
        expected = expected + (1 - restart) ** n_steps * powers[-1]
        np.testing.assert_allclose(diffuse(X, walk, restart), unit(expected), atol=1e-5)

    def test_ends_when_a_tenth_of_the_weight_is_left(self):
        for restart in (0.02, 0.1, 0.5, 0.95):
            n_steps = count_steps(restart)
            assert (1 - restart) ** n_steps <= 0.1
            assert n_steps == 1 or (1 - restart) ** (n_steps - 1) > 0.1

    def test_columns_do_not_depend_on_how_many_go_at_once(self, monkeypatch):
        walk = random_walk(local_weights(knn_graph(X, n_neighbors=6)))
        whole = diffuse(X, walk, 0.1)
        monkeypatch.setattr(module, "_COLUMNS", 4)
        np.testing.assert_array_equal(diffuse(X, walk, 0.1), whole)

    def test_the_walk_keeps_its_weight_and_stays_within_connected_samples(self):
        apart = np.concatenate([X[:40], -X[:40]])
        walk = random_walk(local_weights(knn_graph(apart, n_neighbors=4)))
        np.testing.assert_allclose(np.asarray(walk.sum(axis=1)).ravel(), 1, rtol=1e-5)


class TestPrincipalComponents:
    def test_keep_what_scikit_learn_keeps(self):
        random = np.random.default_rng(0)
        rows = random.normal(size=(300, 5)) @ random.normal(size=(5, 40))  # five directions and a little more
        rows = unit(rows + 0.01 * random.normal(size=rows.shape)).astype(np.float32)
        found = principal_components(rows, 5, seed=0)
        expected = PCA(5, svd_solver="full").fit_transform(rows)
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=2e-3)

    def test_few_columns_stay_as_they_are_around_their_mean(self):
        np.testing.assert_allclose(principal_components(X, seed=0), unit(X) - unit(X).mean(axis=0), atol=1e-6)

    def test_a_row_without_direction_stays_at_zero(self):
        rows = np.concatenate([X, np.zeros((1, 6), np.float32)])
        found = principal_components(rows, seed=0)
        assert not found[-1].any()
        assert np.isfinite(found).all()


class TestWard:
    @pytest.mark.parametrize("n_clusters", [1, 2, 7, 90])
    def test_agrees_with_scipy_on_single_points(self, n_clusters):
        expected = fcluster(linkage(X, "ward"), n_clusters, "maxclust")
        assert adjusted_rand_score(ward(X, np.ones(len(X), int), n_clusters), expected) == 1

    @pytest.mark.parametrize("seed", range(5))
    def test_counts_a_point_as_often_as_its_size_says(self, seed):
        random = np.random.default_rng(seed)
        points, sizes = random.normal(size=(30, 3)), random.integers(1, 9, 30)
        repeated = np.repeat(points, sizes, axis=0)
        expected = AgglomerativeClustering(4).fit_predict(repeated)
        assert adjusted_rand_score(np.repeat(ward(points, sizes, 4), sizes), expected) == 1

    def test_leaves_out_points_that_stand_for_nobody(self):
        points = np.array([[0.0, 0], [0, 1], [50, 50], [9, 9], [9, 8]])
        labels = ward(points, np.array([1, 2, 0, 1, 1]), 2)
        assert labels[0] == labels[1] != labels[3] == labels[4]

    def test_numbers_clusters_without_gaps_in_the_order_of_their_points(self):
        labels = ward(X, np.ones(len(X), int), 6)
        first = [int(np.flatnonzero(labels == cluster)[0]) for cluster in range(6)]
        assert first == sorted(first)
        assert labels.max() == 5


class TestGraphLabelings:
    def test_are_the_same_for_the_same_seed_and_others_for_another(self):
        graph = knn_graph(X, n_neighbors=10)
        first, again, other = (graph_labelings(X, graph, 4, seed=seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert first.dtype == np.int32
        assert first.shape == (N_LABELINGS, len(X))

    @pytest.mark.parametrize("n_clusters", [1, 2, 44, 90])
    def test_take_any_number_of_clusters(self, n_clusters):
        found = graph_labelings(X, knn_graph(X, n_neighbors=10), n_clusters, seed=0)
        assert found.min() == 0
        assert found.max() < n_clusters

    def test_take_equal_rows_and_rows_without_direction(self):
        rows = np.concatenate([np.repeat(X[:3], 10, axis=0), np.zeros((2, 6), np.float32)])
        graph = knn_graph(rows, n_neighbors=4, zero_rows="isolate")
        found = graph_labelings(rows, graph, 3, seed=0)
        for labels in found:
            assert len(set(labels[:10])) == len(set(labels[10:20])) == len(set(labels[20:30])) == 1

    def test_are_fewer_where_each_takes_minutes(self, monkeypatch):
        monkeypatch.setattr(module, "_MANY_PAIRS", 100)
        found = graph_labelings(X, knn_graph(X, n_neighbors=10), 4, seed=0)
        assert len(found) == 2 * len(module.RESTARTS)

    def test_ward_has_at_least_two_parts_for_each_cluster_or_is_left_out(self):
        assert count_parts(10_000, 10) == 150
        assert count_parts(10_000, 100) == 1_000
        assert count_parts(10**7, 900) == 2_000
        assert count_parts(10**7, 1_001) == 0
        assert count_parts(100, 20) == 0

    def test_find_a_large_kind_and_small_ones_where_k_means_cuts_up_the_large_one(self):
        rows, truth = uneven()
        by_graph = GraphClustering(n_clusters=5, random_state=0).fit(rows).labels_
        by_centroids = SphericalKMeans(n_clusters=5, random_state=0).fit(rows).labels_
        assert adjusted_rand_score(truth, by_graph) > 0.98
        assert adjusted_rand_score(truth, by_centroids) < 0.7
