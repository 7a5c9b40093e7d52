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
_STEPS_PER_ROW = 1 / 64  # products for several steps at once pay from this many steps on
_TABLE_COST = 0.6  # of computing the similarities of all rows to all: each pair is computed once
_BLOCK = 512
_POOLED_STEPS = 16

Distances = NDArray[np.float32]
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
    source: _Single | _Pool
    if n_clusters < _STEPS_PER_ROW * size:
        source = _Single(lambda chosen: _similarities(points, chosen), random)
    elif size <= _MAX_TABLE and _n_trials(n_clusters) * n_clusters > _TABLE_COST * size:
        table = _all_similarities(points)
        source = _Single(lambda chosen: table[chosen], random)
    else:
        source = _Pool(lambda chosen: _similarities_of_many(points, chosen), random)
    return sample[_choose(source, int(random.randint(size)), n_clusters)]


def _n_trials(n_clusters: int) -> int:
    return 2 + int(np.log(n_clusters))


def _choose(source: _Single | _Pool, first: int, n_clusters: int) -> NDArray[np.int64]:
    chosen = [first]
    distance = _distances(source.similarities, np.array(chosen))[0]
    while len(chosen) < n_clusters:
        candidates, distances = source.draw(distance, _n_trials(n_clusters), len(chosen))
        closer = np.minimum(distance, distances)
        best = int(np.argmin(closer.sum(axis=1, dtype=np.float64)))
        chosen.append(int(candidates[best]))
        distance = closer[best]
    return np.array(chosen)


class _Single:
    """Draws the candidates of one step, and computes their distances to all points."""

    def __init__(self, similarities: Similarities, random: np.random.RandomState) -> None:
        self.similarities, self._random = similarities, random

    def draw(self, distance: Distances, n_trials: int, n_chosen: int) -> tuple[NDArray[np.int64], Distances]:
        """Return candidates, in proportion to ``distance`` (n,), and their distances, (n_trials, n)."""
        candidates = _draw(distance, n_trials, self._random)
        return candidates, _distances(self.similarities, candidates)


class _Pool:
    """Draws candidates for several steps, and computes their distances to all points in one product.

    A step accepts a candidate with the share of its distance at drawing that is left: distances only
    fall, so what is accepted is distributed as if it had been drawn for the step (rejection sampling).
    The more centroids are chosen the less one changes, and the more steps a pool serves.
    """

    def __init__(self, similarities: Similarities, random: np.random.RandomState) -> None:
        self.similarities, self._random = similarities, random
        self._place = 0
        self._candidates: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def draw(self, distance: Distances, n_trials: int, n_chosen: int) -> tuple[NDArray[np.int64], Distances]:
        """Return candidates, in proportion to ``distance`` (n,), and their distances, (n_trials, n)."""
        accepted: list[int] = []
        distances: list[Distances] = []
        while len(accepted) < n_trials:
            if self._place == len(self._candidates):
                self._fill(distance, n_trials * min(_POOLED_STEPS, 2 + n_chosen // 4))
            candidate = int(self._candidates[self._place])
            if self._levels[self._place] <= distance[candidate]:
                accepted.append(candidate)
                distances.append(self._distances[self._place])
            self._place += 1
        return np.array(accepted), np.stack(distances)

    def _fill(self, distance: Distances, size: int) -> None:
        self._candidates = _draw(distance, size, self._random)
        self._levels = self._random.uniform(size=size) * distance[self._candidates]
        self._distances = _distances(self.similarities, self._candidates)
        self._place = 0


def _draw(distance: Distances, size: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Return points drawn in proportion to their distance, or any where nothing lies apart."""
    cumulative = np.cumsum(distance, dtype=np.float64)
    if cumulative[-1] <= 0:
        return np.asarray(random.randint(len(distance), size=size))
    draws = random.uniform(size=size) * cumulative[-1]
    found: NDArray[np.int64] = np.searchsorted(cumulative, draws, side="right").clip(max=len(distance) - 1)
    return found


def _distances(similarities: Similarities, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 − cosine of the chosen points to all, rounding errors at 0 removed."""
    distances = similarities(chosen)  # always a new array
    np.subtract(1, distances, out=distances)
    np.copyto(distances, 0, where=distances < 1e-6)
    return distances


def _similarities(points: Tensor, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    return (points[torch.from_numpy(chosen).to(points.device)] @ points.T).cpu().numpy()


def _similarities_of_many(points: Tensor, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the same; on CPUs in blocks that stay in cache, which takes a third less time for 10 to 100."""
    if points.device.type != "cpu":
        return _similarities(points, chosen)
    rows = points[torch.from_numpy(chosen)]
    products = points.new_empty(len(rows), len(points))
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        torch.mm(rows, block.T, out=products[:, start : start + _BLOCK])
    values: NDArray[np.float32] = products.numpy()
    return values


def _all_similarities(points: Tensor) -> NDArray[np.float32]:
    """Return the products of all points, each pair computed once."""
    table = points.new_empty(len(points), len(points))
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        torch.mm(points[rows], points[: rows.stop].T, out=table[rows, : rows.stop])
        for first in range(0, start, _BLOCK):  # small squares: they stay in cache
            columns = slice(first, first + _BLOCK)
            table[columns, rows] = table[rows, columns].T
    values: NDArray[np.float32] = table.cpu().numpy()
    return values
