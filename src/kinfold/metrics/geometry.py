"""How compact and how far apart clusters are: Davies–Bouldin index and silhouette."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from kinfold.errors import InputError
from kinfold.metrics.contingency import encode
from kinfold.rows import RowMatrix
from kinfold.validation import Either, Integer, Nothing, check

_BLOCK_BYTES = 64 << 20  # of rows in float64: little beside any matrix that needs blocks
_JUDGED_AT_ONCE = 256  # each group reads all rows once, so more of them read less and take more memory
_DEFAULT_JUDGED = 2000  # the standard error of the mean is then two hundredths at most
# Squared distances below this share of the squared lengths have lost six or more of float64's sixteen digits
# to cancelling; they are computed again from differences.
_CLOSE = 1e-6
_SAME = 1e-12  # of lengths: centres this close are one, but for rounding


def davies_bouldin(X: ArrayLike | RowMatrix, labels: ArrayLike) -> float:
    """Return the Davies–Bouldin index, 0 or more; lower is better.

    For every cluster the worst of ``(s_i + s_j) / d_ij``, averaged over clusters; ``s`` is the mean distance
    of a cluster's rows from its centre and ``d`` the distance of centres, both Euclidean. Of clusters with
    the same centre the ratio counts as 0, and the index is 0 if all rows lie on their centres or all centres
    on one point, as in scikit-learn.

    Davies and Bouldin, "A Cluster Separation Measure", IEEE TPAMI 1979.

    Parameters
    ----------
    X : array or row matrix (n_samples, n_features)
        Features, read three times in blocks.
    labels : array-like, shape (n_samples,)
        Clusters, of any hashable type, two different ones at least.

    Raises
    ------
    InputError
        Shapes don't fit, there is one cluster alone, or X isn't finite.

    Examples
    --------
    >>> davies_bouldin([[0.0], [2.0], [10.0], [12.0]], [0, 0, 1, 1])
    0.2
    """
    rows, codes, sizes = _read(X, labels)
    centres = np.zeros((len(sizes), rows.shape[1]))
    for part, block in _blocks(rows):
        np.add.at(centres, codes[part], block)
    centres /= sizes[:, None]
    widths = np.zeros(len(sizes))
    for part, block in _blocks(rows):
        np.add.at(widths, codes[part], np.linalg.norm(block - centres[codes[part]], axis=1))
    widths /= sizes
    # Shifted for their distances, as fewer digits cancel near the origin.
    centered = centres - centres.mean(axis=0)
    lengths = np.linalg.norm(centres, axis=1)
    worst: NDArray[np.float64] = np.zeros(len(sizes))
    farthest = 0.0
    step = max(1, _BLOCK_BYTES // (8 * len(sizes)))
    for start in range(0, len(sizes), step):
        own = slice(start, start + step)
        apart = _distances(centered[own], centered)
        farthest = max(farthest, float(apart.max()))
        apart[apart <= _SAME * lengths.max()] = np.inf
        worst[own] = ((widths[own, None] + widths) / apart).max(axis=1)
    if np.allclose(widths, 0) or np.isclose(farthest, 0):
        return 0.0
    return float(worst.mean())


@dataclass(frozen=True)
class Silhouette:
    """The mean silhouette, of all samples or of a random part.

    Attributes
    ----------
    value : float
        Mean of ``(b − a) / max(a, b)``, −1 to 1.
    standard_error : float
        Of the mean as an estimate for all samples; 0 where all were judged.
    n_judged : int
        Samples whose silhouette was taken, each against all samples.
    """

    value: float
    standard_error: float
    n_judged: int


def silhouette(
    X: ArrayLike | RowMatrix,
    labels: ArrayLike,
    *,
    n_judged: int | None = _DEFAULT_JUDGED,
    random_state: int = 0,
) -> Silhouette:
    """Return the mean silhouette with Euclidean distances.

    A sample's silhouette compares a, its mean distance to the others of its cluster, with b, the least mean
    distance to the samples of another; that of a sample alone in its cluster is 0. A random part is judged,
    but each against *all* samples, so that small clusters stay what they are; the work is
    ``n_judged · n_samples · n_features``.

    Rousseeuw, "Silhouettes: a graphical aid", Journal of Computational and Applied Mathematics 1987.

    Parameters
    ----------
    X : array or row matrix (n_samples, n_features)
        Features, read in blocks.
    labels : array-like, shape (n_samples,)
        Clusters, of any hashable type: two different ones at least, and fewer than samples.
    n_judged : int or None, default 2000
        Samples to judge, drawn without replacement; None, or as many as there are, judges all.
    random_state : int, default 0
        Seed of the draw.

    Raises
    ------
    InputError
        Shapes don't fit, the number of clusters is out of range, or X isn't finite.

    Examples
    --------
    >>> silhouette([[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1]).value.__round__(3)
    0.9
    """
    rows, codes, sizes = _read(X, labels)
    n = len(codes)
    if len(sizes) == n:
        raise InputError(f"every one of the {n} samples is a cluster of its own; a silhouette needs fewer")
    check({"n_judged": Either(Integer(), Nothing())}, n_judged=n_judged)
    chosen: NDArray[np.int64] = np.arange(n)
    if n_judged is not None and n_judged < n:
        chosen = np.sort(np.random.default_rng(random_state).choice(n, n_judged, replace=False))
    values = _silhouettes(rows, codes, sizes, chosen)
    m = len(chosen)
    spread = float(values.std(ddof=1)) if 1 < m < n else float("nan")
    # Drawn without replacement: the correction makes the error vanish as all are judged.
    error = 0.0 if m == n else spread * np.sqrt((1 - m / n) / m)
    return Silhouette(float(values.mean()), float(error), m)


def _silhouettes(
    X: Any, codes: NDArray[np.int64], sizes: NDArray[np.int64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    values = np.empty(len(chosen))
    # Distances don't change when all rows are shifted; near the origin fewer of their digits cancel.
    shift = np.asarray(X[chosen[: min(len(chosen), _JUDGED_AT_ONCE)]], dtype=np.float64).mean(axis=0)
    for start in range(0, len(chosen), _JUDGED_AT_ONCE):
        judged = chosen[start : start + _JUDGED_AT_ONCE]
        own = np.asarray(X[judged], dtype=np.float64) - shift
        sums = np.zeros((len(judged), len(sizes)))
        for part, block in _blocks(X, extra=8 * len(judged)):
            apart = _distances(own, block - shift)
            inside = (judged >= part.start) & (judged < part.start + len(block))
            apart[np.flatnonzero(inside), judged[inside] - part.start] = 0.0
            of_cluster = sparse.csr_matrix(
                (np.ones(len(block)), (codes[part], np.arange(len(block)))), shape=(len(sizes), len(block))
            )
            sums += (of_cluster @ apart.T).T
        values[start : start + len(judged)] = _compare(sums, codes[judged], sizes)
    return values


def _compare(
    sums: NDArray[np.float64], own: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return silhouettes from the sums of distances to every cluster (n, K)."""
    lines = np.arange(len(own))
    alone = sizes[own] == 1
    inside = sums[lines, own] / np.maximum(sizes[own] - 1, 1)
    means = sums / sizes
    means[lines, own] = np.inf
    outside = means.min(axis=1)
    larger = np.maximum(inside, outside)
    values: NDArray[np.float64] = np.divide(
        outside - inside, larger, out=np.zeros(len(own)), where=larger > 0
    )
    values[alone] = 0.0
    return values


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Euclidean distances (n, m) of rows, those of close rows from their differences."""
    squares = a @ b.T
    squares *= -2
    lengths = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    squares += lengths
    # What is left after cancelling has few digits where rows lie close together.
    first, second = np.nonzero(squares < _CLOSE * lengths)
    step = max(1, _BLOCK_BYTES // (8 * a.shape[1]))
    for start in range(0, len(first), step):
        i, j = first[start : start + step], second[start : start + step]
        squares[i, j] = np.square(a[i] - b[j]).sum(axis=1)
    np.maximum(squares, 0, out=squares)
    return np.asarray(np.sqrt(squares, out=squares))


def _blocks(X: Any, extra: int = 0) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield places and rows as float64; ``extra`` bytes per row are needed beside them."""
    step = max(1, _BLOCK_BYTES // (8 * X.shape[1] + extra))
    for start in range(0, X.shape[0], step):
        part = slice(start, min(start + step, X.shape[0]))
        block = np.asarray(X[part], dtype=np.float64)
        if not np.isfinite(block).all():
            row = start + int((~np.isfinite(block)).any(axis=1).argmax())
            raise InputError(f"row {row} of X is not finite; leave such rows out")
        yield part, block


def _read(X: ArrayLike | RowMatrix, labels: ArrayLike) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    rows = X if hasattr(X, "shape") else np.asarray(X)
    clusters, codes = encode(labels, "labels")
    if len(rows.shape) != 2 or rows.shape[0] != len(codes):
        raise InputError(f"X has the shape {tuple(rows.shape)}, but there are {len(codes)} labels")
    if len(clusters) < 2:
        raise InputError(f"there must be two clusters or more, not {len(clusters)}")
    return rows, codes, np.bincount(codes, minlength=len(clusters))
