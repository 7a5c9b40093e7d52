import json
from types import SimpleNamespace

import numpy as np
import pytest

from kinfold import ICCE, TEMI, SphericalKMeans
from kinfold.errors import InputError
from kinfold.methods import Criteria, _criteria, assess, neighbor_agreement
from kinfold.methods._criteria import weigh_agreement
from kinfold.methods._heads import agreements
from kinfold.methods._rows import draw_rows
from kinfold.metrics import normalized_mutual_info
from kinfold.neighbors import NeighborGraph, closest_rows, knn_graph

QUICK = {"n_heads": 3, "n_epochs": 3, "random_state": 0}


def blobs(n=120, k=3, dim=8, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(n) % k
    return (random.normal(size=(k, dim))[truth] + 0.3 * random.normal(size=(n, dim))).astype(np.float32)


def naive_agreement(graph, labels, rows, n_closest=10):
    hits = [
        labels[row] == labels[other] for row in rows for other in graph.neighbors(row)[:n_closest].tolist()
    ]
    chance = sum(np.mean(labels == label) ** 2 for label in set(labels.tolist()))
    return (np.mean(hits) - chance) / (1 - chance)


@pytest.mark.parametrize("rows", [None, np.array([3, 4, 50, 119])])
@pytest.mark.parametrize("n_neighbors", [4, 15])
def test_neighbor_agreement_is_the_naive_count_less_chance(rows, n_neighbors):
    X = blobs()
    labels = np.random.default_rng(1).integers(0, 4, len(X)).astype(np.int32)
    labels[:60] = np.arange(60) % 3
    graph = knn_graph(X, n_neighbors)
    expected = naive_agreement(graph, labels, range(len(X)) if rows is None else rows)
    assert neighbor_agreement(graph, labels, rows) == pytest.approx(expected, abs=1e-12)


def test_neighbor_agreement_of_uneven_lists_counts_every_neighbour_once():
    graph = NeighborGraph.from_lists(np.array([0, 2, 2, 3, 5]), np.array([1, 2, 0, 0, 2]))
    labels = np.array([0, 0, 1, 0])
    expected = naive_agreement(graph, labels, range(4))
    assert neighbor_agreement(graph, labels) == pytest.approx(expected, abs=1e-12)


def test_neighbor_agreement_is_one_for_pure_neighbours_and_nothing_for_one_cluster():
    graph = NeighborGraph.from_lists(np.arange(5), np.array([1, 0, 3, 2]))
    assert neighbor_agreement(graph, np.array([0, 0, 1, 1])) == 1.0
    assert neighbor_agreement(graph, np.zeros(4, np.int32)) == 0.0
    assert neighbor_agreement(graph, np.array([0, 1, 0, 1])) == -1.0


def test_without_any_neighbour_there_is_no_agreement():
    nobody = NeighborGraph.from_lists(np.zeros(5, np.int64), np.zeros(0, np.int32))
    assert neighbor_agreement(nobody, np.array([0, 0, 1, 1])) == 0.0


def test_heads_are_judged_by_losses_and_by_every_pair():
    X = blobs()
    model = TEMI(n_clusters=3, **QUICK).fit(X)
    found = assess(model, X, graph=knn_graph(X, 10))
    heads = model.head_labels_
    pairs = [
        normalized_mutual_info(heads[a], heads[b], average_method="geometric")
        for a in range(3)
        for b in range(a)
    ]
    to_labels = [normalized_mutual_info(model.labels_, head, average_method="geometric") for head in heads]
    assert found.head_nmi == pytest.approx(np.mean(pairs), abs=1e-9)
    assert found.consensus_nmi == pytest.approx(np.mean(to_labels), abs=1e-9)
    assert found.best_head_loss == model.head_losses_.min()
    assert found.mean_head_loss == pytest.approx(float(model.head_losses_.mean()), abs=1e-6)


def test_a_consensus_is_judged_by_its_own_agreement_with_the_heads():
    X = blobs()
    model = ICCE(n_clusters=3, self_training_iterations=20, **QUICK).fit(X)
    to_heads = [
        normalized_mutual_info(model.consensus_labels_, head, average_method="geometric")
        for head in model.head_labels_
    ]
    assert assess(model, X).consensus_nmi == pytest.approx(np.mean(to_heads), abs=1e-9)


def test_a_method_without_heads_is_judged_by_its_labels_alone():
    X = blobs()
    model = SphericalKMeans(n_clusters=4, random_state=0).fit(X)
    found = assess(model, X)
    sizes = np.bincount(model.labels_)
    assert (found.live_clusters, found.n_clusters) == (4, 4)
    assert found.largest_share == sizes.max() / len(X)
    assert 0.5 < found.cross_validated_accuracy <= 1
    assert {found.best_head_loss, found.mean_head_loss, found.head_nmi, found.consensus_nmi} == {None}
    assert Criteria(**json.loads(json.dumps(found.as_dict()))) == found


def test_neighbours_are_found_where_no_graph_is_given():
    X = blobs()
    model = SphericalKMeans(n_clusters=5, random_state=0).fit(X)
    assert assess(model, X) == assess(model, X, graph=knn_graph(X, 10))


def test_of_huge_data_fewer_rows_are_looked_at(monkeypatch):
    looked = []

    def look(X, rows, *more, **options):
        looked.append(len(rows))
        return closest_rows(X, rows, *more, **options)

    monkeypatch.setattr(_criteria, "closest_rows", look)
    monkeypatch.setattr(_criteria, "_FEWEST_ROWS", 20)
    X = blobs()
    model = SphericalKMeans(n_clusters=3, random_state=0).fit(X)
    for products in (10**12, 50 * X.size, 1):
        monkeypatch.setattr(_criteria, "_SEARCH_PRODUCTS", products)
        assess(model, X)
    assert looked == [120, 50, 20]


def test_of_many_rows_the_same_few_are_looked_at():
    X = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    model = TEMI(n_clusters=3, **QUICK).fit(X)
    graph = knn_graph(X, 12)
    found = assess(model, X, graph=graph, max_rows=90, seed=3)
    rows = draw_rows(400, 90, 3)
    assert len(set(rows.tolist())) == 90
    assert found == assess(model, X, graph=graph, max_rows=90, seed=3)
    assert found.neighbor_agreement == pytest.approx(naive_agreement(graph, model.labels_, rows), abs=1e-12)
    assert assess(model, X, max_rows=90, seed=3) == found
    assert found.largest_share == np.bincount(model.labels_).max() / 400


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_samples_can_be_judged(n):
    X = blobs(n)
    model = SphericalKMeans(n_clusters=1, random_state=0).fit(X)
    found = assess(model, X)
    assert found.neighbor_agreement == 0.0
    assert found.cross_validated_accuracy == 1.0


def test_equal_rows_and_rows_without_direction_can_be_judged():
    for X in (np.ones((30, 4), np.float32), np.zeros((30, 4), np.float32)):
        labels = (np.arange(30) % 2).astype(np.int32)
        found = assess(SimpleNamespace(labels_=labels, n_clusters=3), X)
        assert found.live_clusters == 2
        assert found.collapsed
        assert np.isfinite(found.neighbor_agreement)
        assert np.isfinite(found.cross_validated_accuracy)


def test_many_dead_clusters_and_giants_are_a_collapse_and_few_are_none():
    assert not Criteria(4, 4, 0.3, 0.5, 0.9).collapsed
    assert not Criteria(2, 2, 0.8, 0.9, 0.9).collapsed
    assert not Criteria(10, 9, 0.3, 0.9, 0.9).collapsed
    assert Criteria(10, 8, 0.3, 0.9, 0.9).collapsed
    assert Criteria(4, 3, 0.3, 0.9, 0.9).collapsed
    assert Criteria(10, 10, 0.6, 0.9, 0.9).collapsed


def test_no_rows_at_all_are_refused():
    model = SimpleNamespace(labels_=np.zeros(4, np.int32), n_clusters=1)
    with pytest.raises(InputError, match="max_rows"):
        assess(model, blobs(4), max_rows=0)


def test_a_dead_cluster_counts_by_its_share_of_all():
    graph = knn_graph(blobs(396, k=9, dim=6), 10)
    merged = (np.arange(396) % 9).astype(np.int32)
    labels = np.where((merged == 8) & (np.arange(396) % 2), 9, merged)  # one kind cut at random
    plain = [neighbor_agreement(graph, one) for one in (labels, merged)]
    weighed = agreements(graph, [labels, merged], 10)
    assert plain[1] > plain[0]  # merging alone raises agreement
    np.testing.assert_allclose(weighed, [plain[0], 0.9 * plain[1]])
    assert weigh_agreement(-0.2, 1, 10) == -0.2  # below chance it does not get better


def test_what_was_not_fitted_on_these_samples_is_not_judged():
    X = np.random.default_rng(0).normal(size=(40, 4))
    fitted = SphericalKMeans(n_clusters=2, random_state=0).fit(X)
    with pytest.raises(InputError, match="no labels_"):
        assess(SphericalKMeans(n_clusters=2), X)
    with pytest.raises(InputError, match="fitted on 40 samples, but X has 10"):
        assess(fitted, X[:10])
    with pytest.raises(InputError, match="graph has 30 samples"):
        assess(fitted, X, graph=knn_graph(X[:30], 3))
