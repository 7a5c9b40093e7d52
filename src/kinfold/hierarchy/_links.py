"""Lists of node numbers, one per node, in two arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
