"""Walks over directed graphs without cycles, all in loops over levels: no recursion, whatever the depth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.hierarchy._links import Links, Numbers, spread

_SEEN_BYTES = 1 << 25


def longest_depths(parents: Links, children: Links) -> Numbers:
    """Return the number of steps of the longest way from a root to every node.

    Parameters
    ----------
    parents, children : Links
        The graph, in both directions.

    Returns
    -------
    ndarray of int32, shape (n_nodes,)
        0 at roots; −1 at nodes that lie on a cycle or below one.
    """
    depths = np.full(len(parents), -1, dtype=np.int32)
    waiting = parents.counts
    ready, level = np.flatnonzero(waiting == 0), 0
    while len(ready):
        depths[ready] = level
        below, times = np.unique(children.take(ready)[1], return_counts=True)
        waiting[below] -= times
        ready, level = below[waiting[below] == 0].astype(np.int64), level + 1
    return depths


def shortest_depths(children: Links, roots: ArrayLike) -> Numbers:
    """Return the number of steps of the shortest way from a root to every node, int32 (n_nodes,)."""
    depths = np.full(len(children), -1, dtype=np.int32)
    reached, level = np.asarray(roots, dtype=np.int32), 0
    while len(reached):
        depths[reached] = level
        below = np.unique(children.take(reached)[1])
        reached, level = below[depths[below] < 0], level + 1
    return depths


def find_cycle(parents: Links, depths: Numbers) -> list[int]:
    """Return the nodes of one cycle from child to parent, the first repeated at the end.

    ``depths`` are those of :func:`longest_depths`, with at least one node of −1.
    """
    node = int(np.flatnonzero(depths < 0)[0])
    place: dict[int, int] = {}
    way: list[int] = []
    while node not in place:
        place[node] = len(way)
        way.append(node)
        above = parents[node]
        node = int(above[depths[above] < 0][0])
    return [*way[place[node] :], node]


def breadth_first(links: Links, node: int) -> Numbers:
    """Return what can be reached from a node in any number of steps, nearest first, without the node itself.

    Nodes at the same distance stand in the order in which the lists name them.
    """
    return breadth_first_pairs(links, np.array([node], dtype=np.int64))[1]


def breadth_first_pairs(links: Links, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], Numbers]:
    """Do :func:`breadth_first` from several nodes.

    Returns
    -------
    owners : ndarray of int64, shape (m,)
        Position in ``nodes`` of the start of each.
    values : ndarray of int32, shape (m,)
        What was reached; of one owner nearest first. Pairs of several owners are mixed.
    """
    n_together = max(1, _SEEN_BYTES // max(1, len(links)))
    owners: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    values: list[Numbers] = [np.zeros(0, dtype=np.int32)]
    for start in range(0, len(nodes), n_together):
        for starters, reached in _steps(links, nodes[start : start + n_together]):
            owners.append(starters + start)
            values.append(reached)
    return np.concatenate(owners), np.concatenate(values)


def _steps(links: Links, nodes: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Numbers]]:
    """Yield the pairs of starts and what is new one step further away, distance by distance."""
    n = len(links)
    seen = np.zeros(len(nodes) * n, dtype=bool)
    owners: NDArray[np.int64] = np.arange(len(nodes))
    values: Numbers = nodes.astype(np.int32)
    seen[owners * n + values] = True
    while len(owners):
        positions, values = links.take(values)
        owners = owners[positions]
        keys = owners * n + values
        new = np.flatnonzero(~seen[keys])
        new = new[np.sort(np.unique(keys[new], return_index=True)[1])]
        owners, values = owners[new], values[new]
        seen[keys[new]] = True
        yield owners, values


def closure(parents: Links, depths: Numbers) -> Links:
    """Return all ancestors of every node, each list ascending, a node not among its own.

    Levels are done from the roots down: the ancestors of a node are its parents and all of theirs.

    Parameters
    ----------
    parents : Links
        The graph.
    depths : ndarray of int32, shape (n_nodes,)
        Any numbers that are larger at a node than at its parents.
    """
    n = len(parents)
    pool: Numbers = np.empty(4 * n + 16, dtype=np.int32)
    filled = 0
    starts, counts = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for nodes in levels(depths)[1:]:
        owners, direct = parents.take(nodes)
        further = pool[spread(starts[direct], counts[direct])]
        keys = np.concatenate([owners * n + direct, np.repeat(owners, counts[direct]) * n + further])
        keys = np.unique(keys)
        while filled + len(keys) > len(pool):
            pool = np.concatenate([pool, np.empty_like(pool)])
        pool[filled : filled + len(keys)] = keys % n
        counts[nodes] = np.bincount(keys // n, minlength=len(nodes))
        starts[nodes] = filled + np.cumsum(counts[nodes]) - counts[nodes]
        filled += len(keys)
    return Links.from_counts(counts, pool[spread(starts, counts)])


def levels(depths: Numbers) -> list[NDArray[np.int64]]:
    """Return the nodes of every depth from 0 on, ascending."""
    order = np.argsort(depths, kind="stable")
    return np.split(order, np.cumsum(np.bincount(depths))[:-1])


def without_shortcuts(owners: NDArray[np.int64], values: Numbers, n: int) -> NDArray[np.bool_]:
    """Mark the pairs (node, ancestor) of a closure with no other ancestor in between.

    Parameters
    ----------
    owners, values : ndarray, shape (n_pairs,)
        All pairs of nodes and ancestors, both numbered 0 to n − 1, none twice.
    n : int
        Number of nodes.

    Returns
    -------
    ndarray of bool, shape (n_pairs,)
        False where the ancestor is also an ancestor of another ancestor of the node.
    """
    ancestors = Links.from_pairs(owners, values, n)
    positions, further = ancestors.take(values)
    shortcuts = np.unique(owners[positions] * n + further)
    return ~np.isin(owners * n + values, shortcuts)
