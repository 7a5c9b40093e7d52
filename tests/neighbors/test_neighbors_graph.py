"""Claims about saving and opening graphs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError
from kinfold.neighbors import NeighborGraph, knn_graph, same_label_graph
from kinfold.neighbors import graph as graph_module


@pytest.fixture
def graph():
    X = np.random.default_rng(0).normal(size=(80, 6))
    return knn_graph(X, 4, threshold=0.5, max_neighbors=9)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_saved_graph_opens_as_it_was(tmp_path, graph, mmap):
    graph.save(tmp_path / "g")
    NeighborGraph.verify(tmp_path / "g")
    opened = NeighborGraph.open(tmp_path / "g", mmap=mmap)
    assert isinstance(opened.indices, np.memmap) == mmap
    assert opened.fingerprint() == graph.fingerprint()
    assert opened.describe() == graph.describe()
    assert (opened.indptr.dtype, opened.indices.dtype, opened.similarities.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )


def test_saving_again_replaces_the_graph(tmp_path, graph):
    graph.save(tmp_path / "g")
    other = knn_graph(np.eye(5), 2)
    other.save(tmp_path / "g")
    assert NeighborGraph.open(tmp_path / "g").fingerprint() == other.fingerprint()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]


def test_saving_over_something_else_is_refused_and_leaves_it(tmp_path, graph):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(InputError, match="not a neighbour graph"):
        graph.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").read_text() == "x"


def test_an_empty_graph_is_saved_and_opened(tmp_path):
    knn_graph([[1.0]], 3).save(tmp_path / "g")
    opened = NeighborGraph.open(tmp_path / "g")
    assert (opened.n_samples, opened.n_edges, opened.mean_degree) == (1, 0, 0.0)


def test_a_newer_format_is_refused(tmp_path, graph):
    graph.save(tmp_path / "g")
    facts = json.loads((tmp_path / "g" / "graph.json").read_text())
    (tmp_path / "g" / "graph.json").write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(FormatError, match="update Kinfold"):
        NeighborGraph.open(tmp_path / "g")


@pytest.mark.parametrize("name", ["indptr.npy", "indices.npy", "similarities.npy"])
def test_a_missing_cut_or_altered_file_is_named(tmp_path, graph, name):
    file = tmp_path / "g" / name
    graph.save(tmp_path / "g")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FormatError, match=name):
        NeighborGraph.verify(tmp_path / "g")
    file.write_bytes(whole[:-40])
    with pytest.raises(FormatError, match=name):
        NeighborGraph.open(tmp_path / "g")
    file.unlink()
    with pytest.raises(FormatError, match=name):
        NeighborGraph.open(tmp_path / "g")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "other"}', '{"format": "kinfold-neighbors", "format_version": 1}']
)
def test_a_foreign_or_damaged_description_is_refused(tmp_path, graph, content):
    graph.save(tmp_path / "g")
    (tmp_path / "g" / "graph.json").write_text(content)
    with pytest.raises(FormatError, match=r"graph\.json"):
        NeighborGraph.open(tmp_path / "g")


def test_a_folder_without_a_graph_is_refused(tmp_path):
    with pytest.raises(FormatError, match="not a neighbour graph"):
        NeighborGraph.open(tmp_path)


def test_a_row_out_of_range_is_refused(graph):
    with pytest.raises(InputError, match="row 80"):
        graph.neighbors(80)


def test_own_pairs_become_a_graph_of_sorted_rows():
    graph = NeighborGraph.from_lists(
        [0, 2, 2, 4], [2, 1, 0, 1], [0.25, 0.5, -1, 1], parameters={"from": "me"}
    )
    assert graph.indices.tolist() == [1, 2, 1, 0]
    assert graph.similarities.tolist() == [0.5, 0.25, 1, -1]
    assert (graph.indptr.dtype, graph.indices.dtype, graph.similarities.dtype) == (
        np.int64,
        np.int32,
        np.float32,
    )
    assert graph.degrees.tolist() == [2, 0, 2]
    assert graph.describe()["from"] == "me"


def test_own_pairs_without_similarities_are_all_alike(tmp_path):
    graph = NeighborGraph.from_lists(np.array([0, 2, 3, 3]), np.array([2, 1, 0], dtype=np.uint8))
    assert graph.indices.tolist() == [1, 2, 0]
    assert graph.similarities.tolist() == [1, 1, 1]
    graph.save(tmp_path / "g")
    assert NeighborGraph.open(tmp_path / "g").fingerprint() == graph.fingerprint()


def test_a_found_graph_passes_as_own_pairs_unchanged(graph):
    assert (
        NeighborGraph.from_lists(graph.indptr, graph.indices, graph.similarities).fingerprint()
        == graph.fingerprint()
    )


@pytest.mark.parametrize(
    ("indptr", "indices", "similarities", "message"),
    [
        ([0, 1, 3], [1, 0], None, "rise from 0"),
        ([0, 2, 1, 2], [1, 0], None, "rise from 0"),
        ([1, 1, 2], [1, 0], None, "rise from 0"),
        ([0], [], None, "rise from 0"),
        ([0, 1, 2], [1, 2], None, "row 1 has a neighbour that is not among the 2"),
        ([0, 1, 2], [-1, 0], None, "row 0 has a neighbour"),
        ([0, 1, 2], [1, 1], None, "row 1 is its own neighbour"),
        ([0, 1, 3, 3], [1, 2, 2], None, "row 1 has the neighbour 2 twice"),
        ([0, 1, 2], [1.0, 0.0], None, "integers"),
        ([[0, 1, 2]], [1, 0], None, "integers"),
        ([0, 1, 2], [1, 0], [0.5], "2 numbers"),
        ([0, 1, 2], [1, 0], [0.5, 1.5], "row 1 has a similarity"),
        ([0, 1, 2], [1, 0], [float("nan"), 1], "row 0 has a similarity"),
        ([0, 1, 2], [1, 0], ["a", "b"], "2 numbers"),
    ],
)
def test_own_pairs_that_make_no_graph_are_refused(indptr, indices, similarities, message):
    with pytest.raises(InputError, match=message):
        NeighborGraph.from_lists(indptr, indices, similarities)


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
    monkeypatch.setattr(graph_module, "_CROWDED", crowded)
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
