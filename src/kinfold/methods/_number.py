"""How many groups there are: a number where the data have one, and levels to choose from where they don't.

Groups that are meant lie apart, and are found again in other samples. How far they lie apart is measured at
every level of a tree, where features have diffused along the neighbour graph, beside what chance would give;
and so is how well two halves of the samples agree, each of which is grouped without the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances

from kinfold.errors import InputError, count_of
from kinfold.methods._graph_labelings import (
    N_COMPONENTS,
    RESTARTS,
    diffuse,
    principal_components,
    walk_along,
)
from kinfold.methods._kmeans_starts import small_clusters
from kinfold.methods._merging import MergeTree, join_by_variance
from kinfold.methods._rows import draw_rows
from kinfold.metrics import adjusted_mutual_info
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, to_array

# docs/choices.md says what chose these.
MOST_SAMPLES = 20_000  # that the number is estimated on: it must not drift with the size of a folder
_N_TREES, _N_PAIRS, _N_NULLS = 3, 2, 5
_SEEN = 2_000  # samples that separation is measured on
_AGREED = 4_000  # samples that halves are compared on
_NULL_SAMPLES = 2_000
_PARTS_PER_ROOT, _FEWEST_PARTS, _ROWS_PER_PART = 4, 40, 5
_PARTS_PER_GROUP = 2  # at the finest level that is looked at
_ITERATIONS = 20
_DENSE = 30  # so many numbers are all looked at; beyond they are log-spaced
_SPARSE = 24
_AS_GOOD = 0.96  # of the best separation: the coarsest level that has it is meant
_CLEAR = 0.32  # separation
_FOUND_AGAIN = 0.5  # stability
_DEVIATIONS = 3  # that separation lies above its mean in samples without groups
_FEWEST_FOR_NUMBER = 50  # samples


@dataclass(frozen=True)
class LevelEstimate:
    """How many groups there are.

    Attributes
    ----------
    n_groups : tuple of int
        Numbers that were looked at, ascending.
    separation : tuple of float
        Mean silhouette of the groups, in [−1, 1], where features have diffused along the neighbour graph.
    stability : tuple of float
        Adjusted mutual information between groupings of two halves of the samples, at most 1.
    null_separation : tuple of float
        What separation reaches by chance: mean plus three standard deviations of five Gaussian samples of the
        same covariance, which have no groups.
    recommended : int or None
        The number of groups; None where no number is clear.
    candidates : tuple of int
        Numbers that are better than those beside them, the best first.
    chosen : int
        The number to group by: the recommended one, else one on the fine side, since groups that belong
        together are joined more easily than mixed ones are taken apart: half the square root of N, or the
        number that stands out most, where that is larger and its groups lie further apart than by chance.
    reason : str
        Why, in a sentence.
    """

    n_groups: tuple[int, ...]
    separation: tuple[float, ...]
    stability: tuple[float, ...]
    null_separation: tuple[float, ...]
    recommended: int | None
    candidates: tuple[int, ...]
    chosen: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


def estimate_levels(
    X: ArrayLike | RowMatrix,
    *,
    graph: NeighborGraph | None = None,
    least: int = 2,
    most: int | None = None,
    random_state: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> LevelEstimate:
    """Estimate how many groups of images there are.

    At most 20,000 samples are looked at. Their features diffuse along the neighbour graph; Ward's method
    joins small clusters of them, and every number of groups of that tree is judged by its separation, see
    :class:`LevelEstimate`. The number is the coarsest whose separation is at least 0.96 of the best. It is
    clear if that is at least 0.32 and above chance, and halves of the samples agree by at least 0.5.

    Parameters
    ----------
    X : array-like or row matrix (N, D)
        Features.
    graph : NeighborGraph, optional
        Neighbours of the N samples; used where all of them are looked at, else made here.
    least, most : int, default 2 and as many as can be told apart
        Numbers that are looked at.
    random_state : int, default 0
        Seed; the same one gives the same estimate on the same machine.
    device : str, default "auto"
        Where neighbours are searched.
    progress : Progress
        Shows groupings.

    Returns
    -------
    LevelEstimate

    Raises
    ------
    InputError
        No number of groups is between ``least`` and ``most``.

    References
    ----------
    Rousseeuw (1987), "Silhouettes"; Lange, Roth, Braun & Buhmann (2004), "Stability-Based Validation of
    Clustering Solutions". What chose the limits is in docs/choices.md.
    """
    matrix: Any = X if hasattr(X, "shape") else to_array(X)
    n_samples = int(matrix.shape[0])
    if least < 1 or (most is not None and most < least):
        raise InputError(f"the number of groups can't be from {least} to {most}; give a range like 5..50")
    drawn = draw_rows(n_samples, MOST_SAMPLES, random_state)
    n_parts = count_tree_parts(len(drawn))
    finest = n_parts // _PARTS_PER_GROUP
    numbers = numbers_between(least, most, finest)
    if len(drawn) < _FEWEST_FOR_NUMBER:
        verb = "is" if n_samples == 1 else "are"
        return _guess(
            n_samples,
            least,
            most,
            f"{count_of(n_samples, 'image')} {verb} too few to tell how many groups there are",
        )
    if not numbers:
        looked = f"{least}" if least == most else f"{least} to {most}"
        return _guess(
            n_samples,
            least,
            most,
            f"{count_of(len(drawn), 'image')} can tell whether there are 2 to {finest} groups, not {looked}",
        )
    rows = matrix if len(drawn) == n_samples else np.asarray(matrix[drawn])
    X_ = principal_components(rows, seed=random_state)
    random = np.random.RandomState(random_state)
    with progress.task(
        "estimating the number of groups", _N_TREES + 2 * _N_PAIRS + _N_NULLS, "groupings"
    ) as task:
        walk = walk_along(rows, graph if len(drawn) == n_samples else None, device=device)
        spread = diffuse(X_, walk, RESTARTS[-1])
        grown = []
        for _ in range(_N_TREES):
            grown.append(_grow(spread, n_parts, random))
            task.advance(1)
        n_apart = max(tree.n_leaves for _, tree in grown)
        numbers = [number for number in numbers if number <= n_apart]
        if len(numbers) == 0:
            return _alike(n_samples, least, most, n_apart)
        seen = draw_rows(len(X_), _SEEN, random_state)
        distances = _distances(spread[seen])
        separation = np.zeros(len(numbers))
        for parts, tree in grown:
            separation += _separations(distances, parts[seen], tree, numbers) / _N_TREES
        stability = _stabilities(X_, numbers, random, device, task.advance)
        null = _null_separations(X_, numbers, random, device)
        task.advance(_N_NULLS)
    return _choose(numbers, separation, stability, null, n_samples)


def count_tree_parts(n_samples: int) -> int:
    """Return how many small clusters make the leaves of a tree of N samples."""
    return int(
        min(max(_PARTS_PER_ROOT * math.sqrt(n_samples), _FEWEST_PARTS), max(1, n_samples // _ROWS_PER_PART))
    )


def count_estimate_operations(n_samples: int, n_features: int) -> float:
    """Return the floating-point operations that :func:`estimate_levels` is expected to make."""
    n_seen = min(n_samples, MOST_SAMPLES)
    width = min(N_COMPONENTS, n_features)
    searches = n_seen * n_features + _N_PAIRS * n_seen * width / 2
    passes = (_N_TREES + _N_PAIRS) * count_tree_parts(n_seen) * width * _ITERATIONS
    return 2.0 * n_seen * (searches + passes)


def numbers_between(least: int, most: int | None, finest: int) -> list[int]:
    """Return the numbers of groups to look at: all up to 30, then 24 on a logarithmic scale of the rest."""
    top = finest if most is None else min(most, finest)
    dense = np.arange(max(2, least), min(top, _DENSE) + 1)
    coarsest = max(_DENSE, min(least, top))
    sparse = np.round(np.geomspace(coarsest, max(top, coarsest), _SPARSE + 1)).astype(int)
    both = np.unique(np.concatenate([dense, sparse[(sparse >= max(2, least)) & (sparse <= top)]]))
    return [int(number) for number in both]


def _spread(X: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """Return principal components as they become along their own neighbour graph."""
    return diffuse(X, walk_along(X, device=device), RESTARTS[-1])


def _grow(
    X: NDArray[np.float32], n_parts: int, random: np.random.RandomState
) -> tuple[NDArray[np.int64], MergeTree]:
    """Return the small cluster of every sample, numbered without gaps, and the tree that joins them."""
    centers, labels = small_clusters(X, n_parts, random, max_iter=_ITERATIONS)
    used, parts = np.unique(labels, return_inverse=True)
    return parts, join_by_variance(centers[used], np.bincount(parts))


def _cuts(tree: MergeTree, numbers: Sequence[int]) -> list[NDArray[np.int32]]:
    return [tree.cut(min(number, tree.n_leaves)) for number in numbers]


def _distances(X: NDArray[np.float32]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = pairwise_distances(X)
    np.fill_diagonal(distances, 0)
    return distances


def _separations(
    distances: NDArray[np.float32], parts: NDArray[np.int64], tree: MergeTree, numbers: Sequence[int]
) -> NDArray[np.float64]:
    """Return the mean silhouette at every number of groups; 0 where the samples seen are in one group.

    Distances are summed once, over small clusters: every level adds these sums up.
    """
    used, own = np.unique(parts, return_inverse=True)
    members = np.zeros((len(parts), len(used)), dtype=np.float32)
    members[np.arange(len(parts)), own] = 1
    sums, sizes = (distances @ members).astype(np.float64), members.sum(axis=0)
    return np.array(
        [_mean_silhouette(sums, sizes, own, cut[used]) for cut in _cuts(tree, numbers)], dtype=np.float64
    )


def _mean_silhouette(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float32],
    own: NDArray[np.int64],
    groups_of_parts: NDArray[np.int32],
) -> float:
    """Return the mean silhouette of groups of small clusters.

    Parameters
    ----------
    sums : NDArray of float (n, P)
        Distances of each sample to all members of each small cluster, added.
    sizes : NDArray of float (P,)
        How many members these have.
    own : NDArray of int (n,)
        The small cluster of each sample.
    groups_of_parts : NDArray of int (P,)
        The group of each small cluster.
    """
    used, groups = np.unique(groups_of_parts, return_inverse=True)
    if not 1 < len(used) < len(own):
        return 0.0
    member = np.eye(len(used))[groups]
    totals, counts, mine = sums @ member, sizes @ member, groups[own]
    here = np.arange(len(own)), mine
    inside = totals[here] / np.maximum(counts[mine] - 1, 1)
    totals /= counts
    totals[here] = np.inf
    outside = totals.min(axis=1)
    silhouettes = (outside - inside) / np.maximum(np.maximum(inside, outside), np.finfo(np.float64).tiny)
    return float(np.where(counts[mine] > 1, silhouettes, 0).mean())


def _stabilities(
    X: NDArray[np.float32],
    numbers: Sequence[int],
    random: np.random.RandomState,
    device: str,
    advance: Any,
) -> NDArray[np.float64]:
    """Return how well halves agree: each groups its own samples, and all others by its closest part."""
    stability = np.zeros(len(numbers))
    for _ in range(_N_PAIRS):
        order = random.permutation(len(X))
        compared = draw_rows(len(X), _AGREED, int(random.randint(2**31)))
        sides = []
        for half in (np.sort(order[: len(X) // 2]), np.sort(order[len(X) // 2 :])):
            own = X[half]
            parts, tree = _grow(_spread(own, device), count_tree_parts(len(own)), random)
            closest = _closest_parts(X[compared], own, parts)
            place = np.searchsorted(half, compared)
            inside = (place < len(half)) & (half[np.minimum(place, len(half) - 1)] == compared)
            closest[inside] = parts[place[inside]]
            sides.append([cut[closest] for cut in _cuts(tree, numbers)])
            advance(1)
        stability += [adjusted_mutual_info(a, b) for a, b in zip(*sides, strict=True)]
    return stability / _N_PAIRS


def _closest_parts(
    X: NDArray[np.float32], samples: NDArray[np.float32], parts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the part whose mean direction is closest to every row of X."""
    units = samples / np.maximum(np.linalg.norm(samples, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    means = np.zeros((int(parts.max()) + 1, X.shape[1]))
    np.add.at(means, parts, units)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray((X.astype(np.float64) @ means.T).argmax(axis=1))


def _null_separations(
    X: NDArray[np.float32], numbers: Sequence[int], random: np.random.RandomState, device: str
) -> NDArray[np.float64]:
    """Return what separation reaches in Gaussian samples of the covariance of X: mean + 3 deviations."""
    n_samples = min(len(X), _NULL_SAMPLES)
    centred = X - X.mean(axis=0)
    _, scales, axes = np.linalg.svd(centred, full_matrices=False)
    found = []
    for _ in range(_N_NULLS):
        drawn = random.standard_normal((n_samples, len(scales))) * (scales / math.sqrt(len(X)))
        spread = _spread((drawn @ axes).astype(np.float32), device)
        parts, tree = _grow(spread, count_tree_parts(n_samples), random)
        found.append(_separations(_distances(spread), parts, tree, numbers))
    reached: NDArray[np.float64] = np.mean(found, axis=0) + _DEVIATIONS * np.std(found, axis=0, ddof=1)
    return reached


def _choose(
    numbers: Sequence[int],
    separation: NDArray[np.float64],
    stability: NDArray[np.float64],
    null: NDArray[np.float64],
    n_samples: int,
) -> LevelEstimate:
    best = max(0.0, float(separation.max()))
    found = int(np.flatnonzero(separation >= _AS_GOOD * best)[0]) if best else int(separation.argmax())
    above = separation - null
    clear = separation[found] >= _CLEAR and above[found] > 0 and stability[found] >= _FOUND_AGAIN
    padded = np.concatenate([[-np.inf], separation, [-np.inf]])
    peaks = np.flatnonzero((separation > padded[:-2]) & (separation >= padded[2:]) & (above > 0))
    candidates = [numbers[place] for place in peaks[np.argsort(-separation[peaks], kind="stable")]]
    measured = (
        f"separation {separation[found]:.2f}, by chance {null[found]:.2f}; agreement of halves "
        f"{stability[found]:.2f}"
    )
    if clear:
        chosen, reason = numbers[found], f"groups lie apart and are found again in halves ({measured})"
    else:
        chosen = _fine_number(n_samples, numbers)
        if above[found] > 0:  # what stands out is there, if not clearly: nothing coarser
            chosen = max(chosen, numbers[found])
        reason = (
            f"no number is clear: of all, {numbers[found]} stand out most, but not enough ({measured}); "
            f"{chosen} is on the fine side"
        )
    return LevelEstimate(
        tuple(numbers),
        tuple(round(float(value), 4) for value in separation),
        tuple(round(float(value), 4) for value in stability),
        tuple(round(float(value), 4) for value in null),
        chosen if clear else None,
        tuple(candidates),
        chosen,
        reason,
    )


def _fine_number(n_samples: int, numbers: Sequence[int]) -> int:
    """Return the number, of those that were looked at, closest to half the square root of N."""
    wanted = math.sqrt(n_samples) / 2
    return min(numbers, key=lambda number: (abs(math.log(number / wanted)), number))


def _guess(n_samples: int, least: int, most: int | None, why: str) -> LevelEstimate:
    """Return half the square root of N, within the range: nothing could be measured."""
    chosen = max(1, min(max(least, round(math.sqrt(n_samples) / 2)), n_samples, most or n_samples))
    return LevelEstimate((), (), (), (), None, (), chosen, f"{why}; {chosen} is a guess")


def _alike(n_samples: int, least: int, most: int | None, n_apart: int) -> LevelEstimate:
    """Return what is closest, within the range, to the number of images that differ at all."""
    asked = most is not None or least > 2
    chosen = min(least, n_samples) if asked else n_apart
    reason = (
        f"all images look the same; {count_of(chosen, 'group')}"
        if n_apart == 1
        else f"only {n_apart} different images can be told apart, fewer than the {least} that were asked for"
    )
    return LevelEstimate((), (), (), (), None, (), chosen, reason)
