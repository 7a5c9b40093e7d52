"""Make the tree of groups: parts of every fitted cluster, and what joins what."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.levels._levels import Levels
from kinfold.methods import MergeTree, join_by_variance, small_clusters, spread_along_graph
from kinfold.neighbors import NeighborGraph
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix
from kinfold.rows.readers import UnitRows

# Parts that groups are cut into, in all: enough to look finely, few enough that their tree is small.
_FEWEST_PARTS, _MOST_PARTS = 40, 4096
_PARTS_PER_ROOT = 2  # times the square root of the number of samples
_PARTS_PER_CLUSTER = 8
_ROWS_PER_PART = 5  # on average at least, so that a part is a set of images and no single one
_DRAWN_PER_PART = 256  # rows that the parts of one group are found on
_DRAWN_FOR_TREE = 50_000  # samples that tell how parts lie along the neighbour graph
_PART_ITERATIONS = 25
_MOST_CLUSTERS = 8192  # whose tree is made at once: two tables of half a GiB


def build_levels(
    X: RowMatrix,
    clusters: NDArray[np.integer],
    n_clusters: int,
    graph: NeighborGraph | None = None,
    *,
    seed: int,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Levels:
    """Find the parts of fitted clusters, and how parts and clusters join.

    Each cluster is cut into parts by spherical k-means. Features diffuse along the neighbour graph, as for
    :class:`~kinfold.GraphClustering`, and Ward's method joins the means of parts within each cluster, then
    those of clusters. The union that adds most to the sum of squares within groups is divided first.

    Parameters
    ----------
    X : row matrix (N, D)
        The training samples.
    clusters : ndarray (N,)
        Fitted cluster of each.
    n_clusters : int
        K of the fit.
    graph : NeighborGraph, optional
        Their neighbours; used for up to 50,000 samples. Of more, so many are drawn and theirs are found.
    seed : int
        Of k-means and of the rows drawn.
    device : str, default "auto"
        Where neighbours are searched.
    progress : Progress
        Shows clusters that were cut.

    Returns
    -------
    Levels
        About 2 √N parts, at least 40 or 8 of each cluster, at most 4,096 or one of each cluster, and of 5
        samples on average at least.
    """
    n_samples = len(clusters)
    sizes = np.bincount(clusters, minlength=n_clusters)
    n_parts = count_level_parts(n_samples, n_clusters)
    order = np.argsort(clusters, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    random = np.random.RandomState(seed)
    centers, owners = [], []
    with progress.task("cutting groups into parts", n_clusters, "groups") as task:
        for cluster in range(n_clusters):
            rows = order[starts[cluster] : starts[cluster + 1]]
            # A generator of its own: how many numbers one cluster draws must not move the next.
            own = np.random.RandomState(random.randint(2**31))
            if len(rows):
                centers.append(_cut(X, rows, max(1, round(n_parts * len(rows) / n_samples)), own))
                owners += [cluster] * len(centers[-1])
            task.advance(1)
    part_clusters, directions = np.array(owners, dtype=np.int32), np.concatenate(centers)
    unjoined = MergeTree(np.zeros((0, 2), np.int32), np.zeros(0))
    found = Levels(n_clusters, part_clusters, np.zeros(len(owners), np.int64), directions, unjoined)
    parts: NDArray[np.intp] = found.find_parts(X, clusters).astype(np.intp)
    part_sizes = np.bincount(parts, minlength=found.n_parts)
    used = np.flatnonzero(part_sizes)  # a part that is nobody's closest is none
    parts = np.searchsorted(used, parts)
    part_clusters, part_sizes = part_clusters[used], part_sizes[used]
    means = _means_along_graph(X, parts, part_sizes, graph, seed, device)
    tree = _join(means, part_sizes, part_clusters)
    return Levels(n_clusters, part_clusters, part_sizes, directions[used], tree)


def count_level_parts(n_samples: int, n_clusters: int) -> float:
    """Return about how many groups the finest level has; one per cluster at least, whatever comes out."""
    wanted = max(_PARTS_PER_ROOT * math.sqrt(n_samples), _PARTS_PER_CLUSTER * n_clusters, _FEWEST_PARTS)
    return min(wanted, _MOST_PARTS, n_samples / _ROWS_PER_PART)


def _cut(
    X: RowMatrix, rows: NDArray[np.int64], n_parts: int, random: np.random.RandomState
) -> NDArray[np.float32]:
    """Return the mean directions (m, D) of at most so many parts of some rows."""
    most = _DRAWN_PER_PART * n_parts
    if len(rows) > most:
        rows = np.sort(random.choice(rows, most, replace=False))
    block = np.asarray(X[rows], dtype=np.float32)
    if n_parts == 1:
        units = UnitRows(block, torch.device("cpu")).read(0, len(rows)).numpy()
        total: NDArray[np.float64] = units.sum(axis=0, dtype=np.float64)
        return (total / max(np.linalg.norm(total), np.finfo(np.float64).tiny)).astype(np.float32)[None]
    return small_clusters(block, n_parts, random, max_iter=_PART_ITERATIONS)[0]


def _means_along_graph(
    X: RowMatrix,
    parts: NDArray[np.integer],
    sizes: NDArray[np.int64],
    graph: NeighborGraph | None,
    seed: int,
    device: str,
) -> NDArray[np.float64]:
    """Return the mean (M, d) of every part where features have diffused along the neighbour graph."""
    rows = draw_of_each(parts, sizes, _DRAWN_FOR_TREE)
    whole = len(rows) == len(parts)
    spread = spread_along_graph(
        X if whole else np.asarray(X[rows]), graph if whole else None, seed=seed, device=device
    )
    means = np.zeros((len(sizes), spread.shape[1]))
    np.add.at(means, parts[rows], spread)
    return means / np.bincount(parts[rows], minlength=len(sizes))[:, None]


def draw_of_each(parts: NDArray[np.integer], sizes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return all rows, or about ``most``: the same share of every part, evenly spaced, and one at least."""
    if len(parts) <= most:
        return np.arange(len(parts))
    order = np.argsort(parts, kind="stable")
    starts = np.cumsum(sizes) - sizes
    counts = np.maximum(1, np.floor(sizes * (most / len(parts)))).astype(np.int64)
    owners = np.repeat(np.arange(len(sizes)), counts)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[starts[owners] + within * sizes[owners] // counts[owners]])


def _join(
    means: NDArray[np.float64], sizes: NDArray[np.int64], part_clusters: NDArray[np.int32]
) -> MergeTree:
    """Return the tree of parts: those of each cluster join first, the closest of all, then clusters."""
    n_parts = len(part_clusters)
    live, which = np.unique(part_clusters, return_inverse=True)
    unions: list[tuple[float, int, int, int]] = []  # similarity, cluster, and the two nodes of its own tree
    nodes: list[list[int]] = []  # the node of the whole tree for each of the cluster's own
    for place in range(len(live)):
        own = np.flatnonzero(which == place)
        nodes.append(own.tolist())
        tree = join_by_variance(means[own], sizes[own])
        for similarity, (a, b) in zip(tree.similarities.tolist(), tree.merges.tolist(), strict=True):
            unions.append((similarity, place, a, b))
    unions.sort(key=lambda union: -union[0])  # stable: those of one cluster stay in their order
    merges, similarities = [], []
    for similarity, place, a, b in unions:
        merges.append((nodes[place][a], nodes[place][b]))
        similarities.append(similarity)
        nodes[place].append(n_parts + len(merges) - 1)
    whole = [own[-1] for own in nodes]
    for similarity, a, b in _join_clusters(means, sizes, which, len(live)):
        whole.append(n_parts + len(merges))
        merges.append((whole[a], whole[b]))
        similarities.append(similarity)
    return MergeTree(np.array(merges, dtype=np.int32).reshape(-1, 2), np.array(similarities))


def _join_clusters(
    means: NDArray[np.float64], sizes: NDArray[np.int64], which: NDArray[np.integer], n_live: int
) -> list[tuple[float, int, int]]:
    """Return the unions of whole clusters, from the first to the last."""
    totals = np.bincount(which, sizes, minlength=n_live)
    sums = np.zeros((n_live, means.shape[1]))
    np.add.at(sums, which, means * sizes[:, None])
    centers = sums / totals[:, None]
    kept = np.sort(np.argsort(-totals, kind="stable")[:_MOST_CLUSTERS])
    unions, node = [], kept.tolist()
    # Of more clusters than a table can hold the smallest go to the closest of the others first.
    rest = np.setdiff1d(np.arange(n_live), kept)
    for place in rest.tolist():
        apart = np.square(centers[kept] - centers[place]).sum(axis=1)
        closest = int(apart.argmin())
        weight = totals[kept[closest]] * totals[place] / (totals[kept[closest]] + totals[place])
        unions.append((-float(weight * apart[closest]), node[closest], place))
        node[closest] = n_live + len(unions) - 1
    tree = join_by_variance(centers[kept], totals[kept])
    for similarity, (a, b) in zip(tree.similarities.tolist(), tree.merges.tolist(), strict=True):
        unions.append((similarity, node[a], node[b]))
        node.append(n_live + len(unions) - 1)
    return unions
