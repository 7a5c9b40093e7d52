"""Spherical k-means beside faiss's and scikit-learn's, all rows, one start, the same number of iterations.

The data are the CIFAR-10 features of ``$KINFOLD_DATA`` where that is set, else made ones of the same shape.
Each library seeds in its own way, inside the time; objectives are the mean cosine of all rows to their
closest centroid at the end. All measurements alternate in one process on the same threads. scikit-learn
runs on unit rows, at a smaller size, since it is slower.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean, median

import numpy as np
import torch

from kinfold import SphericalKMeans
from perf.ceilings import Ceilings, measure_ceilings
from perf.neighbors import Timing, load_features, timed
from perf.table import Table, median_ratio

ITERATIONS = 25
Fit = Callable[[np.ndarray, int, int], np.ndarray]


@dataclass
class Record:
    """What one library took and reached, run by run."""

    timings: list[Timing] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)


def fit_kinfold(unit: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return our centroids."""
    model = SphericalKMeans(
        n_clusters=n_clusters, n_init=1, max_iter=ITERATIONS, tol=0, device="cpu", random_state=seed
    )
    return model.fit(unit).cluster_centers_


def fit_faiss(unit: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return faiss's centroids, trained on all rows."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    kmeans = faiss.Kmeans(
        unit.shape[1],
        n_clusters,
        niter=ITERATIONS,
        spherical=True,
        max_points_per_centroid=10**9,
        min_points_per_centroid=1,
        seed=seed,
        gpu=False,
    )
    kmeans.train(unit)
    return np.asarray(kmeans.centroids)


def fit_lloyd(unit: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return scikit-learn's centroids by its plain algorithm."""
    return _fit_sklearn(unit, n_clusters, seed, "lloyd")


def fit_elkan(unit: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Return scikit-learn's centroids by Elkan's algorithm."""
    return _fit_sklearn(unit, n_clusters, seed, "elkan")


def _fit_sklearn(unit: np.ndarray, n_clusters: int, seed: int, algorithm: str) -> np.ndarray:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    model = KMeans(n_clusters, n_init=1, max_iter=ITERATIONS, tol=0, algorithm=algorithm, random_state=seed)
    with threadpool_limits(torch.get_num_threads()):
        return np.asarray(model.fit(unit).cluster_centers_)


def objective(unit: np.ndarray, centers: np.ndarray) -> float:
    """Return the mean cosine of all rows to their closest centroid."""
    directions = torch.from_numpy(centers / np.linalg.norm(centers, axis=1, keepdims=True)).float()
    blocks = torch.from_numpy(unit).split(8192)
    return float(torch.cat([(block @ directions.T).amax(dim=1) for block in blocks]).double().mean())


def compare(
    unit: np.ndarray, n_clusters: int, fits: dict[str, Fit], repeats: int, rates: list[Ceilings]
) -> dict[str, Record]:
    """Run all libraries in turn, with one seed per turn."""
    records = {label: Record() for label in fits}
    for seed in range(repeats):
        rates.append(measure_ceilings(torch.device("cpu"), torch.float32))
        for label, fit in fits.items():
            timing, centers = timed(lambda fit=fit, seed=seed: fit(unit, n_clusters, seed))
            records[label].timings.append(timing)
            records[label].objectives.append(objective(unit, centers))
    return records


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--small-rows", type=int, default=10_000, help="for scikit-learn; 0 leaves it out")
    parser.add_argument("--small-clusters", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    name, X = load_features(options.rows)
    unit = X.astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    table = Table(
        f"Spherical k-means: {unit.shape[1]:,} dimensions ({name}), one start, {ITERATIONS} iterations, "
        f"{torch.get_num_threads()} threads",
        ("rows, clusters", "", "seconds", "CPU seconds", "time ÷ Kinfold's", "CPU ÷ Kinfold's", "objective"),
    )
    rates: list[Ceilings] = []
    large: dict[str, Fit] = {"Kinfold": fit_kinfold}
    if importlib.util.find_spec("faiss") is not None:
        large["faiss"] = fit_faiss
    _add(table, unit, options.clusters, large, options.repeats, rates)
    if options.small_rows:
        small: dict[str, Fit] = {**large, "scikit-learn, lloyd": fit_lloyd, "scikit-learn, elkan": fit_elkan}
        _add(table, unit[: options.small_rows], options.small_clusters, small, options.repeats, rates)
    table.notes.append("The objective is the mean over seeds of the mean cosine; more is better.")
    table.note_ceilings(rates)
    return table


def _add(
    table: Table,
    unit: np.ndarray,
    n_clusters: int,
    fits: dict[str, Fit],
    repeats: int,
    rates: list[Ceilings],
) -> None:
    records = compare(unit, n_clusters, fits, repeats, rates)
    ours = records["Kinfold"].timings
    for label, record in records.items():
        wall, cpu = [t.wall for t in record.timings], [t.cpu for t in record.timings]
        table.add(
            f"{len(unit):,}, {n_clusters:,}",
            label,
            f"{median(wall):.2f}",
            f"{median(cpu):.1f}",
            f"{median_ratio(wall, [t.wall for t in ours]):.2f}",
            f"{median_ratio(cpu, [t.cpu for t in ours]):.2f}",
            f"{mean(record.objectives):.5f}",
        )


if __name__ == "__main__":
    print(main().markdown())
