"""Exact neighbours beside faiss's flat index and the machine's own matrix-product rate.

The data are the CIFAR-10 features of ``$KINFOLD_DATA`` where that is set, else made ones of the same shape.
All measurements alternate in one process on the same threads, so that a busy machine disturbs them alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from kinfold.neighbors import NeighborGraph, knn_graph
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

N_NEIGHBORS = 50
SHAPE = (50_000, 1280)
T = TypeVar("T")


def load_features(n_rows: int) -> tuple[str, np.ndarray]:
    """Return the name and the rows of what is searched."""
    folder = os.environ.get("KINFOLD_DATA")
    if folder:
        with np.load(Path(folder) / "cifar10_mobilenetv2_train.npz") as archive:
            return "CIFAR-10, MobileNetV2", archive["features"][:n_rows]
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, SHAPE[1])).astype(np.float32)
    noise = rng.normal(size=(n_rows, SHAPE[1])).astype(np.float32)
    return "made", centers[rng.integers(100, size=n_rows)] + 2 * noise


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
    """Return how long a call takes, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu), result


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=SHAPE[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    name, X = load_features(options.rows)
    has_faiss = importlib.util.find_spec("faiss") is not None
    rates: list[Ceilings] = []
    ours: list[Timing] = []
    flat: list[Timing] = []
    for _ in range(options.repeats):
        rates.append(measure_ceilings(torch.device("cpu"), torch.float32))
        timing, graph = timed(lambda: knn_graph(X, N_NEIGHBORS, backend="exact", device="cpu"))
        ours.append(timing)
        if has_faiss:
            timing, reference = timed(lambda: search_flat(X))
            flat.append(timing)
    threads = torch.get_num_threads()
    table = Table(
        f"Exact neighbours: {X.shape[0]:,} × {X.shape[1]:,} ({name}), k = {N_NEIGHBORS}, {threads} threads",
        ("", "seconds", "CPU seconds", "share of matrix-product rate", "rows that differ"),
    )
    _add(table, "Kinfold, exact", ours, rates, X.shape, "–")
    if has_faiss:
        _add(table, "faiss IndexFlatIP", flat, rates, X.shape, str(rows_that_differ(graph, *reference)))
        wall = median_ratio([t.wall for t in flat], [t.wall for t in ours])
        cpu = median_ratio([t.cpu for t in flat], [t.cpu for t in ours])
        table.notes.append(f"faiss takes {wall:.2f} times as long, and {cpu:.2f} times the CPU time.")
    table.notes.append("The share counts both halves of the product; our search computes each pair once.")
    table.note_ceilings(rates)
    return table


def _add(
    table: Table,
    label: str,
    timings: list[Timing],
    rates: list[Ceilings],
    shape: tuple[int, ...],
    differing: str,
) -> None:
    whole = 2.0 * shape[0] ** 2 * shape[1]
    share = median(whole / t.wall / rate.matmul for t, rate in zip(timings, rates, strict=True))
    wall, cpu = median(t.wall for t in timings), median(t.cpu for t in timings)
    table.add(label, f"{wall:.1f}", f"{cpu:.1f}", f"{share:.0%}", differing)
