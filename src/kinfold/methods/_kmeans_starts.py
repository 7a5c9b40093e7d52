"""Starts of spherical k-means: greedy k-means++ seeding, and where each start ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.methods._kmeans_lloyd import Assigner, Lloyd, Start
from kinfold.methods._rows import UnitBlocks
from kinfold.rows import RowMatrix

MAX_ITER, TOL = 100, 1e-6  # of a start, by default
# Seeds are chosen from so many rows per cluster, and at least from so many: with 2 or 4 per cluster, seeds
# overfit the sample and the objective ends below that of random seeds (docs/methods.md, spherical k-means).
SAMPLE_PER_CLUSTER = 8
MIN_SAMPLE = 8192
_MAX_TABLE = 16384  # rows up to which all similarities are tabulated: 1 GiB of float32
# Products for several steps at once pay from this many steps per sampled row on: before, centroids are so few
# that every step lowers the distances of most rows, and candidates drawn earlier would mostly be rejected.
_STEPS_PER_ROW = 1 / 64
_TABLE_COST = 0.6  # of all similarities, relative to computing both halves: each pair is computed once
_BLOCK = 512  # points per product: its result and the points stay in cache
_POOLED_STEPS = 16  # steps that a pool serves at most: a larger one is out of date before it is used up
_ZERO_DISTANCE = 1e-6  # rounding of a float32 cosine between equal rows: such rows are no candidates

Distances = NDArray[np.float32]
Similarities = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def run_starts(
    rows: UnitBlocks,
    n_clusters: int,
    n_starts: int,
    random: np.random.RandomState,
    dtype: torch.dtype,
    workers: Workers,
    *,
    max_iter: int = MAX_ITER,
    tol: float = TOL,
) -> Iterator[Start]:
    """Yield where k-means ends from so many starts, each of seeds that lie apart (:func:`choose_seeds`).

    Parameters
    ----------
    rows : UnitBlocks
        This process's rows.
    n_clusters, n_starts : int
        K, and how often to start.
    random : RandomState
        In the same state in every process.
    dtype : torch.dtype
        Of the matrix products that propose the closest centroids.
    workers : Workers
        The processes that share all rows; the first one's seeds count.
    max_iter, tol : int, float
        As :class:`SphericalKMeans` takes them.
    """
    lloyd = Lloyd(rows, Assigner(rows, n_clusters, dtype), workers, max_iter=max_iter, tol=tol)
    for _ in range(n_starts):
        # A generator of its own for every start: how many numbers one draws must not move the next.
        seeds = choose_seeds(rows, n_clusters, np.random.RandomState(random.randint(2**31)))
        yield lloyd.run(rows.take(workers.broadcast(seeds)))


def small_clusters(
    X: RowMatrix, n_clusters: int, random: np.random.RandomState, *, max_iter: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return unit-length centroids (K, D) and labels (N,) of one start, in this process alone.

    Parameters
    ----------
    X : array (N, D)
        Checked features.
    n_clusters : int
        K, at most N; some may stay empty.
    random : RandomState
        Of the seeds.
    max_iter : int
        Iterations at most.
    """
    rows = UnitBlocks(X, torch.device("cpu"))
    start = next(run_starts(rows, n_clusters, 1, random, torch.float32, Workers(), max_iter=max_iter))
    return start.centers.numpy(), start.labels.numpy()


def choose_seeds(rows: UnitBlocks, n_clusters: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """Return the indices of K rows that lie apart: greedy k-means++ on the distance 1 − cosine.

    Of 2 + log K rows drawn in proportion to their distance from the rows chosen so far, the one that lowers
    the sum of distances most is next. Drawn from, and summed over, a random sample of 8 K rows and at least
    8,192; all rows where there are no more.

    References
    ----------
    Arthur & Vassilvitskii (2007), "k-means++", and its greedy variant.
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
    distance = _distances(source.similarities, np.array(chosen))[0]  # to the closest of those chosen
    while len(chosen) < n_clusters:
        candidates, distances = source.draw(distance, _n_trials(n_clusters), len(chosen))
        closer = np.minimum(distance, distances)
        # float64: sums over thousands of points differ by less than float32 tells apart.
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
                # The more are chosen, the less a step changes distances, and the longer a pool lasts.
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
    # "right": a point of distance 0 is never drawn. Rounding may lift a draw to the total itself: hence clip.
    found: NDArray[np.int64] = np.searchsorted(cumulative, draws, side="right").clip(max=len(distance) - 1)
    return found


def _distances(similarities: Similarities, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return 1 − cosine of the chosen points to all, rounding errors at 0 removed."""
    distances = similarities(chosen)  # always a new array, so that it may be overwritten
    np.subtract(1, distances, out=distances)
    np.copyto(distances, 0, where=distances < _ZERO_DISTANCE)
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
    """Return the products of all points, each pair computed once and mirrored."""
    table = points.new_empty(len(points), len(points))
    for start in range(0, len(points), _BLOCK):
        rows = slice(start, start + _BLOCK)
        torch.mm(points[rows], points[: rows.stop].T, out=table[rows, : rows.stop])
        for first in range(0, start, _BLOCK):  # squares: transposing whole rows would leave the cache
            columns = slice(first, first + _BLOCK)
            table[columns, rows] = table[rows, columns].T
    values: NDArray[np.float32] = table.cpu().numpy()
    return values
