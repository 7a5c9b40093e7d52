"""Exact neighbours beside faiss's flat index and the machine's own matrix-product rate.

Run as ``python perf/neighbors.py [--rows N] [--repeats R]``. The data are the CIFAR-10 features of
``$KINFOLD_DATA`` where that is set, else made ones of the same shape. All measurements alternate in one
process on the same threads, and each is the best of its repeats, so that a busy machine disturbs them
alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from kinfold.neighbors import NeighborGraph, knn_graph

N_NEIGHBORS = 50
SHAPE = (50_000, 1280)
TILE = 2048
T = TypeVar("T")


def load_features(n_rows: int) -> tuple[str, np.ndarray]:
    folder = os.environ.get("KINFOLD_DATA")
    if folder:
        with np.load(Path(folder) / "cifar10_mobilenetv2_train.npz") as archive:
            return "CIFAR-10, MobileNetV2", archive["features"][:n_rows]
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, SHAPE[1])).astype(np.float32)
    noise = rng.normal(size=(n_rows, SHAPE[1])).astype(np.float32)
    return "made", centers[rng.integers(100, size=n_rows)] + 2 * noise


def matrix_product_rate(dim: int, seconds: float = 2.0) -> float:
    """Return float32 operations per second of products of the search's own shape, the best of many."""
    rows, keys = torch.randn(TILE, dim), torch.randn(TILE, dim)
    out = torch.empty(TILE, TILE)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(rows, keys.T, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * TILE * TILE * dim / best


def search_flat(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities and indices from faiss's flat index, each row itself left out."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    unit = X.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    similarities, found = index.search(unit, N_NEIGHBORS + 1)
    own = np.arange(len(unit))[:, None]
    others = found != own
    others[others.all(axis=1), -1] = False
    shape = (len(unit), N_NEIGHBORS)
    return similarities[others].reshape(shape), found[others].reshape(shape)


def rows_that_differ(graph: NeighborGraph, similarities: np.ndarray, found: np.ndarray) -> int:
    """Count rows whose neighbours differ by more than ties: a neighbour that is worse than faiss's worst."""
    ours = graph.indices.reshape(found.shape)
    values = graph.similarities.reshape(found.shape)
    differing = 0
    for row in range(len(found)):
        extra = ~np.isin(ours[row], found[row])
        differing += bool(np.any(values[row][extra] < similarities[row, -1] - 1e-5))
    return differing


@dataclass(frozen=True)
class Timing:
    """Seconds on the clock, and of all cores together."""

    wall: float
    cpu: float


def timed(call: Callable[[], T]) -> tuple[Timing, T]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu), result


def describe(name: str, timing: Timing, share: float, differing: str) -> str:
    return f"| {name} | {timing.wall:.1f} | {timing.cpu:.1f} | {share:.2f} | {differing} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=SHAPE[0])
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    name, X = load_features(options.rows)
    n, dim = X.shape
    has_faiss = importlib.util.find_spec("faiss") is not None
    rates, ours, flat = [], [], []
    for _ in range(options.repeats):
        rates.append(matrix_product_rate(dim))
        timing, graph = timed(lambda: knn_graph(X, N_NEIGHBORS, backend="exact", device="cpu"))
        ours.append(timing)
        if has_faiss:
            timing, reference = timed(lambda: search_flat(X))
            flat.append(timing)
    rate, best = max(rates), min(ours, key=lambda timing: timing.wall)
    threads = torch.get_num_threads()
    print(f"\n### Exact neighbours: {n:,} × {dim:,} ({name}), k = {N_NEIGHBORS}, {threads} threads\n")
    print(f"Matrix products of the machine, same run: {rate / 1e9:.0f} GFLOP/s in float32.\n")
    print("| search | seconds | CPU seconds | in full products at that rate | rows that differ |")
    print("|---|---|---|---|---|")
    whole = 2 * n * n * dim / rate
    print(describe("Kinfold, exact", best, best.wall / whole, "–"))
    if has_faiss:
        other = min(flat, key=lambda timing: timing.wall)
        print(
            describe("faiss IndexFlatIP", other, other.wall / whole, str(rows_that_differ(graph, *reference)))
        )
        slower, work = other.wall / best.wall, other.cpu / best.cpu
        print(f"\nfaiss takes {slower:.2f} times as long, and {work:.2f} times the CPU time.")
    needed = n * (n + TILE) * dim / rate
    print(f"The products that the search needs take {needed:.1f} s at that rate: {needed / best.wall:.0%}.")


if __name__ == "__main__":
    main()
