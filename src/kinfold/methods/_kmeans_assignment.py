"""Which centroid is closest to every row: all products at first, then only those that can matter.

On CPUs, a matrix product never decides: it bounds the similarities from above, and every centroid that may be
the closest is compared again by a dot product whose rounding depends on nothing but its two vectors. Labels
are therefore the same with any number of threads, blocks and processes, in float32 or bfloat16, with bounds
kept or not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kinfold.compute import available_memory
from kinfold.methods._rows import UnitBlocks

MIN_CLUSTERS_FOR_BOUNDS = 64
_CHUNK_ELEMENTS = 1 << 21
_DENSE_SHARE = 1 / 12  # dot products one by one cost as much as all of them at once from here on
_TIED_SHARE = 1 / 4  # where nearly everything is equal, the products decide
_RERANKED = 4


@dataclass(frozen=True)
class Assigned:
    """The rows of one block after an assignment.

    Attributes
    ----------
    block : Tensor (n, D)
        Unit rows.
    labels, previous : Tensor (n,) int64
        Closest centroids, now and before; the lower index on ties.
    similarities : Tensor (n,) float32
        Cosine similarities to the closest centroids.
    """

    block: Tensor
    labels: Tensor
    previous: Tensor | None
    similarities: Tensor


class Assigner:
    """Assigns the same rows again and again to centroids that move less and less.

    From 64 clusters on, and while a quarter of the free memory holds them, upper bounds on the
    similarity of every row to every centroid are kept (Elkan's): x·c grows by at most the way that c
    moves. Only centroids whose bound exceeds the similarity to the row's own centroid are compared.

    Parameters
    ----------
    rows : UnitBlocks
        The rows.
    n_clusters : int
        K.
    dtype : torch.dtype
        Of whole matrix products.
    keep_bounds : bool or None, default None
        Whether bounds are kept; None decides by shape.
    """

    def __init__(
        self, rows: UnitBlocks, n_clusters: int, dtype: torch.dtype, *, keep_bounds: bool | None = None
    ) -> None:
        self._rows, self._dtype = rows, dtype
        if keep_bounds is None:
            keep_bounds = (
                rows.device.type == "cpu"
                and n_clusters >= MIN_CLUSTERS_FOR_BOUNDS
                and 4 * rows.n_samples * n_clusters <= available_memory() // 4
            )
        self._keeps_bounds = keep_bounds
        self._states: dict[int, _BlockState] = {}
        self._way = _Way()

    def restart(self) -> None:
        """Forget labels and centroids, for another start; memory is used again."""
        self._way = _Way()
        for state in self._states.values():
            state.labels = None

    def assign(self, centers: Tensor) -> Iterator[Assigned]:
        """Yield the blocks of rows with their closest centroids (K, D)."""
        moved = self._way.advance(centers)
        for start, block in self._rows.blocks():
            state = self._states.setdefault(start, _BlockState())
            previous = state.labels
            if block.device.type != "cpu":
                state.labels, state.similarities = _closest_on_accelerator(block, centers, self._dtype)
            elif previous is None or not self._keeps_bounds:
                self._assign_by_product(state, block, centers)
            else:
                self._assign_by_bounds(state, block, centers, moved)
            assert state.labels is not None
            yield Assigned(block, state.labels, previous, state.similarities)

    def _assign_by_product(self, state: _BlockState, block: Tensor, centers: Tensor) -> None:
        slack = _slack(self._dtype, block.shape[1])
        size = len(block) if self._keeps_bounds else max(1, _CHUNK_ELEMENTS // len(centers))
        labels, similarities = [], []
        for chunk in torch.split(block, size):
            products = _product(chunk, centers, self._dtype, state.bounds)
            largest, label = products.max(dim=1)
            candidates = _above(products, largest - 2 * slack)
            if not self._keeps_bounds:
                candidates = _drop_single(candidates, len(chunk))
            if candidates.shape[1] <= _TIED_SHARE * products.numel():
                largest[candidates[0]] = -torch.inf
                largest, label, _ = _decide(chunk, centers, candidates, largest, label)
            labels.append(label)
            similarities.append(largest)
            if self._keeps_bounds:
                state.bounds = products.add_(slack - self._way.length)
                state.bounds.scatter_(1, label[:, None], -torch.inf)
        state.labels, state.similarities = torch.cat(labels), torch.cat(similarities)

    def _assign_by_bounds(self, state: _BlockState, block: Tensor, centers: Tensor, moved: Tensor) -> None:
        bounds, labels = state.bounds, state.labels
        assert bounds is not None
        assert labels is not None
        own = state.similarities.clone()
        stale = torch.nonzero(moved[labels])[:, 0]
        own[stale] = _dots(block, centers, torch.stack([stale, labels[stale]]))
        candidates = _above(bounds, own, self._way.length)
        if candidates.shape[1] > _DENSE_SHARE * bounds.numel():
            self._assign_by_product(state, block, centers)
            return
        state.similarities, state.labels, found = _decide(block, centers, candidates, own, labels)
        changed = torch.nonzero(state.labels != labels)[:, 0]
        before, now = labels[changed], state.labels[changed]
        offset = _slack(torch.float32, block.shape[1]) - self._way.length
        bounds[candidates[0], candidates[1]] = found + offset[candidates[1]]
        bounds[changed, before] = own[changed] + offset[before]
        bounds[changed, now] = -torch.inf


class _BlockState:
    """What is known of a block: labels, similarities, and bounds less the way that centroids had come.

    A row's own centroid has the bound −∞: it needs no comparison.
    """

    labels: Tensor | None = None
    similarities: Tensor = torch.empty(0)
    bounds: Tensor | None = None


class _Way:
    """How far every centroid has moved since the start, as the length of its path."""

    def __init__(self) -> None:
        self.length = torch.zeros(())
        self._centers: Tensor | None = None
        self._exact = torch.zeros((), dtype=torch.float64)

    def advance(self, centers: Tensor) -> Tensor:
        """Add the step to new centroids; return which ones moved, (K,) bool."""
        if self._centers is None:
            moved = torch.ones(len(centers), dtype=torch.bool)
        else:
            step = (centers.double() - self._centers.double()).norm(dim=1).cpu()
            moved = step > 0
            self._exact = self._exact + step
            self.length = self._exact.float()
        self._centers = centers
        return moved


def _product(block: Tensor, centers: Tensor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    if dtype == torch.float32:
        return torch.mm(block, centers.T, out=out)
    return torch.mm(block.to(dtype), centers.to(dtype).T).float()


def _slack(dtype: torch.dtype, dim: int) -> float:
    """Return how far a product of unit vectors may be from its true value.

    Rounding both factors and the result costs at most three units in the last place of the narrower
    type; adding up in float32 grows like the square root of the number of terms, here with a factor of 2.
    """
    adding: float = 2 * torch.finfo(torch.float32).eps * math.sqrt(dim)
    return adding if dtype == torch.float32 else adding + 2 * float(torch.finfo(dtype).eps)


def _above(products: Tensor, thresholds: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return the (row, column) pairs, (2, n), where products + shift reach the row's threshold."""
    found = []
    size = max(1, _CHUNK_ELEMENTS // products.shape[1])
    for start in range(0, len(products), size):
        part, threshold = products[start : start + size], thresholds[start : start + size]
        if shift is None:
            above = torch.nonzero(part >= threshold[:, None]).T
        else:
            part = part + shift
            rows = torch.nonzero(part.amax(dim=1) >= threshold)[:, 0]
            above = torch.nonzero(part[rows] >= threshold[rows, None]).T
            above[0] = rows[above[0]]
        above[0] += start
        found.append(above)
    return torch.cat(found, dim=1)


def _drop_single(candidates: Tensor, n_rows: int) -> Tensor:
    """Leave out the rows that have one candidate: nothing is to be decided."""
    return candidates[:, torch.bincount(candidates[0], minlength=n_rows)[candidates[0]] > 1]


def _decide(
    block: Tensor, centers: Tensor, candidates: Tensor, similarities: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compare candidates with what every row has: the closest wins, the lower index on ties.

    Returns the similarity and the label of every row, and the candidates' similarities.
    """
    rows, columns = candidates
    found = _dots(block, centers, candidates)
    best = similarities.scatter_reduce(0, rows, found, "amax")
    winning = found == best[rows]
    keeping = torch.where(similarities == best, labels, len(centers))
    return best, keeping.scatter_reduce(0, rows[winning], columns[winning], "amin"), found


def _dots(block: Tensor, centers: Tensor, pairs: Tensor) -> Tensor:
    """Return the dot products of the given (row, centroid) pairs, sorted by rows: (n,) float32."""
    rows, columns = pairs
    starts = torch.zeros(len(block) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(rows, minlength=len(block)), dim=0, out=starts[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        pattern = torch.sparse_csr_tensor(
            starts, columns, block.new_zeros(len(columns)), (len(block), len(centers)), check_invariants=False
        )
        products: Tensor = torch.sparse.sampled_addmm(pattern, block, centers.T, beta=0.0)
    return products.values()


def _closest_on_accelerator(block: Tensor, centers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return labels and similarities without waiting for the device: shapes don't depend on values."""
    if dtype == torch.float32 or len(centers) <= _RERANKED:
        similarities, labels = (block @ centers.T).max(dim=1)
        return labels, similarities
    nearest = (block.to(dtype) @ centers.to(dtype).T).topk(_RERANKED, dim=1).indices.sort(dim=1).values
    exact = torch.stack([(block * centers[column]).sum(dim=1) for column in nearest.T], dim=1)
    similarities, place = exact.max(dim=1)
    return nearest.gather(1, place[:, None])[:, 0], similarities
