"""Lloyd's iteration on the unit sphere, and the assignment of every row to its closest centroid.

Assignment computes all products at first, then only those that can matter. On CPUs, a matrix product never
decides and is never reported: it bounds the similarities from above, and every centroid that may be the
closest is compared again by a float32 dot product whose rounding depends on nothing but its two vectors.
Labels and similarities are therefore the same with any number of threads, blocks and processes, in float32 or
bfloat16, with bounds kept or not. Bounds hold whatever the rounding: see :func:`_slack` and :class:`Step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from kinfold.compute import available_memory, sampled_products
from kinfold.distributed import Workers
from kinfold.methods._rows import UnitBlocks

_SUM_ROWS = 512  # that are added to the sums at once: their float64 copy stays small beside a block
_VANISHED = 1e-12  # length of a sum whose rows cancel out: its direction would be rounding noise
_AT_ITS_CENTROID = 1e-6  # rounding of a float32 cosine: a row this close to its centroid fits perfectly
# Candidates for each empty cluster: equal rows count once, so more are looked at than are wanted.
_WORST_PER_CLUSTER = 4
# With fewer clusters a whole product costs less than keeping and following bounds.
MIN_CLUSTERS_FOR_BOUNDS = 32
_BOUNDS_PART = 4  # one part in so many of the free memory may hold bounds, 4 N K bytes: the rows need it too
_CHUNK_ELEMENTS = 1 << 20  # of products or bounds: 4 MiB, which stay in a shared cache
_CHUNK_ROWS = 2048  # at most: rows are read again for dot products while they are in a cache
_DENSE_SHARE = 1 / 12  # so many dot products one by one cost as much as all of them at once
_RERANKED = 4  # candidates of a bfloat16 product on an accelerator that are compared again in float32
_UNIT = (
    float(torch.finfo(torch.float32).eps) / 2
)  # the most that rounding to float32 changes a number by, as a part of it
_OTHER_UNITS = 16  # units of a slack for lengths that differ from 1 by rounding, and for adding the slack
_STEP_UNITS = 32  # that following one step costs: lengths, weights and sums of numbers below 4


@dataclass(frozen=True)
class Start:
    """Where one start ended.

    Attributes
    ----------
    centers : Tensor (K, D)
        Unit-length centroids.
    labels : Tensor (n,) int64
        Closest centroids of this process's rows.
    objective : float
        Mean similarity of all processes' rows to them.
    n_iter : int
        Iterations.
    """

    centers: Tensor
    labels: Tensor
    objective: float
    n_iter: int


class Lloyd:
    """Improves centroids until nothing is gained.

    Parameters
    ----------
    rows : UnitBlocks
        This process's rows.
    assigner : Assigner
        Of the same rows.
    workers : Workers
        The processes that share all rows. Sums, counts and the objective are theirs together.
    max_iter : int
        Iterations at most.
    tol : float
        Stop when the mean similarity grows by less; with 0, when no row changes its cluster.
    """

    def __init__(
        self, rows: UnitBlocks, assigner: Assigner, workers: Workers, *, max_iter: int, tol: float
    ) -> None:
        self._rows, self._assigner, self._workers = rows, assigner, workers
        self._max_iter, self._tol = max_iter, tol

    def run(self, centers: Tensor) -> Start:
        """Start from the given centroids (K, D)."""
        self._assigner.restart()
        sums = _Sums(centers)
        objective, repaired = -np.inf, False
        for n_iter in range(1, self._max_iter + 1):
            found = self._assign(centers, sums)
            stands = found.n_changed == 0 or found.objective - objective < self._tol
            if stands and not repaired:  # a repaired cluster needs a pass to gather its rows
                return Start(centers, found.labels, found.objective, n_iter)
            objective = found.objective
            centers, repaired = self._update(centers, found)
        found = self._assign(centers, sums)
        return Start(centers, found.labels, found.objective, self._max_iter)

    def _assign(self, centers: Tensor, sums: _Sums) -> _Assignment:
        labels = [torch.empty(0, dtype=torch.int64, device=centers.device)]  # a process may have no rows
        similarities = [torch.empty(0, device=centers.device)]
        sums.begin()
        for assigned in self._assigner.assign(centers):
            sums.add(assigned)
            labels.append(assigned.labels)
            similarities.append(assigned.similarities)
        total = sums.total(self._workers)
        return _Assignment(torch.cat(labels), torch.cat(similarities), *total, self._rows.n_samples)

    def _update(self, centers: Tensor, found: _Assignment) -> tuple[Tensor, bool]:
        """Return new unit-length centroids, and whether empty clusters took rows that fit badly."""
        norms = found.sums.norm(dim=1, keepdim=True)
        # An empty cluster, or one whose rows cancel out, has no direction of its own: it keeps its centroid.
        fresh = (found.sums / norms.clamp_min(_VANISHED)).to(centers)
        stays = (found.counts[:, None] == 0) | (norms < _VANISHED)
        fresh = torch.where(stays.to(centers.device), centers, fresh)
        empty = torch.nonzero(found.counts == 0)[:, 0].cpu()
        if not len(empty):
            return fresh, False
        worst = self._worst_rows(found.similarities, len(empty))
        fresh[empty[: len(worst)].to(fresh.device)] = worst
        return fresh, len(worst) > 0

    def _worst_rows(self, similarities: Tensor, n_rows: int) -> Tensor:
        """Return up to ``n_rows`` different rows, of all processes', that fit their centroids worst."""
        own = similarities.cpu().numpy()
        # Each process sends its own worst; those of all are ordered again, so that their number is no matter.
        order = np.argsort(own, kind="stable")[: _WORST_PER_CLUSTER * n_rows]
        order = order[own[order] < 1 - _AT_ITS_CENTROID]
        values = self._workers.gather(own[order])
        indices = self._workers.gather(order + self._rows.part.start)
        worst = indices[np.argsort(values, kind="stable")][: _WORST_PER_CLUSTER * n_rows]
        rows = self._rows.take(worst)
        seen: dict[bytes, int] = {}  # equal rows would become equal centroids, of which one stays empty
        for place, row in enumerate(rows.cpu().numpy()):
            seen.setdefault(row.tobytes(), place)
        return rows[list(seen.values())[:n_rows]]


@dataclass(frozen=True)
class _Assignment:
    """Labels and similarities of this process's rows; sums, counts and objective of all."""

    labels: Tensor
    similarities: Tensor
    sums: Tensor
    counts: Tensor
    n_changed: int
    total_similarity: float
    n_samples: int

    @property
    def objective(self) -> float:
        return self.total_similarity / self.n_samples


class _Sums:
    """Sums and counts of the members of every cluster in float64, from one iteration to the next.

    On CPUs only rows that changed their cluster are added and taken away. Elsewhere the sums are made
    anew by matrix products: atomic additions would make the last bits depend on the order of threads,
    and finding the rows that changed would wait for the device.
    """

    def __init__(self, centers: Tensor) -> None:
        self._changes_only = centers.device.type == "cpu"
        place = "cpu" if centers.device.type == "mps" else centers.device
        self._sums = torch.zeros(centers.shape, dtype=torch.float64, device=place)
        self.begin()

    def begin(self) -> None:
        """Begin a pass over all rows."""
        self._counts = torch.zeros_like(self._sums[:, 0])
        self._extra = self._sums.new_zeros(2)
        if not self._changes_only:
            self._sums.zero_()

    def add(self, assigned: Assigned) -> None:
        """Add a block."""
        labels, previous, sums = assigned.labels, assigned.previous, self._sums
        ones = torch.ones(len(labels), device=labels.device)
        changed = ones if previous is None else (labels != previous).float()
        widest = torch.float32 if labels.device.type == "mps" else torch.float64  # MPS has no float64
        extra = torch.stack([changed.sum(), assigned.similarities.sum(dtype=widest)])
        self._extra += extra.to(sums)
        if self._changes_only:
            self._counts += torch.bincount(labels, minlength=len(sums))
            self._move(assigned, torch.nonzero(changed)[:, 0])
        else:
            members = ones.new_zeros(len(labels), len(sums)).scatter_(1, labels[:, None], 1.0)
            self._counts += members.sum(dim=0).to(sums)
            sums += (members.T @ assigned.block).to(sums)

    def total(self, workers: Workers) -> tuple[Tensor, Tensor, int, float]:
        """Return sums, counts, rows that changed and the sum of similarities over all processes."""
        # One message instead of four: all of it is float64, which counts exactly up to 2⁵³.
        packed = torch.cat([self._sums.flatten(), self._counts, self._extra])
        workers.sum_(packed)
        n_clusters = len(self._counts)
        n_changed, similarity = packed[-2:].tolist()
        counts = packed[-2 - n_clusters : -2]
        return packed[: self._sums.numel()].view_as(self._sums), counts, int(n_changed), similarity

    def _move(self, assigned: Assigned, changed: Tensor) -> None:
        for rows in torch.split(changed, _SUM_ROWS):
            part = assigned.block[rows].double()
            self._sums.index_add_(0, assigned.labels[rows], part)
            if assigned.previous is not None:
                self._sums.index_add_(0, assigned.previous[rows], part, alpha=-1)


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

    On CPUs, from 32 clusters on and while a quarter of the free memory holds them, an upper bound on the
    similarity of every row to every centroid is kept (Elkan's idea), and only centroids whose bound
    reaches the similarity to the row's own centroid are compared. Bounds follow the centroids' steps
    (:class:`Step`). A whole product makes the bounds of a block tight again once the comparisons since
    the last one have cost as much.

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
            n_rows = rows.part.stop - rows.part.start
            n_bytes = 4 * n_clusters * (n_rows + 2 * n_clusters)
            affordable = n_bytes <= available_memory() // _BOUNDS_PART
            keep_bounds = n_clusters >= MIN_CLUSTERS_FOR_BOUNDS and affordable
        self._keeps_bounds = keep_bounds and rows.device.type == "cpu"
        self._states: dict[int, _BlockState] = {}
        self._centers: Tensor | None = None

    def restart(self) -> None:
        """Forget labels and centroids, for another start; memory is used again."""
        self._centers = None
        for state in self._states.values():
            state.labels = None

    def assign(self, centers: Tensor) -> Iterator[Assigned]:
        """Yield the blocks of rows with their closest centroids (K, D)."""
        step = None
        if self._keeps_bounds and self._centers is not None:
            step = Step(self._centers, centers)
        self._centers = centers
        for start, block in self._rows.blocks():
            state = self._states.setdefault(start, _BlockState())
            previous = state.labels
            if block.device.type != "cpu":
                state.labels, state.similarities = _closest_on_accelerator(block, centers, self._dtype)
            elif step is None or not self._assign_by_bounds(state, block, step):
                self._assign_by_product(state, block, centers)
            assert state.labels is not None
            yield Assigned(block, state.labels, previous, state.similarities)

    def _assign_by_product(self, state: _BlockState, block: Tensor, centers: Tensor) -> None:
        if self._keeps_bounds and state.bounds is None:
            state.bounds = block.new_empty(len(block), len(centers))
        labels, similarities = [], []
        size = max(1, min(_CHUNK_ROWS, _CHUNK_ELEMENTS // len(centers)))
        for start in range(0, len(block), size):
            chunk = slice(start, start + size)
            bounds = None if state.bounds is None else state.bounds[chunk]
            label, similarity = _closest(block[chunk], centers, self._dtype, bounds)
            labels.append(label)
            similarities.append(similarity)
        state.labels, state.similarities = torch.cat(labels), torch.cat(similarities)
        state.spent, state.drift = 0, 0.0

    def _assign_by_bounds(self, state: _BlockState, block: Tensor, step: Step) -> bool:
        """Assign a block by its bounds, unless a product is due: then return False."""
        bounds, labels = state.bounds, state.labels
        assert bounds is not None
        assert labels is not None
        slack = _slack(torch.float32, block.shape[1])
        own = state.similarities.clone()
        # Of a centroid that has moved, the similarity to its own rows is known no longer.
        stale = torch.nonzero(step.moved[labels])[:, 0]
        own[stale] = _dots(block, step.centers, torch.stack([stale, labels[stale]]))
        budget = int(_DENSE_SHARE * bounds.numel()) - state.spent
        candidates = step.follow(state, own, budget)
        if candidates is None:
            return False
        state.similarities, state.labels, found = _decide(block, step.centers, candidates, own, labels)
        state.spent += candidates.shape[1]
        changed = torch.nonzero(state.labels != labels)[:, 0]
        bounds[candidates[0], candidates[1]] = found + slack
        bounds[changed, labels[changed]] = own[changed] + slack
        bounds[changed, state.labels[changed]] = -torch.inf
        return True


class _BlockState:
    """What is known of a block.

    Its labels and similarities, upper bounds on all similarities, how many have been computed one by one
    since the bounds were made, and how far rounding may have taken the bounds down since then. A row's own
    centroid has the bound −∞: it needs no comparison.
    """

    labels: Tensor | None = None
    similarities: Tensor = torch.empty(0)
    bounds: Tensor | None = None
    spent: int = 0
    drift: float = 0.0


class Step:
    """A step of all centroids, and what it can change.

    Write a row as x = a·c + r·u with its own centroid c and a unit vector u at right angles to c. When
    another centroid moves by δ, x·δ is at most a·(c·δ) + r·‖δ − (c·δ) c‖, for which a row of two K × K
    tables suffices. This is several times tighter than ‖δ‖, since rows are far from their centroids.

    Rounding can take a raised bound below the similarity, and by no more than ``drift``: with s the slack of
    float32 (:func:`_slack`) and L the longest step, s L / 2 for the dot product c·δ, as much for a, and some
    units for δ, lengths, weights and sums. Bounds are therefore compared with what is less by the drift of
    all their steps.

    Parameters
    ----------
    before, centers : Tensor (K, D)
        Centroids.
    """

    def __init__(self, before: Tensor, centers: Tensor) -> None:
        self.centers = centers
        self._slack = _slack(torch.float32, centers.shape[1])
        step = centers - before
        squares = step.double().square().sum(dim=1).float()  # float64: small steps must not round to none
        self.moved = (step != 0).any(dim=1)
        self.drift = self._slack * math.sqrt(float(squares.max())) + _STEP_UNITS * _UNIT
        columns = torch.nonzero(self.moved)[:, 0]
        self._raises = before.new_zeros(2, len(before), len(before))
        along, across = self._raises
        along.index_copy_(1, columns, before @ step[columns].T)
        # ‖δ‖² − (c·δ)² must not come out too small: (c·δ)² may be off by the slack times ‖δ‖².
        across.copy_(squares * (1 + 2 * self._slack)).addcmul_(along, along, value=-1).clamp_min_(0).sqrt_()

    def follow(self, state: _BlockState, own: Tensor, budget: int) -> Tensor | None:
        """Raise the bounds of a block; return the (row, centroid) pairs, (2, n), that may reach ``own``.

        None when there are more than ``budget``; bounds are then only partly raised.
        """
        bounds, labels = state.bounds, state.labels
        assert bounds is not None
        assert labels is not None
        n_clusters = bounds.shape[1]
        along = state.similarities
        # r = √(1 − a²), with the slack of a added so that it is never too small.
        across = (1 - along.square()).clamp_min_(0).add_(2 * self._slack).sqrt_()
        places = torch.stack([labels, labels + n_clusters], dim=1)
        weights = torch.stack([along, across], dim=1)
        raises = self._raises.view(2 * n_clusters, n_clusters)
        state.drift += self.drift
        lowest = own - state.drift
        size = max(1, _CHUNK_ELEMENTS // n_clusters)
        found, n_found = [torch.empty(2, 0, dtype=torch.int64)], 0
        for start in range(0, len(bounds), size):
            rows = slice(start, start + size)
            # Row by row a·along + r·across of its own centroid, in one pass over the two tables.
            raised = embedding_bag(places[rows], raises, per_sample_weights=weights[rows], mode="sum")
            part = bounds[rows].add_(raised)
            found.append(_reaching(part, lowest[rows], start, raised))
            n_found += found[-1].shape[1]
            if n_found > budget:
                return None
        return torch.cat(found, dim=1)


def _closest(
    rows: Tensor, centers: Tensor, dtype: torch.dtype, bounds: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return every row's closest centroid and similarity; write upper bounds on all similarities.

    All decisions and similarities are those of dot products, also where nearly everything ties.
    """
    slack = _slack(dtype, rows.shape[1])
    products = _product(rows, centers, dtype, bounds)
    # The largest product and another one may be off by the slack in opposite directions: hence twice.
    candidates = _reaching(products, products.amax(dim=1) - 2 * slack, 0, torch.empty_like(products))
    limit = len(rows) + int(_DENSE_SHARE * products.numel())
    if dtype != torch.float32 and candidates.shape[1] > limit:  # float32 leaves fewer ties
        return _closest(rows, centers, torch.float32, bounds)
    none = torch.full((len(rows),), len(centers))
    similarity, label, _ = _decide(rows, centers, candidates, torch.full((len(rows),), -torch.inf), none)
    if bounds is not None:
        torch.add(products, slack, out=bounds).scatter_(1, label[:, None], -torch.inf)
    return label, similarity


def _product(block: Tensor, centers: Tensor, dtype: torch.dtype, out: Tensor | None) -> Tensor:
    if dtype == torch.float32:
        return torch.mm(block, centers.T, out=out)
    return torch.mm(block.to(dtype), centers.to(dtype).T).float()


def _slack(dtype: torch.dtype, dim: int) -> float:
    """Return a bound on how far a product of unit vectors may be from their float32 dot product.

    Proven, for any order of summation: D terms added up in float32 are off by at most D units times the sum
    of their absolute values, which is at most the product of the lengths. That holds for the product and for
    the dot product. Where bfloat16 is multiplied, sums may also be truncated, or align a few terms at a time;
    and rounding both factors and the result costs at most three units of bfloat16, of which four are taken.

    References
    ----------
    Higham (2002), "Accuracy and Stability of Numerical Algorithms", section 3.1.
    """
    # A percent for what errors add up to among themselves.
    in_float32 = (2.02 * dim + _OTHER_UNITS) * _UNIT
    return (
        in_float32
        if dtype == torch.float32
        else in_float32 + 4 * dim * _UNIT + 2 * float(torch.finfo(dtype).eps)
    )


def _reaching(values: Tensor, thresholds: Tensor, first: int, scratch: Tensor) -> Tensor:
    """Return the (row, column) pairs of one chunk, (2, n), sorted; rows are counted from ``first``.

    ``scratch`` is overwritten; it has the shape of ``values``.
    """
    # PyTorch compares to float and narrows that in half the time in which it compares to bool; NumPy, though
    # it has one thread, finds few true values in many about ten times as fast as PyTorch does.
    reaches = torch.ge(values, thresholds[:, None], out=scratch).to(torch.int8)
    flat = torch.from_numpy(np.flatnonzero(reaches.numpy().view(np.bool_)))
    rows = flat // values.shape[1]
    return torch.stack([rows + first, flat - rows * values.shape[1]])


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
    return sampled_products(block, centers, starts, columns)


def _closest_on_accelerator(block: Tensor, centers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return labels and similarities, decided in float32: a product in ``dtype`` only proposes candidates.

    Rows for which a centroid beyond the candidates may be the closest, within the rounding of ``dtype``, are
    compared with all centroids again.
    """
    if dtype == torch.float32 or len(centers) <= _RERANKED:
        similarities, labels = (block @ centers.T).max(dim=1)
        return labels, similarities
    rough = (block.to(dtype) @ centers.to(dtype).T).topk(_RERANKED + 1, dim=1)
    nearest = rough.indices[:, :_RERANKED].sort(dim=1).values  # sorted: ties go to the lower index
    exact = torch.stack([(block * centers[column]).sum(dim=1) for column in nearest.T], dim=1)
    similarities, place = exact.max(dim=1)
    labels = nearest.gather(1, place[:, None])[:, 0]
    # What no candidate reached is at most the fifth product, give or take its rounding.
    beyond = rough.values[:, _RERANKED].float() + _slack(dtype, block.shape[1])
    open_rows = torch.nonzero(beyond >= similarities)[:, 0]
    similarities[open_rows], labels[open_rows] = (block[open_rows] @ centers.T).max(dim=1)
    return labels, similarities
