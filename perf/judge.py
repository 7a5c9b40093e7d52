"""The judge at ImageNet-21K's size: every measure of 11.06 million pairs of 10,450 classes and clusters.

Labels are made: class sizes long-tailed, a part of the samples in their own cluster, a part in one of twenty
near by, the rest anywhere by size, and clusters renamed. The fewer are right, the more different pairs occur,
which is what costs. Peak memory is of the process, with labels and five ranked clusters per sample: run
it alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold import metrics
from kinfold.compute import cpu_count
from perf.table import Table

N_CLASSES, N_SAMPLES, N_TOP, N_NEAR = 10_450, 11_060_223, 5, 20
CASES = ((0.35, 0.35), (0.02, 0.1))  # shares in the own cluster, and in one near by


@dataclass(frozen=True)
class Made:
    """Classes (N,) and ranked clusters (N, 5), int32."""

    y_true: NDArray[np.int32]
    top: NDArray[np.int32]


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    table = Table(
        f"The judge: {options.n_samples:,} samples, {options.n_classes:,} classes and clusters, "
        f"{cpu_count()} cores",
        ("right, near by", "different pairs", "", "seconds", "CPU seconds", "value"),
    )
    for own, near in CASES:
        made = make_labels(options.n_samples, options.n_classes, own, near)
        _measure(table, made, f"{own:.0%}, {near:.0%}", with_ami=not options.without_ami)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    inputs = (4 + 4 * N_TOP) * options.n_samples / 2**30
    table.notes.append(f"Peak memory of the process: {peak:.2f} GiB, of which inputs {inputs:.2f} GiB.\n")
    return table


def make_labels(n: int, n_classes: int, own: float, near: float, seed: int = 0) -> Made:
    """Make classes and ranked clusters, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    shares = rng.lognormal(0, 0.7, n_classes)
    bounds = np.cumsum(shares / shares.sum())
    names = rng.permutation(n_classes).astype(np.int32)

    def draw(size: int) -> NDArray[np.int32]:
        return np.searchsorted(bounds, rng.random(size, np.float32)).clip(max=n_classes - 1).astype(np.int32)

    y_true, top = draw(n), np.empty((n, N_TOP), np.int32)
    for rank in range(N_TOP):
        luck = rng.random(n, np.float32)
        found = np.where(luck < own, y_true, draw(n))
        beside = np.flatnonzero((luck >= own) & (luck < own + near))
        found[beside] = y_true[beside] // N_NEAR * N_NEAR + rng.integers(0, N_NEAR, len(beside), np.int32)
        top[:, rank] = names[np.minimum(found, n_classes - 1)]
    return Made(y_true, top)


def _measure(table: Table, made: Made, title: str, *, with_ami: bool) -> None:
    y_true, y_pred = made.y_true, made.top[:, 0].copy()
    n_pairs = f"{len(np.unique(y_true.astype(np.int64) * N_CLASSES * 2 + y_pred)):,}"
    match, wall, cpu = _time(lambda: metrics.match_clusters(y_true, y_pred))
    table.add(title, n_pairs, "Hungarian map, ACC", f"{wall:.1f}", f"{cpu:.1f}", f"{match.accuracy:.4f}")
    work: dict[str, Callable[[], float]] = {
        "NMI": lambda: metrics.normalized_mutual_info(y_true, y_pred),
        "ARI": lambda: metrics.adjusted_rand_index(y_true, y_pred),
        "purity": lambda: metrics.purity(y_true, y_pred),
        "top-5": lambda: metrics.top_k_accuracy(y_true, made.top, 5, match=match),
    }
    total = [wall, cpu]
    for name, measure in work.items():
        value, wall, cpu = _time(measure)
        total = [total[0] + wall, total[1] + cpu]
        table.add("", "", name, f"{wall:.1f}", f"{cpu:.1f}", f"{value:.4f}")
    table.add("", "", "all of these", f"{total[0]:.1f}", f"{total[1]:.1f}", "")
    if with_ami:
        value, wall, cpu = _time(lambda: metrics.adjusted_mutual_info(y_true, y_pred))
        table.add("", "", "AMI", f"{wall:.1f}", f"{cpu:.1f}", f"{value:.4f}")
        found, wall, cpu = _time(lambda: metrics.compare(y_true, y_pred))
        table.add("", "", "compare: all but top-5", f"{wall:.1f}", f"{cpu:.1f}", f"{found.accuracy:.4f}")


def _time(work: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-samples", type=int, default=N_SAMPLES)
    parser.add_argument("--n-classes", type=int, default=N_CLASSES)
    parser.add_argument("--without-ami", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
