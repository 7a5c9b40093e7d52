"""First centroids: greedy k-means++ on a random sample of the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.methods._rows import UnitBlocks

MIN_SAMPLE = 8192
SAMPLE_PER_CLUSTER = 8
_MAX_TABLE = 16384
_STEPS_PER_ROW = 1 / 64  # a table of all similarities pays from this many steps on
_TABLE_BLOCK = 512

Similarities = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def choose_seeds(rows: UnitBlocks, n_clusters: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Return K rows that lie apart, as numbers.

    Greedy k-means++ on the distance 1 − cosine: of 2 + log K rows drawn in proportion to their distance
    from the rows chosen so far, the one that lowers the sum of distances most is next. Drawn from, and
    summed over, a random sample of 8 K rows and at least 8,192; all rows where there are no more.
    Fewer rows per cluster overfit: they end below a random start.
    """
    size = min(rows.n_samples, max(MIN_SAMPLE, SAMPLE_PER_CLUSTER * n_clusters))
    sample: NDArray[np.int64] = np.arange(rows.n_samples)
    if size < rows.n_samples:
        sample = np.sort(random.choice(rows.n_samples, size, replace=False))
    points = rows.take(sample)
    if size <= _MAX_TABLE and n_clusters >= _STEPS_PER_ROW * size:
        table = _all_similarities(points)
        return sample[_choose(lambda chosen: table[chosen], size, n_clusters, random)]
    return sample[_choose(lambda chosen: _similarities(points, chosen), size, n_clusters, random)]


def _choose(
    similarities: Similarities, n_points: int, n_clusters: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    n_trials = 2 + int(np.log(n_clusters))
    chosen = [int(random.randint(n_points))]
    distance = _distances(similarities, np.array(chosen))[0]
    while len(chosen) < n_clusters:
        cumulative = np.cumsum(distance, dtype=np.float64)
        if cumulative[-1] > 0:
            draws = random.uniform(size=n_trials) * cumulative[-1]
            candidates = np.searchsorted(cumulative, draws, side="right").clip(max=n_points - 1)
        else:
            candidates = random.randint(n_points, size=n_trials)
        closer = np.minimum(distance, _distances(similarities, candidates))
        best = int(np.argmin(closer.sum(axis=1, dtype=np.float64)))
        chosen.append(int(candidates[best]))
        distance = closer[best]
    return np.array(chosen)


def _distances(similarities: Similarities, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 − cosine of the chosen points to all, rounding errors at 0 removed."""
    distances = 1 - similarities(chosen)
    distances[distances < 1e-6] = 0
    return distances


def _similarities(points: Tensor, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    return (points[torch.from_numpy(chosen).to(points.device)] @ points.T).cpu().numpy()


def _all_similarities(points: Tensor) -> NDArray[np.float32]:
    """Return the products of all points, each pair computed once."""
    table = points.new_empty(len(points), len(points))
    for start in range(0, len(points), _TABLE_BLOCK):
        rows = slice(start, start + _TABLE_BLOCK)
        torch.mm(points[rows], points[: rows.stop].T, out=table[rows, : rows.stop])
        for first in range(0, start, _TABLE_BLOCK):  # small squares: they stay in cache
            columns = slice(first, first + _TABLE_BLOCK)
            table[columns, rows] = table[rows, columns].T
    values: NDArray[np.float32] = table.cpu().numpy()
    return values
