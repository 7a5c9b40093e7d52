"""Claims about knn_graph, against a naive loop, scikit-learn, and between back ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from kinfold.errors import InputError, MissingExtraError
from kinfold.features import ShardedMatrix
from kinfold.neighbors import (
    _products,
    approximate,
    bfloat16,
    closest_rows,
    exact,
    knn_graph,
    nearest_rows,
    search,
)


def made(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(8, dim))
    return (centers[rng.integers(8, size=n)] + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)


def naive(
    X: np.ndarray, k: int, threshold: float | None = None, cap: int = 10**9
) -> list[list[tuple[int, float]]]:
    """Neighbours by a float64 loop, straight from the definition."""
    X = np.asarray(X, dtype=np.float64)
    result = []
    for i in range(len(X)):
        found = []
        for j in range(len(X)):
            if j != i:
                found.append((j, float(X[i] @ X[j] / np.sqrt((X[i] @ X[i]) * (X[j] @ X[j])))))
        found.sort(key=lambda pair: (-pair[1], pair[0]))
        degree = k if threshold is None else max(k, sum(s >= threshold for _, s in found))
        result.append(found[: min(degree, cap)])
    return result


def assert_graph_is_naive(graph, X, k, threshold=None, cap=10**9):
    for i, expected in enumerate(naive(X, k, threshold, cap)):
        got = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
        sims = graph.similarities[graph.indptr[i] : graph.indptr[i + 1]]
        assert got.tolist() == [j for j, _ in expected]
        np.testing.assert_allclose(sims, [s for _, s in expected], atol=2e-6)


def assert_same_up_to_ties(graph, other, tolerance=1e-5):
    """Same degrees, same similarities place by place, and no neighbour that isn't as good."""
    np.testing.assert_array_equal(graph.indptr, other.indptr)
    np.testing.assert_allclose(graph.similarities, other.similarities, atol=tolerance)
    for i in range(graph.n_samples):
        span = slice(graph.indptr[i], graph.indptr[i + 1])
        a = dict(zip(graph.indices[span].tolist(), graph.similarities[span].tolist(), strict=True))
        b = dict(zip(other.indices[span].tolist(), other.similarities[span].tolist(), strict=True))
        worst = min(a.values())
        assert all(abs(a[j] - worst) < tolerance for j in a.keys() - b.keys())


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles even on small data."""
    monkeypatch.setitem(_products.TILE, "cpu", 64)


def test_fixed_graph_is_the_naive_one():
    X = made(150)
    assert_graph_is_naive(knn_graph(X, 7, backend="exact"), X, 7)


@pytest.mark.parametrize("n", [63, 64, 65, 191, 200])
def test_tiles_do_not_change_the_neighbours(small_tiles, n):
    X = made(n, seed=n)
    assert_graph_is_naive(knn_graph(X, 9, backend="exact"), X, 9)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_adaptive_graph_is_the_naive_one(small_tiles, threshold):
    X = made(170, seed=1)
    graph = knn_graph(X, 5, threshold=threshold, max_neighbors=40, backend="exact")
    assert_graph_is_naive(graph, X, 5, threshold, 40)
    assert graph.degrees.min() >= 5
    assert graph.degrees.max() <= 40


def test_panels_under_a_small_budget_give_the_same_neighbours(precision, monkeypatch):
    X = made(900, dim=8, seed=2)
    seen = []
    searcher = exact if precision == "float32" else bfloat16
    make_plan = searcher.make_plan

    def spy(*arguments, **options):
        seen.append(make_plan(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(searcher, "make_plan", spy)
    graph = knn_graph(X, 10, backend="exact")
    least = least_budget(X, 10)
    small = knn_graph(X, 10, backend="exact", memory_budget=least + 100_000)
    assert len(seen[1].panels(900)) > 2
    assert len(seen[0].panels(900)) == 1
    assert_same_up_to_ties(graph, small)
    adaptive = knn_graph(X, 10, threshold=0.8, max_neighbors=60, backend="exact")
    least = least_budget(X, 10, threshold=0.8, max_neighbors=60)
    small = knn_graph(X, 10, threshold=0.8, max_neighbors=60, backend="exact", memory_budget=least + 200_000)
    assert len(seen[3].panels(900)) > 1
    assert_same_up_to_ties(adaptive, small)


def least_budget(X, k, **options):
    """The least number of bytes that a search asks for, as its own error says it."""
    with pytest.raises(InputError, match="need at least") as refusal:
        knn_graph(X, k, backend="exact", memory_budget=1000, **options)
    return int(re.search(r"at least ([\d,]+) bytes", str(refusal.value))[1].replace(",", ""))


def test_a_budget_too_small_for_anything_is_refused_with_the_least():
    with pytest.raises(InputError, match="need at least"):
        knn_graph(made(500), 10, memory_budget=1000)


def test_scikit_learn_finds_the_same_on_digits():
    X = load_digits().data
    graph = knn_graph(X, 20, backend="exact")
    distances, _ = NearestNeighbors(n_neighbors=21, metric="cosine").fit(X).kneighbors(X)
    np.testing.assert_allclose(graph.similarities.reshape(-1, 20), 1 - distances[:, 1:], atol=1e-5)


def test_a_sample_is_never_its_own_neighbour(small_tiles):
    X = made(300, seed=3)
    for options in (
        {},
        {"threshold": -1.0, "max_neighbors": 400},
        {"threshold": "auto"},
        {"memory_budget": 1_500_000},
    ):
        graph = knn_graph(X, 10, backend="exact", **options)
        assert not np.any(graph.indices == np.repeat(np.arange(300), graph.degrees))


def test_a_threshold_below_everything_keeps_all_others():
    graph = knn_graph(made(100), 3, threshold=-1.0, max_neighbors=500)
    assert (graph.degrees == 99).all()
    for i in range(100):
        assert sorted(graph.neighbors(i)) == [j for j in range(100) if j != i]


def test_the_cap_holds_where_every_row_is_similar(small_tiles):
    X = 1 + 0.01 * made(400, seed=4)
    graph = knn_graph(X, 5, threshold=0.3, max_neighbors=30, backend="exact")
    assert (graph.degrees == 30).all()
    fixed = knn_graph(X, 30, backend="exact")
    np.testing.assert_array_equal(graph.indices, fixed.indices)
    assert graph.describe()["share_at_cap"] == 1.0


def test_ties_go_to_the_lower_number(small_tiles):
    X = np.tile(np.eye(4, dtype=np.float32)[:3], (50, 1))
    graph = knn_graph(X, 60, backend="exact")
    for i in range(150):
        alike = [j for j in range(i % 3, 150, 3) if j != i]
        others = [j for j in range(150) if j % 3 != i % 3]
        assert graph.neighbors(i).tolist() == (alike + others)[:60]


def test_rows_all_alike_are_neighbours_in_order(small_tiles):
    graph = knn_graph(np.full((200, 3), 2.0), 5, backend="exact")
    np.testing.assert_allclose(graph.similarities, 1, atol=1e-6)
    assert graph.neighbors(0).tolist() == [1, 2, 3, 4, 5]
    assert graph.neighbors(3).tolist() == [0, 1, 2, 4, 5]
    assert graph.similarities.max() <= 1


def test_rows_sorted_by_cluster_overflow_no_reservoir(small_tiles):
    X = made(320, seed=5)
    X = X[np.argsort(X[:, 0])]
    assert_graph_is_naive(knn_graph(X, 8, backend="exact"), X, 8)


def test_similarities_descend():
    graph = knn_graph(made(500), 30, threshold="auto")
    for i in range(500):
        assert (np.diff(graph.similarities[graph.indptr[i] : graph.indptr[i + 1]]) <= 0).all()


def test_the_automatic_threshold_reaches_its_mean_degree():
    X = made(3000, seed=6)
    graph = knn_graph(X, 25, threshold="auto", max_neighbors=1000)
    assert graph.mean_degree == pytest.approx(search.TARGET_DEGREE * 25, rel=0.1)
    assert -1 <= graph.parameters["threshold"] <= 1


def test_the_same_input_gives_the_same_bytes():
    X = made(1000)
    first, second = (knn_graph(X, 20, threshold="auto") for _ in range(2))
    assert first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, np.bool_])
def test_types_are_taken_as_they_are(dtype):
    X = (np.abs(made(100, seed=7)) * 3 + 1).astype(dtype)
    graph = knn_graph(X, 5)
    expected = naive(X.astype(np.float64), 5)
    np.testing.assert_allclose(
        graph.similarities.reshape(-1, 5), [[s for _, s in row] for row in expected], atol=2e-6
    )


def test_huge_and_tiny_values_have_a_direction():
    X = made(60).astype(np.float64)
    plain = knn_graph(X, 5)
    for scale in (1e-300, 1e300):
        np.testing.assert_array_equal(knn_graph(X * scale, 5).indices, plain.indices)


def test_shards_and_memory_maps_give_the_same_graph(tmp_path):
    X = made(333)
    for number, part in enumerate(np.array_split(X, 3)):
        np.save(tmp_path / f"{number}.npy", part)
    shards = ShardedMatrix([tmp_path / f"{i}.npy" for i in range(3)], [111] * 3, 16, np.float32)
    np.save(tmp_path / "whole.npy", X)
    expected = knn_graph(X, 10).fingerprint()
    assert knn_graph(shards, 10).fingerprint() == expected
    assert knn_graph(np.load(tmp_path / "whole.npy", mmap_mode="r"), 10).fingerprint() == expected


def test_input_is_left_as_it_was():
    X = made(100)
    before = X.copy()
    knn_graph(X, 5)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_few_rows_take_all_others_with_a_warning(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    with pytest.warns(UserWarning, match="only 3 others"):
        graph = knn_graph(made(4), 50, backend=backend)
    assert (graph.degrees == 3).all()


def test_a_single_row_has_no_neighbours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = knn_graph([[1.0, 2.0]], 5)
    assert graph.n_samples == 1
    assert graph.n_edges == 0
    assert graph.describe()["degree"]["max"] == 0


def test_zero_and_non_finite_rows_are_refused_by_number():
    X = made(100)
    X[[17, 60]] = 0
    X[33, 2] = np.nan
    X[34, 0] = -np.inf
    with pytest.raises(
        InputError, match=r"17 \(all zero\), 33 \(not finite\), 34 \(not finite\), 60 \(all zero\)"
    ):
        knn_graph(X, 5)
    with pytest.raises(InputError, match="and 95 more"):
        knn_graph(np.zeros((100, 3)), 5)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(5), "rows and columns"),
        (np.zeros((2, 2, 2)), "rows and columns"),
        (np.zeros((0, 3)), "holds nothing"),
        (np.zeros((3, 0)), "holds nothing"),
        (np.ones((3, 2), dtype=complex), "real numbers"),
        (np.array([["a", "b"]]), "real numbers"),
        ([[1.0], [1.0, 2.0]], "rows and columns"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(X, message):
    with pytest.raises(InputError, match=message):
        knn_graph(X, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"n_neighbors": 0},
        {"n_neighbors": 2.5},
        {"n_neighbors": True},
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"threshold": "median"},
        {"threshold": [0.5]},
        {"threshold": 0.5, "max_neighbors": 4},
        {"backend": "fais"},
        {"memory_budget": 0},
        {"zero_rows": "drop"},
        {"precision": "half"},
        {"device": "tpu"},
    ],
)
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        knn_graph(made(20), **{"n_neighbors": 5, **options})


def test_a_wrong_backend_is_told_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'faiss'"):
        knn_graph(made(20), 3, backend="fais")


@pytest.mark.parametrize("backend", ["faiss", "hnsw"])
def test_faiss_missing_names_the_extra(monkeypatch, backend):
    monkeypatch.setattr(search.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"kinfold\[faiss\]"):
        knn_graph(made(20), 3, backend=backend)


def test_auto_turns_to_faiss_above_its_limit(monkeypatch):
    pytest.importorskip("faiss")
    assert knn_graph(made(50), 5).parameters["backend"] == "exact"
    monkeypatch.setitem(search.EXACT_LIMIT, "cpu", 40)
    assert knn_graph(made(50), 5, device="cpu").parameters["backend"] == "faiss"


@pytest.mark.parametrize("options", [{}, {"threshold": 0.7, "max_neighbors": 50}, {"threshold": "auto"}])
def test_flat_faiss_finds_what_the_exact_search_finds(options):
    pytest.importorskip("faiss")
    X = made(600, seed=8)
    assert_same_up_to_ties(knn_graph(X, 10, **options), knn_graph(X, 10, backend="faiss", **options))


@pytest.mark.parametrize("backend", ["faiss", "hnsw"])
@pytest.mark.parametrize("budget", [None, pytest.param(900_000, marks=pytest.mark.slow)])
def test_an_index_finds_nearly_all_and_its_similarities_are_exact(monkeypatch, backend, budget):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "FLAT_LIMIT", 1000)
    X = made(4000, dim=32, seed=9)
    if budget is not None:
        monkeypatch.setattr(search, "DEFAULT_BUDGET", budget)
    exact = knn_graph(X, 10, backend="exact", memory_budget=1 << 30)
    found, again = (knn_graph(X, 10, backend=backend, device="cpu") for _ in range(2))
    assert found.fingerprint() == again.fingerprint()
    hits = [len(np.intersect1d(exact.neighbors(i), found.neighbors(i))) for i in range(4000)]
    assert np.mean(hits) / 10 > 0.95
    assert found.parameters["recall"] == pytest.approx(np.mean(hits) / 10, abs=0.02)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    rows = np.repeat(np.arange(4000), found.degrees)
    np.testing.assert_allclose(
        found.similarities, np.sum(unit[rows] * unit[found.indices], axis=1), atol=1e-5
    )
    assert not np.any(found.indices == rows)


@pytest.mark.parametrize("options", [{}, {"threshold": 0.7, "max_neighbors": 60}])
def test_the_recall_of_an_approximate_graph_is_measured_told_and_warned_of(monkeypatch, caplog, options):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "_LEAST_PROBED", 1)
    monkeypatch.setattr(approximate, "_PROBED_SHARE", 0.0)
    monkeypatch.setattr(approximate, "FLAT_LIMIT", 1000)
    X = np.random.default_rng(0).normal(size=(2000, 24))
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match="found only"):
        graph = knn_graph(X, 10, backend="faiss", device="cpu", **options)
    exact = knn_graph(X, 10, device="cpu", **options)
    hits = sum(len(np.intersect1d(exact.neighbors(i), graph.neighbors(i))) for i in range(2000))
    assert graph.describe()["recall"] == pytest.approx(hits / exact.n_edges, abs=0.03)
    assert graph.describe()["recall_sample"] == 512
    assert "approximate search found" in caplog.text


def test_an_index_that_sees_everything_has_full_recall():
    pytest.importorskip("faiss")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = knn_graph(np.repeat(made(100), 5, axis=0), 12, backend="faiss")
    assert graph.parameters["recall"] == 1
    assert "recall" not in knn_graph(made(100), 12).parameters


@pytest.mark.parametrize("backend", ["exact", "faiss"])
@pytest.mark.parametrize("options", [{}, {"threshold": 0.6, "max_neighbors": 30}])
def test_isolated_zero_rows_are_nobodys_neighbours_and_change_nothing_else(tmp_path, backend, options):
    if backend == "faiss":
        pytest.importorskip("faiss")
    X = made(200)
    zero = np.array([0, 17, 18, 199])
    X[zero] = 0
    np.save(tmp_path / "X.npy", X)
    others = np.setdiff1d(np.arange(200), zero)
    graph, mapped = (
        knn_graph(x, 5, zero_rows="isolate", backend=backend, **options)
        for x in (X, np.load(tmp_path / "X.npy", mmap_mode="r"))
    )
    expected = knn_graph(X[others], 5, backend=backend, **options)
    assert (graph.degrees[zero] == 0).all()
    assert graph.parameters["isolated_rows"] == 4
    np.testing.assert_array_equal(graph.degrees[others], expected.degrees)
    np.testing.assert_array_equal(graph.indices, others[expected.indices])
    np.testing.assert_array_equal(graph.similarities, expected.similarities)
    assert mapped.fingerprint() == graph.fingerprint()


@pytest.mark.parametrize("n_filled", [0, 1])
def test_a_graph_of_hardly_anything_but_zero_rows_is_empty(n_filled):
    X = np.zeros((6, 3))
    X[:n_filled] = 1
    graph = knn_graph(X, 2, zero_rows="isolate")
    assert (graph.n_samples, graph.n_edges) == (6, 0)


def test_isolating_zero_rows_lets_nothing_else_in():
    X = made(30)
    assert "isolated_rows" not in knn_graph(X, 3, zero_rows="isolate").parameters
    X[4], X[20, 1] = 0, np.inf
    with pytest.raises(InputError, match=r"not finite: 20; leave these rows out$"):
        knn_graph(X, 3, zero_rows="isolate")


MEMORY_SCRIPT = """
import sys, threading, time
import numpy as np
from kinfold.neighbors import knn_graph


def anonymous():
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("RssAnon")) * 1024


X = np.load(sys.argv[1], mmap_mode="r")
knn_graph(X[:500], 50)
base, peak, done = anonymous(), [0], threading.Event()


def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())


watcher = threading.Thread(target=watch)
watcher.start()
graph = knn_graph(X, 50, memory_budget=int(sys.argv[2]))
done.set()
watcher.join()
print(peak[0] - base - 2 * graph.n_edges * 8)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")
def test_features_larger_than_the_budget_stay_under_it(tmp_path):
    X = made(12_000, dim=768)
    np.save(tmp_path / "X.npy", X)
    budget = 24_000_000
    assert X.nbytes > 1.5 * budget
    command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path / "X.npy"), str(budget)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < budget


@pytest.mark.parametrize("budget", [None, 3_000_000])
def test_the_closest_of_a_few_rows_are_those_of_the_graph_of_all(budget):
    X = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
    X[[3, 77]] = 0
    rows = np.array([5, 3, 0, 77, 120, 899])
    graph = knn_graph(X, 7, zero_rows="isolate")
    owners, others = closest_rows(X, rows, 7, memory_budget=budget)
    assert owners.tolist() == np.repeat([5, 0, 120, 899], 7).tolist()
    for row in rows.tolist():
        assert others[owners == row].tolist() == graph.neighbors(row).tolist()


def test_where_there_are_few_others_all_of_them_are_close():
    X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    pairs = zip(*(part.tolist() for part in closest_rows(X, np.arange(3), 10)), strict=True)
    assert sorted(pairs) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


@pytest.mark.parametrize("n_filled", [0, 1])
def test_rows_without_others_have_no_pairs(n_filled):
    X = np.zeros((4, 3), np.float32)
    X[:n_filled] = 1
    owners, others = closest_rows(X, np.arange(4), 2)
    assert len(owners) == len(others) == 0
    assert len(closest_rows(np.eye(4, dtype=np.float32), np.zeros(0, np.int64), 2)[0]) == 0


@pytest.mark.parametrize(
    ("rows", "n_closest"),
    [([-1], 3), ([40], 3), ([1.0], 3), (np.arange(40) < 3, 3), (3, 3), ([1], 0), ([1], 2.5), ([1], None)],
)
def test_rows_that_are_none_have_no_closest_ones(rows, n_closest):
    X = np.random.default_rng(0).normal(size=(40, 4))
    with pytest.raises(InputError, match=r"(rows|n_closest) must"):
        closest_rows(X, rows, n_closest)
    assert len(closest_rows(X, [], 3)[0]) == 0


@pytest.mark.parametrize("budget", [None, 1 << 21])
def test_nearest_rows_of_other_rows_are_those_of_the_whole_product(budget):
    random = np.random.default_rng(0)
    X, queries = random.normal(size=(700, 9)).astype(np.float32), random.normal(size=(90, 9))
    queries[5] = X[17]  # a query that is a row finds it first
    rows, similarities = nearest_rows(X, queries, 6, memory_budget=budget, device="cpu")
    unit, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (X, queries))
    expected = np.argsort(-(asked @ unit.T), axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(similarities, np.take_along_axis(asked @ unit.T, expected, 1), atol=1e-6)
    assert rows[5, 0] == 17


def test_nearest_rows_are_all_where_there_are_fewer_and_nothing_odd_is_let_in():
    X = np.eye(3, dtype=np.float32)
    rows, similarities = nearest_rows(X, X[1:2], 10)
    assert (rows.tolist(), similarities.tolist()) == ([[1, 0, 2]], [[1.0, 0.0, 0.0]])
    with pytest.raises(InputError, match="3 features, but the queries have 2"):
        nearest_rows(X, X[:, :2], 1)
    with pytest.raises(InputError, match="zero or not finite"):
        nearest_rows(X, X * 0, 1)
    with pytest.raises(InputError, match="n_nearest"):
        nearest_rows(X, X, 0)
