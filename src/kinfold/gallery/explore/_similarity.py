"""Groups in a line, alike ones beside each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST_AT_ONCE = 2_000
_OPTIMAL = 150


def order_by_similarity(centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an order of rows in which alike ones are beside each other.

    The leaves of average linkage by cosine, turned so that neighbours
    are as alike as the tree allows where there are few. Above 2,000 rows they are first halved along
    their principal direction, again and again.

    Parameters
    ----------
    centres : ndarray of float32, shape (n, d)
        Rows of unit length; zeros for those of which nothing is known, which come last.
    """
    known = np.flatnonzero(np.linalg.norm(centres, axis=1) > 0)
    unknown = np.setdiff1d(np.arange(len(centres)), known)
    pieces = [known[piece] for piece in _halve(centres[known], np.arange(len(known)))]
    ordered = [piece[_order_few(centres[piece])] for piece in pieces]
    order: NDArray[np.int64] = np.concatenate([*ordered, unknown]).astype(np.int64)
    return order


def _halve(centres: NDArray[np.float32], places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    if len(places) <= _MOST_AT_ONCE:
        return [places]
    some = centres[places] - centres[places].mean(axis=0)
    direction = np.ones(some.shape[1], np.float32)
    for _ in range(20):  # power iteration; nothing hangs on its last digit
        direction = some.T @ (some @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
    ordered = places[np.argsort(some @ direction, kind="stable")]
    middle = len(ordered) // 2
    return [*_halve(centres, ordered[:middle]), *_halve(centres, ordered[middle:])]


def _order_few(centres: NDArray[np.float32]) -> NDArray[np.int64]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(centres) < 3:
        return np.arange(len(centres))
    distances = np.clip(1 - centres @ centres.T, 0, 2)
    condensed = distances[np.triu_indices(len(centres), 1)].astype(np.float64)
    tree = linkage(condensed, "average", optimal_ordering=len(centres) <= _OPTIMAL)
    leaves: NDArray[np.int64] = leaves_list(tree).astype(np.int64)
    return leaves
