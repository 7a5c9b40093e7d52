"""Confidence that can be believed: one temperature per fit, chosen without labels.

Methods sharpen or flatten their probabilities as suits their training, not as often as they are right. Here
the accuracy of a fit is estimated by how its clusters lie in the features, and the temperature is the one at
which the mean confidence is that estimate.

References
----------
Guo, Pleiss, Sun & Weinberger (2017), "On Calibration of Modern Neural Networks", section 4.2: a temperature
leaves the most probable class as it is. They choose it by labels; the choice here needs none, and is
Kinfold's (docs/choices.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq

from kinfold.distributed import current_workers
from kinfold.methods._rows import draw_rows
from kinfold.neighbors import closest_rows
from kinfold.rows import RowMatrix, SelectedRows

logger = logging.getLogger(__name__)

# Neighbours that are looked at, as a share of an average cluster. A number that didn't grow with the clusters
# would look closer and closer as samples become more, and find agreement that says less and less.
_NEAR = 0.05
# Samples per cluster among which neighbours are found: five neighbours then are near enough. Where clusters
# are many, fewer samples and a single neighbour; but never so few that even one would lie too far.
_ROWS_PER_CLUSTER = 100
_MOST_ROWS = 20_000
_LEAST_ROWS_PER_CLUSTER = round(1 / _NEAR)
# Samples whose neighbours and confidences are looked at: their shares are right to a percent. Fewer where
# clusters are so many that probabilities would fill the memory, or neighbours take long to find.
_JUDGED = 2_000
_FEWEST_JUDGED = 500
_JUDGED_VALUES = 4_000_000
_JUDGED_PRODUCTS = 100_000_000_000
_SEED = 0  # of the draws: the same rows for every fit, whatever its own seed
# Temperatures, in times of the method's own, among which one is chosen: beyond, all or nothing is certain.
_MOST_TIMES = 100.0
_LEVEL = 1e-6  # mean confidence at both ends differs by less where rows are ties
_DIGITS = 4  # that are kept: sums that were rounded elsewhere must not make another model
# Below, a probability is taken to be 0: some processors make such numbers 0, and others don't.
_TINY = float(np.finfo(np.float32).tiny)


def temper(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Return probabilities at another temperature: p^(1/T) of every row, scaled to sum 1.

    The most probable cluster stays the most probable one, also where rounding would make two of them equal.

    Parameters
    ----------
    probabilities : ndarray (n, K)
        Rows of sum 1; a softmax of logits becomes the softmax of logits / T.
    temperature : float
        T > 0; above 1 confidence falls, below 1 it rises.

    Returns
    -------
    ndarray (n, K) float32
        For T = 1 what was given.

    Examples
    --------
    >>> temper(np.array([[0.8, 0.2]]), 2.0).round(3).tolist()
    [[0.6669999957084656, 0.3330000042915344]]
    """
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float32)
    powers = np.exp(_gaps(probabilities) / temperature)
    found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    best = np.asarray(probabilities).argmax(axis=1)
    tied = np.flatnonzero(found.argmax(axis=1) != best)
    found[tied, best[tied]] = np.nextafter(found[tied].max(axis=1), np.float32(2))
    return found


def fit_temperature(probabilities: NDArray[np.floating], confidence: float) -> float:
    """Return the temperature at which the mean confidence of :func:`temper` is the given one.

    Parameters
    ----------
    probabilities : ndarray (n, K)
        Rows of sum 1.
    confidence : float
        Wanted mean of the highest probabilities, in [0, 1]. It falls as the temperature rises, so that there
        is one solution.

    Returns
    -------
    float
        T in [0.01, 100], to four digits; the end of this range that comes closest where none gives the wanted
        confidence. 1.0 where there is nothing to choose by: no rows, one cluster, or rows in which no
        temperature sets any cluster apart.
    """
    if probabilities.shape[0] == 0 or probabilities.shape[1] < 2:
        return 1.0
    gaps = _gaps(probabilities)

    def excess(log_temperature: float) -> float:
        # The highest probability is 1 / Σ exp(gap / T), since its own gap is 0.
        return float(np.mean(1 / np.exp(gaps / math.exp(log_temperature)).sum(axis=1)) - confidence)

    low, high = -math.log(_MOST_TIMES), math.log(_MOST_TIMES)
    if excess(low) - excess(high) < _LEVEL:
        return 1.0
    if excess(low) <= 0:
        found = low
    elif excess(high) >= 0:
        found = high
    else:
        found = brentq(excess, low, high, xtol=1e-7)
    return float(f"{math.exp(found):.{_DIGITS}g}")


def estimate_accuracy(
    labels: NDArray[np.integer], owners: NDArray[np.integer], others: NDArray[np.integer]
) -> float | None:
    """Return how many samples a clustering puts right, estimated without classes, in (0, 1).

    It is a², with a the share of pairs of near samples that have one label. A sample is right if its label
    goes with its surroundings, and if these lie in the cluster of their kind; of the second nothing is known,
    and it is taken to be as likely as the first. Measured on data whose classes are known, the square is
    within 0.03 of the accuracy on average (docs/choices.md), and a itself lies far above it.

    Parameters
    ----------
    labels : ndarray (N,)
        Cluster of every sample.
    owners, others : ndarray (P,)
        Pairs of near samples, by their numbers.

    Returns
    -------
    float or None
        With one pair more that agrees and one that doesn't (Laplace's rule of succession), so that few pairs
        give no certainty. None without pairs.

    Examples
    --------
    >>> labels = np.array([0, 0, 0, 1])
    >>> estimate_accuracy(labels, np.array([0, 1, 2, 3]), np.array([1, 0, 1, 2]))  # (4/6)²
    0.4444444444444444
    """
    if not len(owners):
        return None
    agreeing = int(np.count_nonzero(labels[owners] == labels[others]))
    return ((agreeing + 1) / (len(owners) + 2)) ** 2


def near_pairs(
    X: RowMatrix, n_clusters: int, *, device: str | torch.device = "auto"
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return samples to calibrate by, and pairs of them and their near neighbours.

    Near are as many of the closest rows as make a twentieth of an average cluster, at least one. Where N is
    large, neighbours are found among 100 rows per cluster (at most 20,000, or 20 per cluster), always the
    same ones: time and memory are bounded, and the same share of a cluster is near, whatever N is.

    Parameters
    ----------
    X : row matrix (N, D)
        Checked features.
    n_clusters : int
        K.
    device : str or torch.device, default "auto"
        Where to compute.

    Returns
    -------
    rows : ndarray (R,) int64
        At most 2,000 of the rows of X, in ascending order.
    owners, others : ndarray (P,) int64
        Row numbers of every pair; no pairs where there are no two rows with a direction.
    """
    n_samples, dim = int(X.shape[0]), int(X.shape[1])
    wanted = max(min(_ROWS_PER_CLUSTER * n_clusters, _MOST_ROWS), _LEAST_ROWS_PER_CLUSTER * n_clusters)
    among = draw_rows(n_samples, wanted, _SEED)
    affordable = min(_JUDGED_VALUES // n_clusters, _JUDGED_PRODUCTS // (len(among) * dim))
    some = draw_rows(len(among), min(_JUDGED, max(_FEWEST_JUDGED, affordable)), _SEED)
    n_near = max(1, round(_NEAR * len(among) / n_clusters))
    owners, others = closest_rows(SelectedRows(X, among), some, n_near, device=device)
    return among[some], among[owners], among[others]


def calibrate(
    X: RowMatrix,
    labels: NDArray[np.integer],
    n_clusters: int,
    predict: Callable[[RowMatrix], NDArray[np.floating]],
    *,
    device: str | torch.device = "auto",
) -> float:
    """Return the temperature for a fit, in times of its own; of several processes the first one decides.

    Parameters
    ----------
    X : row matrix (N, D)
        The checked features that were fitted.
    labels : ndarray (N,)
        Their clusters.
    n_clusters : int
        K.
    predict : callable
        Gives the probabilities (n, K) of some rows as the method itself makes them.
    device : str or torch.device, default "auto"
        Where neighbours are found.

    Returns
    -------
    float
        For :func:`temper`; 1.0 where there is nothing to learn from: one cluster, or no neighbours.
    """
    workers, found = current_workers(), 1.0
    if workers.is_first and n_clusters > 1:
        rows, owners, others = near_pairs(X, n_clusters, device=device)
        accuracy = estimate_accuracy(labels, owners, others)
        if accuracy is not None:
            found = fit_temperature(predict(SelectedRows(X, rows)), accuracy)
            logger.info("mean confidence is set to %.3f: temperature times %g", accuracy, found)
    return float(workers.broadcast(found))


def _gaps(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithms of probabilities less those of their rows' highest, (n, K), 0 or below.

    A probability of 0 stays 0 at every temperature: a class without members has no other.
    """
    exact = np.asarray(probabilities, dtype=np.float64)
    logs = np.where(exact < _TINY, -np.inf, np.log(np.maximum(exact, _TINY)))
    gaps: NDArray[np.float64] = logs - logs.max(axis=1, keepdims=True)
    return gaps
