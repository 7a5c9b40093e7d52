"""Exact neighbours beside faiss's flat index, scikit-learn, and the machine's own matrix-product rate.

The data are the CIFAR-10 features of ``$KINFOLD_DATA`` where that is set, else made ones of the same shape.
Both sides of a comparison alternate in one process on the same threads, so that a busy machine disturbs them
alike. With a GPU our search of an ImageNet-sized matrix is measured there as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from kinfold.compute import resolve_precision
from kinfold.neighbors import NeighborGraph, knn_graph
from perf.ceilings import Ceilings, measure_ceilings
from perf.table import Table, median_ratio

N_NEIGHBORS = 50
SHAPE = (50_000, 1280)
SKLEARN_ROWS = 20_000
GPU_SHAPE = (1_281_167, 2048)
_TIE = 1e-5
T = TypeVar("T")
Found = tuple[np.ndarray, np.ndarray]
COLUMNS = (
    "against",
    "rows",
    "Kinfold, s",
    "other, s",
    "Kinfold ÷ other",
    "the same in CPU time",
    "Kinfold's share of matrix-product rate",
    "rows that differ",
)


def make_features(n_rows: int, dim: int) -> np.ndarray:
    """Return float32 rows around 100 centres."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, dim)).astype(np.float32)
    X = rng.standard_normal(size=(n_rows, dim), dtype=np.float32)
    X *= 2
    X += centers[rng.integers(100, size=n_rows)]
    return X


def load_features(n_rows: int) -> tuple[str, np.ndarray]:
    """Return the name and the rows of what is searched."""
    folder = os.environ.get("KINFOLD_DATA")
    if folder:
        with np.load(Path(folder) / "cifar10_mobilenetv2_train.npz") as archive:
            return "CIFAR-10, MobileNetV2", archive["features"][:n_rows]
    return "made", make_features(n_rows, SHAPE[1])


def search_flat(X: np.ndarray) -> Found:
    """Return similarities and indices from faiss's flat index, each row itself left out."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    unit = X.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    return _without_self(*index.search(unit, N_NEIGHBORS + 1))


def search_sklearn(X: np.ndarray) -> Found:
    """Return similarities and indices from scikit-learn's brute-force search, each row itself left out."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1, metric="cosine", algorithm="brute").fit(X)
    distances, found = model.kneighbors(X)
    return _without_self(1 - distances, found)


def _without_self(similarities: np.ndarray, found: np.ndarray) -> Found:
    others = found != np.arange(len(found))[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(found), N_NEIGHBORS)
    return similarities[others].reshape(shape), found[others].reshape(shape)


def rows_that_differ(graph: NeighborGraph, similarities: np.ndarray, found: np.ndarray) -> int:
    """Count rows whose neighbours differ by more than ties: a neighbour worse than the other side's worst."""
    ours = graph.indices.reshape(found.shape)
    values = graph.similarities.reshape(found.shape)
    differing = 0
    for row in range(len(found)):
        extra = ~np.isin(ours[row], found[row])
        differing += bool(np.any(values[row][extra] < similarities[row, -1] - _TIE))
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


@dataclass
class Comparison:
    """Runs of our search and another's, by turns."""

    name: str
    shape: tuple[int, ...]
    ours: list[Timing] = field(default_factory=list)
    theirs: list[Timing] = field(default_factory=list)
    rates: list[Ceilings] = field(default_factory=list)
    differing: int = 0

    @classmethod
    def run(cls, name: str, X: np.ndarray, other: Callable[[np.ndarray], Found], repeats: int) -> Comparison:
        """Alternate both sides, with the machine's ceilings, in our precision, before each turn."""
        comparison, dtype = cls(name, X.shape), resolve_precision("auto", torch.device("cpu"))
        for _ in range(repeats):
            comparison.rates.append(measure_ceilings(torch.device("cpu"), dtype))
            timing, graph = timed(lambda: knn_graph(X, N_NEIGHBORS, backend="exact", device="cpu"))
            comparison.ours.append(timing)
            timing, reference = timed(lambda: other(X))
            comparison.theirs.append(timing)
        comparison.differing = rows_that_differ(graph, *reference)
        return comparison

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        ours, theirs = median(t.wall for t in self.ours), median(t.wall for t in self.theirs)
        wall = median_ratio([t.wall for t in self.ours], [t.wall for t in self.theirs])
        cpu = median_ratio([t.cpu for t in self.ours], [t.cpu for t in self.theirs])
        share = median(_share(self.shape, t, rate) for t, rate in zip(self.ours, self.rates, strict=True))
        return (
            self.name,
            f"{self.shape[0]:,}",
            f"{ours:.1f}",
            f"{theirs:.1f}",
            f"{wall:.2f}",
            f"{cpu:.2f}",
            f"{share:.0%}",
            str(self.differing),
        )


def measure_gpu(repeats: int) -> tuple[str, ...]:
    """Measure our search alone on the GPU, features copied from main memory included."""
    device = torch.device("cuda")
    X = make_features(*GPU_SHAPE)
    knn_graph(X[:20_000], N_NEIGHBORS, backend="exact", device=device)
    timings, shares = [], []
    for _ in range(repeats):
        rate = measure_ceilings(device, torch.bfloat16)
        timing, graph = timed(lambda: knn_graph(X, N_NEIGHBORS, backend="exact", device=device))
        timings.append(timing.wall)
        shares.append(_share(X.shape, timing, rate))
    name = f"nothing, on {torch.cuda.get_device_name()} in {graph.parameters['precision']}"
    seconds, share = f"{median(timings):.1f}", f"{median(shares):.0%}"
    return (name, f"{X.shape[0]:,} × {X.shape[1]:,}", seconds, "–", "–", "–", share, "–")


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=SHAPE[0])
    parser.add_argument("--sklearn-rows", type=int, default=SKLEARN_ROWS, help="scikit-learn takes longer")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    name, X = load_features(options.rows)
    threads = torch.get_num_threads()
    table = Table(
        f"Exact neighbours: rows × {X.shape[1]:,} ({name}), k = {N_NEIGHBORS}, {threads} threads", COLUMNS
    )
    comparisons = []
    if importlib.util.find_spec("faiss") is not None:
        comparisons.append(Comparison.run("faiss IndexFlatIP", X, search_flat, options.repeats))
    few = X[: options.sklearn_rows]
    comparisons.append(
        Comparison.run("scikit-learn NearestNeighbors, brute", few, search_sklearn, options.repeats)
    )
    for comparison in comparisons:
        table.add(*comparison.cells())
    if torch.cuda.is_available():
        table.add(*measure_gpu(options.repeats))
    precision = knn_graph(X[:100], N_NEIGHBORS, device="cpu").parameters["precision"]
    table.notes.append(f"Our search used {precision} on the CPU.")
    table.notes.append("The share counts both halves of the product; our search computes each pair once.")
    table.note_ceilings([rate for comparison in comparisons for rate in comparison.rates])
    return table


def _share(shape: tuple[int, ...], timing: Timing, rate: Ceilings) -> float:
    return 2.0 * shape[0] ** 2 * shape[1] / timing.wall / rate.matmul


if __name__ == "__main__":
    print(main().markdown())
