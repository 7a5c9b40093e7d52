"""Hierarchies: nodes with ids, any number of parents each, no cycles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.validation import check_choice

Numbers = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Links:
    """One list of numbers for every node, as a CSR matrix keeps its columns; read-only.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n_nodes + 1,)
        List i is ``indices[indptr[i]:indptr[i + 1]]``.
    indices : ndarray of int32, shape (n_links,)
        The lists one after the other; the order within a list is meant.

    Examples
    --------
    >>> links = Links.from_counts([2, 0, 1], [1, 2, 0])
    >>> links[0], len(links)
    (array([1, 2], dtype=int32), 3)
    >>> links.take([2, 0])
    (array([0, 1, 1]), array([0, 1, 2], dtype=int32))
    """

    indptr: NDArray[np.int64]
    indices: Numbers

    def __post_init__(self) -> None:
        self.indptr.setflags(write=False)
        self.indices.setflags(write=False)

    @classmethod
    def from_counts(cls, counts: ArrayLike, indices: ArrayLike) -> Links:
        """Make links of the lengths of the lists and the lists one after the other."""
        indptr = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        return cls(indptr.astype(np.int64), np.array(indices, dtype=np.int32))

    @classmethod
    def from_pairs(cls, owners: NDArray[Any], values: NDArray[Any], n_nodes: int) -> Links:
        """Make links of pairs in any order; within a list the order of the pairs stays."""
        order = np.argsort(owners, kind="stable")
        return cls.from_counts(np.bincount(owners, minlength=n_nodes), values[order])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, node: int) -> Numbers:
        if not -len(self) <= node < len(self):
            raise IndexError(f"there is no list {node} among {len(self)}")
        node %= len(self)
        return self.indices[self.indptr[node] : self.indptr[node + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Length of every list, int64 (n_nodes,)."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Node to which every element of ``indices`` belongs, int64 (n_links,)."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, nodes: ArrayLike) -> tuple[NDArray[np.int64], Numbers]:
        """Return the lists of several nodes.

        Parameters
        ----------
        nodes : array-like of int, shape (n,)
            Node numbers, repeated ones allowed.

        Returns
        -------
        owners : ndarray of int64, shape (m,)
            Position *in* ``nodes`` of the node to which each value belongs, ascending.
        values : ndarray of int32, shape (m,)
            The lists, one after the other.
        """
        chosen = np.asarray(nodes, dtype=np.int64)
        starts = self.indptr[chosen]
        counts = self.indptr[chosen + 1] - starts
        owners = np.repeat(np.arange(len(chosen)), counts)
        return owners, self.indices[spread(starts, counts)]

    def transpose(self) -> Links:
        """Return the links in the other direction, each list ascending."""
        return Links.from_pairs(self.indices, self.owners, len(self))


def spread(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``starts[i], starts[i] + 1, …`` of ``counts[i]`` elements, for all i one after the other."""
    before = np.cumsum(counts) - counts
    spread_starts: NDArray[np.int64] = np.repeat(starts - before, counts)
    return spread_starts + np.arange(len(spread_starts))


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


Choice = Literal["first", "shortest", "longest"]
CHOICES = ("first", "shortest", "longest")


class Hierarchy:
    """Nodes below one another; a node may have several parents.

    Every question can be asked by id. For work on many nodes there are numbers (:meth:`numbers`; node i has
    the id ``ids[i]``) and :class:`Links`, which list the neighbours of all nodes in two arrays. No method
    recurses, so the depth has no limit.

    Parameters
    ----------
    ids : sequence of str
        Id of every node, none twice.
    parent_links : Links
        Numbers of the parents of every node, in the order in which they are to be named.

    Attributes
    ----------
    ids : tuple of str
        Id of every node.
    parent_links, child_links : Links
        The graph in both directions; children ascend.

    Raises
    ------
    InputError
        There is a cycle; the message shows it.
    """

    _what = "this hierarchy"

    def __init__(self, ids: Sequence[str], parent_links: Links) -> None:
        self.ids = tuple(ids)
        self.parent_links = parent_links
        self.child_links = parent_links.transpose()
        self._main: dict[str, Numbers] = {}
        self._longest = longest_depths(parent_links, self.child_links)
        if len(self.ids) and self._longest.min() < 0:
            cycle = find_cycle(parent_links, self._longest)
            raise InputError(f"{self._what} has a cycle, child before parent: {_shown(self._names(cycle))}")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, node: object) -> bool:
        return node in self._number_of

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {node: number for number, node in enumerate(self.ids)}

    @cached_property
    def _shortest(self) -> Numbers:
        return shortest_depths(self.child_links, np.flatnonzero(self.parent_links.counts == 0))

    def _names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.ids[number] for number in numbers)

    def _unknown(self, node: object) -> InputError:
        return InputError(f"{node!r} is not in {self._what}{nearest_name(str(node), list(self.ids))}")

    def index(self, node: str) -> int:
        """Return the number of a node.

        Raises
        ------
        InputError
            The id isn't in the hierarchy; the nearest right one is named.
        """
        try:
            return self._number_of[node]
        except (KeyError, TypeError):
            raise self._unknown(node) from None

    def numbers(self, ids: Iterable[str]) -> Numbers:
        """Return the numbers of several nodes, int32 (n,).

        Raises
        ------
        InputError
            An id isn't in the hierarchy; the nearest right one is named.
        """
        if isinstance(ids, str):
            raise InputError(f"ids must be a list of ids; got the single string {ids!r}")
        known = self._number_of
        try:
            return np.array([known[node] for node in ids], dtype=np.int32)
        except KeyError as error:
            raise self._unknown(error.args[0]) from None
        except TypeError as error:
            raise InputError(f"ids must be a list of strings: {error}") from None

    def parents(self, node: str) -> tuple[str, ...]:
        """Return the nodes one step above, in their given order."""
        return self._names(self.parent_links[self.index(node)])

    def children(self, node: str) -> tuple[str, ...]:
        """Return the nodes one step below, in the order of the nodes."""
        return self._names(self.child_links[self.index(node)])

    def ancestors(self, node: str) -> tuple[str, ...]:
        """Return all nodes above, nearest first, each once; the node itself isn't among them."""
        return self._names(breadth_first(self.parent_links, self.index(node)))

    def descendants(self, node: str) -> tuple[str, ...]:
        """Return all nodes below, nearest first, each once; the node itself isn't among them."""
        return self._names(breadth_first(self.child_links, self.index(node)))

    @cached_property
    def ancestor_links(self) -> Links:
        """All ancestors of every node, ascending numbers."""
        return closure(self.parent_links, self._longest)

    @cached_property
    def descendant_links(self) -> Links:
        """All descendants of every node, ascending numbers."""
        return self.ancestor_links.transpose()

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Nodes without parents, in the order of the nodes."""
        return self._names(np.flatnonzero(self.parent_links.counts == 0))

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Nodes without children, in the order of the nodes."""
        return self._names(np.flatnonzero(self.child_links.counts == 0))

    @cached_property
    def topological_order(self) -> Numbers:
        """Numbers of all nodes, every parent before its children, int32 (n_nodes,)."""
        return np.argsort(self._longest, kind="stable").astype(np.int32)

    def depth(self, node: str, *, longest: bool = False) -> int:
        """Return how many steps a node lies below a root, see :meth:`depths`."""
        return int((self._longest if longest else self._shortest)[self.index(node)])

    def depths(self, ids: Iterable[str] | None = None, *, longest: bool = False) -> Numbers:
        """Return how many steps several nodes lie below a root; a root has depth 0.

        Parameters
        ----------
        ids : iterable of str or None, default None
            The nodes, or all in their order.
        longest : bool, default False
            Count along the longest of the ways up instead of the shortest.

        Returns
        -------
        ndarray of int32, shape (n,)
        """
        depths = self._longest if longest else self._shortest
        return depths.copy() if ids is None else depths[self.numbers(ids)]

    def is_leaf(self, ids: Iterable[str] | None = None) -> NDArray[np.bool_]:
        """Say which nodes have no children, bool (n,); of all in their order by default."""
        return self._without_lists(self.child_links, ids)

    def _without_lists(self, links: Links, ids: Iterable[str] | None) -> NDArray[np.bool_]:
        alone: NDArray[np.bool_] = links.counts == 0
        return alone if ids is None else alone[self.numbers(ids)]

    def is_ancestor(self, above: Iterable[str], below: Iterable[str]) -> NDArray[np.bool_]:
        """Say pair by pair whether ``above[i]`` is an ancestor of ``below[i]``, bool (n,).

        Nothing is its own ancestor. The first call computes :attr:`ancestor_links`.

        Raises
        ------
        InputError
            The lengths differ, or an id is unknown.
        """
        high, low = self.numbers(above), self.numbers(below)
        if len(high) != len(low):
            raise InputError(f"{len(high)} upper nodes can't be paired with {len(low)} lower ones")
        known = self.ancestor_links.owners * len(self) + self.ancestor_links.indices
        keys = low.astype(np.int64) * len(self) + high
        places = np.searchsorted(known, keys)
        found = np.zeros(len(keys), dtype=bool)
        inside = places < len(known)
        found[inside] = known[places[inside]] == keys[inside]
        return found

    def lowest_common_ancestors(self, *nodes: str) -> tuple[str, ...]:
        """Return the common ancestors that have no other common ancestor below them.

        A node counts as its own ancestor here, so that of a node and its parent the lowest common ancestor is
        the parent. With several parents per node there can be several; in a forest there may be none.

        Parameters
        ----------
        *nodes : str
            One id or more.

        Returns
        -------
        tuple of str
            Deepest first (longest way), equal ones in the order of the nodes.

        Raises
        ------
        InputError
            No id is given, or one is unknown.
        """
        if not nodes:
            raise InputError("the lowest common ancestors of no node at all can't be told; name one or more")
        common = np.ones(len(self), dtype=bool)
        for number in self.numbers(nodes):
            own = np.zeros(len(self), dtype=bool)
            own[number] = True
            own[breadth_first(self.parent_links, int(number))] = True
            common &= own
        candidates = np.flatnonzero(common)
        owners, below = self.child_links.take(candidates)
        lowest = np.delete(candidates, owners[common[below]])
        return self._names(lowest[np.argsort(-self._longest[lowest], kind="stable")])

    def main_parents(self, choice: Choice = "first") -> Numbers:
        """Choose one parent for every node, which makes the hierarchy a tree (or several).

        Parameters
        ----------
        choice : {"first", "shortest", "longest"}, default "first"
            The parent that is named first; the one closest to a root; or the one with the longest way to a
            root. Among equals the one named first.

        Returns
        -------
        ndarray of int32, shape (n_nodes,)
            Number of the parent, −1 at roots; read-only.
        """
        check_choice(CHOICES, choice=choice)
        if choice not in self._main:
            self._main[choice] = self._choose_parents(choice)
        return self._main[choice]

    def _choose_parents(self, choice: Choice) -> Numbers:
        owners, parents = self.parent_links.owners, self.parent_links.indices
        rank = {"first": np.zeros_like(self._longest), "shortest": self._shortest, "longest": -self._longest}
        order = np.lexsort((rank[choice][parents], owners))
        nodes, first = np.unique(owners[order], return_index=True)
        main = np.full(len(self), -1, dtype=np.int32)
        main[nodes] = parents[order][first]
        main.setflags(write=False)
        return main

    def tree_depths(self, choice: Choice = "first") -> Numbers:
        """Return every node's depth along :meth:`main_parents`, roots 0, int32 (n_nodes,)."""
        main = self.main_parents(choice)
        depths = np.zeros(len(self), dtype=np.int32)
        for nodes in levels(self._longest)[1:]:
            depths[nodes] = depths[main[nodes]] + 1
        return depths

    def path_to_root(self, node: str, *, choice: Choice = "first") -> tuple[str, ...]:
        """Return the node, its main parent, and so on up to a root.

        ``choice`` is that of :meth:`main_parents`: which parent is taken where there are several.
        """
        main = self.main_parents(choice)
        number, path = self.index(node), []
        while number >= 0:
            path.append(number)
            number = int(main[number])
        return self._names(path)


def _shown(names: Sequence[str], limit: int = 10) -> str:
    """Join names, leaving out the middle of a long list."""
    if len(names) > limit:
        names = [*names[: limit - 1], "…", names[-1]]
    return " > ".join(names)
