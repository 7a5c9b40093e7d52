from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from kinfold.errors import InputError
from kinfold.metrics import (
    alignment,
    confidence_histogram,
    davies_bouldin,
    geometry,
    neighbor_purity,
    neighbor_purity_by_threshold,
    neighbors,
    silhouette,
)
from kinfold.neighbors import knn_graph
from support import naive_metrics as naive

some = settings(max_examples=40, deadline=None)


@st.composite
def points(draw, max_samples=25):
    """Draw rows on a small grid, so that many are the same, and labels of two clusters or more."""
    n = draw(st.integers(3, max_samples))
    rows = draw(st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=n, max_size=n))
    labels = draw(
        st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(lambda some: 1 < len(set(some)) < n)
    )
    return np.array(rows, float), labels


@some
@given(points())
def test_the_silhouette_of_all_equals_scikit_learns_and_the_naive_one(made):
    X, labels = made
    found = silhouette(X, labels, n_judged=None)
    assert found.value == pytest.approx(sk.silhouette_score(X, labels), abs=1e-6)
    assert found.value == pytest.approx(np.mean(naive.silhouettes(X, labels)), abs=1e-6)
    assert (found.standard_error, found.n_judged) == (0.0, len(X))


@some
@given(points())
def test_davies_bouldin_equals_scikit_learns(made):
    X, labels = made
    centres = np.array([X[np.array(labels) == label].mean(axis=0) for label in sorted(set(labels))])
    apart = np.linalg.norm(centres[:, None] - centres, axis=2)[~np.eye(len(centres), dtype=bool)]
    assume((apart > 1e-6).all())  # neither side can tell rounding from a distance
    assert davies_bouldin(*made) == pytest.approx(sk.davies_bouldin_score(*made), abs=1e-9)


def test_clusters_around_one_point_are_not_worse_than_any_others():
    X = np.array([[-2.0, -1], [-2, -1], [-2, -1], [1, 0], [2, 2], [0, 2], [-1, 0], [-2, -2]])
    labels = [0, 1, 2, 3, 4, 3, 4, 0]
    assert davies_bouldin(X, labels) == pytest.approx(sk.davies_bouldin_score(X, labels))
    assert davies_bouldin(X[:, :1] * 0, labels) == 0.0


def blobs(n=1200, dtype=np.float32):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, n)
    return (rng.normal(0, 3, (8, 16))[labels] + rng.normal(0, 2, (n, 16)) + 50).astype(dtype), labels


def test_blocks_change_nothing(monkeypatch):
    X, labels = blobs()
    whole = silhouette(X, labels, n_judged=None).value, davies_bouldin(X, labels)
    monkeypatch.setattr(geometry, "_BLOCK_BYTES", 30_000)
    monkeypatch.setattr(geometry, "_JUDGED_AT_ONCE", 7)
    assert (silhouette(X, labels, n_judged=None).value, davies_bouldin(X, labels)) == pytest.approx(
        whole, abs=1e-9
    )
    assert whole == pytest.approx(
        (sk.silhouette_score(X, labels), sk.davies_bouldin_score(X, labels)), abs=1e-5
    )


def test_a_sample_of_judges_tells_the_whole_within_its_error(tmp_path):
    X, labels = blobs(3000)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    truth = silhouette(X, labels, n_judged=None).value
    found = silhouette(mapped, labels, n_judged=500, random_state=3)
    assert found.n_judged == 500
    assert 0 < found.standard_error < 0.02
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found == silhouette(X, labels, n_judged=500, random_state=3)


@pytest.mark.parametrize("measure", [davies_bouldin, silhouette])
def test_geometry_refuses_what_has_none(measure):
    with pytest.raises(InputError, match="two clusters or more, not 1"):
        measure(np.zeros((3, 2)), [0, 0, 0])
    with pytest.raises(InputError, match="3 labels"):
        measure(np.zeros((4, 2)), [0, 1, 0])
    with pytest.raises(InputError, match="row 1 of X is not finite"):
        measure(np.array([[0.0], [np.nan], [1.0]]), [0, 1, 0])


def test_a_silhouette_needs_a_cluster_of_two_and_a_judge():
    with pytest.raises(InputError, match="every one of the 3 samples"):
        silhouette(np.eye(3), [0, 1, 2])
    with pytest.raises(InputError, match="n_judged"):
        silhouette(np.eye(3), [0, 1, 1], n_judged=0)


@st.composite
def neighborhoods(draw):
    n = draw(st.integers(2, 15))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    lists = [
        draw(st.lists(st.integers(0, n - 1).filter(lambda j, i=i: j != i), max_size=6, unique=True))
        for i in range(n)
    ]
    similarities = [
        sorted(
            draw(
                st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0]), min_size=len(near), max_size=len(near))
            ),
            reverse=True,
        )
        for near in lists
    ]
    return labels, lists, similarities


class Lists:
    """What a neighbour graph is to the metrics."""

    def __init__(self, lists, similarities):
        self.indptr = np.cumsum([0, *map(len, lists)])
        self.indices = np.array([j for near in lists for j in near], dtype=np.int32)
        self.similarities = np.array([s for near in similarities for s in near], dtype=np.float32)


@some
@given(neighborhoods(), st.lists(st.integers(1, 8), min_size=1, max_size=4))
def test_purity_by_k_is_the_share_of_pairs_of_one_class(made, ks):
    labels, lists, similarities = made
    found = neighbor_purity(labels, Lists(lists, similarities), ks=ks)
    for k, purity, n_pairs, degree in zip(ks, found.purities, found.n_pairs, found.mean_degrees, strict=True):
        alike = [labels[i] == labels[j] for i, near in enumerate(lists) for j in near[:k]]
        assert (n_pairs, degree) == (len(alike), len(alike) / len(labels))
        assert purity == pytest.approx(np.mean(alike) if alike else np.nan, nan_ok=True)
    matrix = np.full((len(lists), 6), -1)
    for i, near in enumerate(lists):
        matrix[i, : len(near)] = near
    np.testing.assert_array_equal(neighbor_purity(labels, matrix, ks=ks).purities, found.purities)


@some
@given(
    neighborhoods(), st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 2.0]), min_size=1, max_size=4)
)
def test_purity_by_threshold_counts_pairs_at_least_so_similar(made, thresholds):
    labels, lists, similarities = made
    found = neighbor_purity_by_threshold(labels, Lists(lists, similarities), thresholds)
    for bound, purity, n_pairs in zip(thresholds, found.purities, found.n_pairs, strict=True):
        alike = [
            labels[i] == labels[j]
            for i, (near, close) in enumerate(zip(lists, similarities, strict=True))
            for j, s in zip(near, close, strict=True)
            if s >= bound
        ]
        assert n_pairs == len(alike)
        assert purity == pytest.approx(np.mean(alike) if alike else np.nan, nan_ok=True)


@some
@given(neighborhoods(), st.integers(0, 99))
def test_alignment_is_the_mean_squared_distance_of_neighbours_of_one_class(made, seed):
    labels, lists, similarities = made
    X = np.random.default_rng(seed).normal(size=(len(labels), 3))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    apart = [
        ((unit[i] - unit[j]) ** 2).sum()
        for i, near in enumerate(lists)
        for j in near
        if labels[i] == labels[j]
    ]
    found = alignment(X, labels, Lists(lists, similarities))
    assert found == pytest.approx(np.mean(apart) if apart else np.nan, nan_ok=True)


def test_a_graph_of_ours_is_measured_in_blocks_as_in_one(monkeypatch):
    X, labels = blobs(400)
    X = X - 50
    graph = knn_graph(X, 10, device="cpu", precision="float32")
    whole = alignment(X, labels, graph), neighbor_purity(labels, graph, ks=(1, 10)).purities.tolist()
    monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", 33)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 500)
    again = alignment(X, labels, graph), neighbor_purity(labels, graph, ks=(1, 10)).purities.tolist()
    assert again == (pytest.approx(whole[0]), whole[1])
    alike = labels[np.repeat(np.arange(400), 10)] == labels[graph.indices]
    assert whole[0] == pytest.approx(2 - 2 * graph.similarities[alike].mean(), abs=1e-5)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: neighbor_purity([0, 1], [[1], [0]], ks=(0,)), "ks must be"),
        (lambda: neighbor_purity([0, 1], [[1], [0]], ks=(1.5,)), "ks must be"),
        (lambda: neighbor_purity([0, 1], [[1], [2]]), "no row number below 2"),
        (lambda: neighbor_purity([0, 1, 1], [[1], [0]]), "3 labels, but neighbours of 2"),
        (lambda: neighbor_purity([0, 1], [[0.5], [1]]), "matrix of row numbers"),
        (lambda: neighbor_purity_by_threshold([0, 1], [[1], [0]], [0.5]), "must have similarities"),
        (lambda: neighbor_purity_by_threshold([0, 1], [[1], [0]], [np.nan]), "list of numbers"),
        (lambda: alignment(np.eye(3), [0, 1], [[1], [0]]), r"shape \(3, 3\)"),
        (lambda: alignment([[0.0], [1.0]], [0, 0], [[1], [0]]), "row 0 of X is all zero"),
    ],
)
def test_unusable_neighbours_are_refused_in_words(run, words):
    with pytest.raises(InputError, match=words):
        run()


@some
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 12))
def test_the_histogram_counts_every_confidence_once(confidences, n_bins):
    found = confidence_histogram(confidences, n_bins=n_bins)
    for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == sum(low < c <= high or (low == 0 == c) for c in confidences)
    assert found.shares.sum() == pytest.approx(1)
    assert found.mean == pytest.approx(np.mean(confidences))
