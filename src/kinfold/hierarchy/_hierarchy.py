"""A hierarchy: nodes with ids, any number of parents each, no cycles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy._links import Links, Numbers
from kinfold.hierarchy._walks import (
    breadth_first,
    closure,
    find_cycle,
    levels,
    longest_depths,
    shortest_depths,
)

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
            raise InputError(f"ids must be several ids, not the text {ids!r}")
        known = self._number_of
        try:
            return np.array([known[node] for node in ids], dtype=np.int32)
        except KeyError as error:
            raise self._unknown(error.args[0]) from None
        except TypeError as error:
            raise InputError(f"ids must be texts, one or more in a sequence: {error}") from None

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
        if choice not in CHOICES:
            raise InputError(f"choice must be one of {', '.join(CHOICES)}, not {choice!r}")
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
