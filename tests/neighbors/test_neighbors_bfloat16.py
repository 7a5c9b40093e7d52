"""Claims about the search by products in bfloat16: the neighbours are those of the float32 search."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.neighbors import _products, bfloat16, knn_graph, search
from kinfold.neighbors._candidates import EMPTY, Reservoir, Rule, TopReservoir, numbers_of, pack, values_of
from kinfold.neighbors.bfloat16 import KeyBlock, _gathered_products, measure

ROUNDING = 5e-7  # of two ways to sum up in float32


def made(n: int, dim: int = 24, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(6, dim))
    return (centers[rng.integers(6, size=n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


def true_similarities(X: np.ndarray) -> np.ndarray:
    """All cosines in float64, −inf of a row with itself."""
    unit = X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    return similarities


def assert_exact(graph, X, k, threshold=None, cap=None):
    """Every row keeps the best, as many as the rule says, in float64 and up to rounding."""
    truth = true_similarities(X)
    ranked = -np.sort(-truth, axis=1)
    cap = k if cap is None else min(cap, len(X) - 1)
    for i in range(len(X)):
        span = slice(graph.indptr[i], graph.indptr[i + 1])
        found, values = graph.indices[span], graph.similarities[span]
        assert len(set(found.tolist())) == len(found)
        assert i not in found
        np.testing.assert_allclose(values, truth[i, found], atol=ROUNDING)
        np.testing.assert_allclose(values, ranked[i, : len(values)], atol=2 * ROUNDING)
        if threshold is None:
            assert len(found) == k
        else:
            least, most = (np.sum(truth[i] >= threshold + sign * ROUNDING) for sign in (1, -1))
            assert np.clip(least, k, cap) <= len(found) <= np.clip(most, k, cap)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setitem(_products.TILE, "cpu", 64)


@pytest.fixture(params=["output in bfloat16", "output in float32", "dense selection"])
def any_device(request, monkeypatch):
    """The ways that products and selections go on CPUs and GPUs, here on the CPU."""
    if request.param != "output in bfloat16":
        monkeypatch.setattr(bfloat16, "is_output_rounded", lambda device: False)
        monkeypatch.setattr(
            _products.OverlappedProducts,
            "multiply",
            lambda self, rows, keys, select: select(rows.float() @ keys.float().T),
        )
    if request.param == "dense selection":
        monkeypatch.setattr(bfloat16, "Reservoir", TopReservoir)


@pytest.mark.parametrize("n", [2, 9, 64, 300])
def test_fixed_neighbours_areexact(small_tiles, any_device, n):
    X = made(n, seed=n)
    k = min(8, n - 1)
    graph = knn_graph(X, k, precision="bfloat16", device="cpu")
    assert_exact(graph, X, k)
    assert graph.parameters["precision"] == "bfloat16"


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_adaptive_neighbours_areexact(small_tiles, any_device, threshold):
    X = made(400, seed=1)
    graph = knn_graph(X, 5, threshold=threshold, max_neighbors=60, precision="bfloat16", device="cpu")
    assert_exact(graph, X, 5, threshold, 60)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 260),
    dim=st.integers(1, 40),
    k=st.integers(1, 30),
    spread=st.sampled_from([1.0, 1e-2, 1e-4, 1e-6, 0.0]),
    copies=st.sampled_from([0.0, 0.3, 0.9]),
    threshold=st.sampled_from([None, -1.0, 0.5, 0.999, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_near_ties_and_duplicates_do_not_change_the_neighbours(n, dim, k, spread, copies, threshold, seed):
    rng = np.random.default_rng(seed)
    X = made(n, dim, seed, spread) + np.float32(0.01)
    copied = rng.random(n) < copies
    X[copied] = X[rng.integers(min(n, 3), size=copied.sum())]
    k = min(k, n - 1)
    options = {} if threshold is None else {"threshold": threshold, "max_neighbors": 40}
    graph = knn_graph(X, k, precision="bfloat16", device="cpu", **options)
    assert_exact(graph, X, k, threshold, max(k, 40) if threshold is not None else None)


def test_margins_smaller_than_the_error_are_searched_again_and_right(monkeypatch):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(1, 64)) + 1e-3 * rng.normal(size=(500, 64))).astype(np.float32)
    graph = knn_graph(X, 10, precision="bfloat16", device="cpu")
    assert graph.parameters["share_searched_again"] == 1
    assert_exact(graph, X, 10)


def test_a_few_rows_without_proof_are_searched_again_alone():
    X = np.concatenate([made(900, 64, spread=1.0), np.tile(made(1, 64, seed=5), (200, 1))])
    X = X[np.random.default_rng(0).permutation(len(X))]
    graph = knn_graph(X, 10, precision="bfloat16", device="cpu")
    assert 190 / 1100 < graph.parameters["share_searched_again"] < 0.3
    assert_exact(graph, X, 10)


def test_panels_under_a_small_budget_give_the_same_neighbours(monkeypatch):
    seen = []
    make_plan = _products.make_plan
    monkeypatch.setattr(
        bfloat16, "make_plan", lambda *a, **options: seen.append(make_plan(*a, **options)) or seen[-1]
    )
    X = made(900, dim=8, seed=2, spread=1.0)
    for options in ({}, {"threshold": 0.8, "max_neighbors": 60}):
        graph = knn_graph(X, 10, precision="bfloat16", device="cpu", memory_budget=2_600_000, **options)
        assert_exact(graph, X, 10, options.get("threshold"), options.get("max_neighbors"))
        assert len(seen.pop().panels(900)) > 1


def test_the_same_input_gives_the_same_bytes():
    X = made(600)
    first, second = (knn_graph(X, 20, threshold="auto", precision="bfloat16") for _ in range(2))
    assert first.fingerprint() == second.fingerprint()


@settings(max_examples=60, deadline=None)
@given(dim=st.integers(1, 700), scale=st.sampled_from([0.0, 1.0, 6.0]), seed=st.integers(0, 2**32 - 1))
def test_the_error_bound_holds(dim, scale, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, dim)) * np.exp(scale * rng.normal(size=dim))
    unit = torch.nn.functional.normalize(torch.from_numpy(X), dim=1).float()
    rounded, distances = bfloat16.round_rows(unit)
    assert float(distances.max()) <= bfloat16.WORST_DISTANCE
    truth = unit.double() @ unit.double().T
    for products, is_rounded in ((rounded @ rounded.T, True), (rounded.float() @ rounded.float().T, False)):
        bound = bfloat16.bound_errors(distances, distances.max(), dim, is_rounded)
        error = (products.double().clamp(max=1) - truth.clamp(max=1)).abs()
        assert (error <= bound[:, None].double()).all()


def test_the_error_bound_is_not_idle():
    """Rounding that all goes one way comes near to it."""
    dim = 254  # 1 / √254 is nearly in the middle between two numbers of 8 bits
    unit = torch.full((1, dim), dim**-0.5)
    rounded, distances = bfloat16.round_rows(unit)
    bound = float(bfloat16.bound_errors(distances, distances.max(), dim, rounded=False)[0])
    error = float((rounded.double() @ rounded.double().T - unit.double() @ unit.double().T).abs())
    assert 0.9 * bound < error < bound


@pytest.mark.parametrize("reservoir", [Reservoir, TopReservoir])
def test_candidates_are_the_best_and_nothing_dropped_is_above_the_floor(reservoir):
    rng = np.random.default_rng(0)
    block = torch.from_numpy(rng.integers(0, 40, size=(30, 200)).astype(np.float32) / 64)
    candidates = reservoir(30, Rule.fixed(12), torch.device("cpu"))
    for start in range(0, 200, 50):
        candidates.offer(block[:, start : start + 50].contiguous(), 0, start)
    packed, floors = candidates.best(0, 30)
    assert torch.equal(values_of(packed), block.topk(12, dim=1).values)
    assert torch.equal(block.gather(1, numbers_of(packed)), values_of(packed))
    dropped = block.clone().scatter_(1, numbers_of(packed), -torch.inf)
    assert (dropped <= floors[:, None]).all()
    mirrored = reservoir(30, Rule.fixed(12), torch.device("cpu"))
    mirrored.offer_transposed(block.T.contiguous(), 0, 0)
    assert torch.equal(values_of(mirrored.best(0, 30)[0]), values_of(packed))


def test_packed_neighbours_keep_values_numbers_and_order():
    values = torch.tensor([0.5, -0.25, -0.0, 0.0, 1.5, -1.0, 0.5])
    packed = pack(values, torch.arange(7))
    np.testing.assert_array_equal(values_of(packed), values.clamp(max=1))
    assert numbers_of(packed).tolist() == list(range(7))
    assert numbers_of(packed.sort(descending=True).values).tolist() == [4, 0, 6, 2, 3, 1, 5]
    assert values_of(torch.tensor([EMPTY])).item() == -torch.inf


def test_measuring_touches_the_source_alone_and_both_ways_agree():
    unit = torch.nn.functional.normalize(torch.from_numpy(made(50)), dim=1)
    numbers = torch.arange(50).repeat(4, 1)
    packed = pack(torch.zeros(4, 50), numbers)
    packed[:, 7] = EMPTY
    measure(packed, unit[:4], KeyBlock(0, unit[:20]))
    truth = unit[:4] @ unit.T
    np.testing.assert_allclose(values_of(packed)[:, :7], truth[:, :7], atol=ROUNDING)
    assert (packed[:, 7] == EMPTY).all()
    assert (values_of(packed)[:, 20:] == 0).all()
    rows, keys = torch.tensor([0, 3, 3]), torch.tensor([5, 0, 49])
    np.testing.assert_allclose(
        _gathered_products(unit[:4], unit, rows, keys), truth[rows, keys], atol=ROUNDING
    )


def test_the_automatic_precision_follows_the_units(monkeypatch):
    monkeypatch.delenv("KINFOLD_PRECISION", raising=False)
    X = made(60)
    for has_units, expected in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr("kinfold.compute.has_bfloat16_units", lambda device, has=has_units: has)
        assert knn_graph(X, 5, device="cpu").parameters["precision"] == expected


def test_a_device_that_cannot_bound_the_error_searches_in_float32(monkeypatch, caplog):
    monkeypatch.setattr(search, "multiplies_bfloat16", lambda device: False)
    graph = knn_graph(made(60), 5, precision="bfloat16", device="cpu")
    assert graph.parameters["precision"] == "float32"
    assert "PyTorch 2.8" in caplog.text


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        knn_graph(made(20), 3, precision="bfloat")


@pytest.mark.slow
@pytest.mark.skipif("KINFOLD_DATA" not in os.environ, reason="reads the features in $KINFOLD_DATA")
@pytest.mark.parametrize("options", [{}, {"threshold": "auto"}])
def test_real_features_are_nearly_all_proven(options):
    with np.load(Path(os.environ["KINFOLD_DATA"]) / "cifar10_mobilenetv2_train.npz") as archive:
        X = archive["features"][:5000]
    graph = knn_graph(X, 50, precision="bfloat16", device="cpu", **options)
    reference = knn_graph(X, 50, precision="float32", device="cpu", **options)
    assert graph.parameters["share_searched_again"] < 0.01
    np.testing.assert_array_equal(graph.indptr, reference.indptr)
    np.testing.assert_allclose(graph.similarities, reference.similarities, atol=ROUNDING)
