"""Search for nearest neighbours: of all rows as a graph, or of a few rows as pairs."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, MissingExtraError
from kinfold.neighbors._candidates import Csr, Rule, spread_rows, threshold_for_degree
from kinfold.neighbors._products import READING_SHARE, make_plan, multiplies_bfloat16
from kinfold.neighbors.approximate import faiss_neighbors, measure_recall
from kinfold.neighbors.bfloat16 import bfloat16_neighbors
from kinfold.neighbors.exact import exact_neighbors, neighbors_among, neighbors_of
from kinfold.neighbors.graph import MOST_ROWS, NeighborGraph, read_integers
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix, SelectedRows, as_row_matrix, scan_rows
from kinfold.rows.readers import UnitRows
from kinfold.validation import Choice, Constraint, Either, Integer, Nothing, Number, check, check_integer

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "exact", "faiss", "hnsw")
ZERO_ROWS = ("refuse", "isolate")
# Rows up to which "auto" computes all similarities. The work grows with their square, so above these an
# index, which misses some neighbours, is worth its recall; a GPU's products are so much faster that its
# limit lies ten times as high.
EXACT_LIMIT = {"cpu": 500_000, "cuda": 5_000_000}
DEFAULT_BUDGET = 2 << 30  # bytes: leaves most of a laptop's memory to the features themselves
TARGET_DEGREE = 2  # mean degree that threshold="auto" aims at, as a multiple of n_neighbors
DEFAULT_MAX_NEIGHBORS = 2000
# Sample of rows for threshold="auto". More rows would estimate the mean degree more closely,
# but each costs a search among all rows; the number is part of what a graph depends on, so it stays.
_THRESHOLD_SAMPLE = 1024
_CONSTRAINTS: dict[str, Constraint] = {
    "n_neighbors": Integer(),
    "max_neighbors": Integer(),
    "memory_budget": Either(Number(least=1), Nothing()),
    "zero_rows": Choice(ZERO_ROWS),
    "threshold": Either(Number(least=-1, most=1), Choice(("auto",)), Nothing()),
    "backend": Choice(BACKENDS),
}


def knn_graph(
    X: ArrayLike | RowMatrix,
    n_neighbors: int = 50,
    *,
    threshold: float | str | None = None,
    max_neighbors: int = DEFAULT_MAX_NEIGHBORS,
    backend: str = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
    zero_rows: str = "refuse",
    memory_budget: int | None = None,
    progress: Progress = SILENT,
) -> NeighborGraph:
    """Return the cosine nearest neighbours of every row.

    Similarity is the cosine of the features as they are, with no centring. A row is never its own
    neighbour. Equal similarities go to the lower row number; the same input on the same machine gives the
    same graph.

    Parameters
    ----------
    X : array-like or RowMatrix of shape (n_samples, n_features)
        Real features of any type; memory maps and shards larger than memory are read in blocks.
    n_neighbors : int, default 50
        Neighbours of every row; with a ``threshold``, the least number. With fewer other rows than that, all
        of them are taken and a warning says so.
    threshold : float, "auto" or None, default None
        None keeps exactly ``n_neighbors`` (TEMI). A number in [-1, 1] keeps every row at least that
        similar, but no fewer than ``n_neighbors`` and no more than ``max_neighbors`` (the adaptive rule of
        ICCE, where 0.3 suits DINOv2 features). ``"auto"`` chooses the number without labels: the quantile
        of similarity at which the mean degree, floor and cap included, is 2 × ``n_neighbors`` on a fixed
        sample of 1,024 rows.
    max_neighbors : int, default 2000
        Cap of the adaptive rule, at least ``n_neighbors``; unused without a threshold.
    backend : {"auto", "exact", "faiss", "hnsw"}, default "auto"
        ``"exact"`` computes all similarities. ``"faiss"`` searches an inverted file (up to 20,000 rows all
        of it) and ``"hnsw"`` a graph of links, both of faiss: approximate sets of neighbours with exact
        similarities, whose recall is measured on 512 rows; below 0.9 a warning says so. The graph of links
        is built on one thread, so that it is the same every time, which takes about 2 ms a row. ``"auto"``
        is exact up to 500,000 rows (5,000,000 on a GPU), then faiss if installed.
    device : str or torch.device, default "auto"
        Device of the exact search: CUDA if there is one, else the CPU (also in place of MPS, whose sort of
        64-bit integers can't be relied upon).
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the exact search's matrix products. The neighbours are the same: with ``"bfloat16"`` candidates
        are measured again in float32, and rows for which an error bound does not prove that none was missed
        are searched again in float32. Only neighbours whose similarities are equal up to the rounding of
        float32 can change places. ``"auto"`` is bfloat16 where the device has units for it.
    zero_rows : {"refuse", "isolate"}, default "refuse"
        All-zero rows have no cosine similarity. They raise an error that lists them; with ``"isolate"`` they
        get no edges.
    memory_budget : int, optional
        Bytes of working memory on the device, besides the graph itself and ``X`` where that is in memory.
        Default: 2 GiB on the CPU, half of the device's memory on CUDA. A smaller budget costs time and may
        change similarities in their last bit.
    progress : Progress, default silent
        Shows the work.

    Returns
    -------
    NeighborGraph
        ``indptr``, ``indices`` and ``similarities``, descending in each row.

    Raises
    ------
    InputError
        ``X`` is no matrix of real numbers, rows are zero (unless isolated) or not finite (the first ones
        are named), or a parameter is out of range.
    MissingExtraError
        faiss was asked for and isn't installed.
    """
    matrix = as_row_matrix(X)
    n = int(matrix.shape[0])
    check_search(n, n_neighbors, threshold, max_neighbors, memory_budget, zero_rows)
    used: NDArray[np.int64] = np.arange(n)
    if zero_rows == "isolate":
        scan = scan_rows(matrix)
        scan.refuse_not_finite()
        used = scan.usable
    engine = choose_engine(len(used), backend, device, precision, memory_budget)
    chosen = matrix if len(used) == n else SelectedRows(matrix, used)
    parameters: dict[str, Any] = {"n_neighbors": n_neighbors, "backend": engine.backend}
    if len(used) < n:
        parameters["isolated_rows"] = n - len(used)
    rows = UnitRows(chosen, engine.device, n_bytes=engine.budget // READING_SHARE)
    if zero_rows == "refuse":
        rows.check()
    if len(used) < 2:
        empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
        described = Rule.fixed(n_neighbors).describe()
        return NeighborGraph(np.zeros(n + 1, np.int64), *empty, {**described, **parameters})
    rule = _make_rule(rows, n_neighbors, threshold, max_neighbors, engine)
    parts, facts = _search(rows, rule, engine, progress)
    if len(used) < n:
        parts = spread_rows(parts, used, n)
    return NeighborGraph(*parts, {**rule.describe(), **parameters, **facts})


def closest_rows(
    X: ArrayLike | RowMatrix,
    rows: NDArray[np.int64],
    n_closest: int,
    *,
    device: str | torch.device = "auto",
    memory_budget: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of given rows and their closest others among all, exactly, without a graph of all.

    All-zero rows have no cosine similarity: they get no pairs.

    Parameters
    ----------
    X : array-like or RowMatrix of shape (n_samples, n_features)
        Real features, read in blocks.
    rows : int64 array (R,)
        The rows whose neighbours are wanted.
    n_closest : int
        Neighbours of each, or all others where there are fewer.
    device, memory_budget
        As :func:`knn_graph` takes them.

    Returns
    -------
    owners, others : int64 arrays (P,)
        Row numbers of every pair, in the order of ``rows``, closest first.

    Raises
    ------
    InputError
        Rows are not finite; the first ones are named. ``rows`` are no row numbers of X, or ``n_closest`` is
        not an integer of at least 1.
    """
    matrix = as_row_matrix(X)
    check_integer(n_closest=n_closest)
    rows = read_integers(rows, "rows", int(matrix.shape[0]) - 1)
    scan = scan_rows(matrix)
    scan.refuse_not_finite()
    used = scan.usable
    asked = rows[np.isin(rows, used)]
    count = min(n_closest, len(used) - 1)
    if count < 1 or not len(asked):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    engine = choose_engine(len(used), "exact", device, "float32", memory_budget)
    chosen = matrix if len(used) == matrix.shape[0] else SelectedRows(matrix, used)
    unit = UnitRows(chosen, engine.device, n_bytes=engine.budget // READING_SHARE)
    places = np.searchsorted(used, asked)
    indptr, found, _ = neighbors_of(unit, places, Rule.fixed(count), engine.budget, engine.device)
    return np.repeat(asked, np.diff(indptr)), used[found]


def nearest_rows(
    X: ArrayLike | RowMatrix,
    queries: ArrayLike | RowMatrix,
    n_nearest: int,
    *,
    device: str | torch.device = "auto",
    memory_budget: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of one matrix that are nearest to the rows of another, exactly.

    Parameters
    ----------
    X : array-like or RowMatrix of shape (n_samples, n_features)
        The rows that are searched, read in blocks.
    queries : array-like or RowMatrix of shape (n_queries, n_features)
        The rows whose neighbours are wanted.
    n_nearest : int
        Neighbours of each, or all rows where there are fewer.
    device, memory_budget
        As :func:`knn_graph` takes them.

    Returns
    -------
    rows : int64 array (n_queries, k)
        Row numbers of X, nearest first; equal similarities go to the lower number.
    similarities : float32 array (n_queries, k)
        Their cosines.

    Raises
    ------
    InputError
        Shapes don't fit, rows are zero or not finite (the first ones are named), or ``n_nearest`` is
        not an integer of at least 1.
    """
    matrix, asked = as_row_matrix(X), as_row_matrix(queries)
    check_integer(n_nearest=n_nearest)
    if matrix.shape[1] != asked.shape[1]:
        raise InputError(
            f"X has {matrix.shape[1]} features, but the queries have {asked.shape[1]}; both must be of "
            "the same backbone and variant"
        )
    engine = choose_engine(int(matrix.shape[0]), "exact", device, "float32", memory_budget)
    rows, wanted = (
        UnitRows(some, engine.device, n_bytes=engine.budget // READING_SHARE) for some in (matrix, asked)
    )
    rows.check()
    wanted.check()
    count = min(n_nearest, rows.n_rows)
    _, found, similarities = neighbors_among(rows, wanted, Rule.fixed(count), engine.budget, engine.device)
    return found.reshape(-1, count).astype(np.int64), similarities.reshape(-1, count)


def _search(rows: UnitRows, rule: Rule, engine: Engine, progress: Progress) -> tuple[Csr, dict[str, Any]]:
    """Return the neighbours, and what the graph should say of how they were found."""
    budget, device = engine.budget, engine.device
    if engine.backend != "exact":
        make_plan(rows.n_rows, rows.dim, rule, budget, device)  # for the recall: refuse before any work
        parts = faiss_neighbors(rows, rule, budget, progress, hnsw=engine.backend == "hnsw")
        return parts, measure_recall(rows, parts, rule, budget, device)
    if engine.dtype == torch.float32:
        return exact_neighbors(rows, rule, budget, device, progress), {"precision": "float32"}
    parts, n_again = bfloat16_neighbors(rows, rule, budget, device, progress)
    share = round(n_again / rows.n_rows, 6)
    return parts, {"precision": "bfloat16", "share_searched_again": share}


def _make_rule(
    rows: UnitRows,
    n_neighbors: int,
    threshold: float | str | None,
    max_neighbors: int,
    engine: Engine,
) -> Rule:
    others = rows.n_rows - 1
    if n_neighbors > others:
        warnings.warn(
            f"n_neighbors is {n_neighbors}, but each row has only {others} others; all of them are taken",
            UserWarning,
            stacklevel=3,
        )
    at_least, at_most = min(n_neighbors, others), min(max_neighbors, others)
    if threshold is None:
        return Rule.fixed(at_least)
    if not isinstance(threshold, str):
        return Rule(at_least, at_most, float(np.float32(threshold)))
    sample = np.sort(
        np.random.default_rng(0).choice(rows.n_rows, min(rows.n_rows, _THRESHOLD_SAMPLE), replace=False)
    )
    best = neighbors_of(rows, sample.astype(np.int64), Rule.fixed(at_most), engine.budget, engine.device)[2]
    value = threshold_for_degree(
        best.reshape(len(sample), -1), at_least, at_most, TARGET_DEGREE * n_neighbors
    )
    logger.info(
        "similarity threshold %.4f gives a mean degree of about %d", value, TARGET_DEGREE * n_neighbors
    )
    return Rule(at_least, at_most, value)


@dataclass(frozen=True)
class Engine:
    """What searches: a back end, where, in what precision, and in how many bytes."""

    backend: str
    device: torch.device
    dtype: torch.dtype
    budget: int


def choose_engine(
    n: int, backend: str, device: str | torch.device, precision: str, budget: int | None
) -> Engine:
    """Return the engine for ``n`` rows; :class:`InputError` for a name that is unknown."""
    where = _search_device(device)
    return Engine(
        backend=_choose_backend(backend, n, where),
        device=where,
        dtype=_choose_dtype(precision, where),
        budget=_default_budget(where) if budget is None else int(budget),
    )


def check_search(
    n: int,
    n_neighbors: int,
    threshold: float | str | None,
    max_neighbors: int,
    budget: int | None,
    zero_rows: str,
) -> None:
    """Raise :class:`InputError` for what no search can be asked for."""
    check(
        _CONSTRAINTS,
        n_neighbors=n_neighbors,
        max_neighbors=max_neighbors,
        memory_budget=budget,
        zero_rows=zero_rows,
        threshold=threshold,
    )
    if n > MOST_ROWS:
        raise InputError(f"{n:,} rows are more than a graph with 32-bit indices can hold")
    if threshold is not None and max_neighbors < n_neighbors:
        raise InputError(
            f"max_neighbors ({max_neighbors}) is below n_neighbors ({n_neighbors}); raise it or lower the "
            "other"
        )


def _choose_backend(backend: str, n: int, device: torch.device) -> str:
    check(_CONSTRAINTS, backend=backend)
    installed = importlib.util.find_spec("faiss") is not None
    if backend in ("faiss", "hnsw") and not installed:
        raise MissingExtraError("Approximate neighbour search", "faiss-cpu", "faiss")
    if backend != "auto":
        return backend
    limit = EXACT_LIMIT[device.type]
    if n > limit and not installed:
        logger.warning(
            "%s rows are searched exactly, which takes long; pip install 'kinfold[faiss]' for an index",
            f"{n:,}",
        )
    return "faiss" if n > limit and installed else "exact"


def _choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    dtype = resolve_precision(precision, device)
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        logger.warning("neighbours are searched in float32: in bfloat16 a GPU needs PyTorch 2.8")
        return torch.float32
    return dtype


def _search_device(device: str | torch.device) -> torch.device:
    found = resolve_device(device)
    return found if found.type in EXACT_LIMIT else torch.device("cpu")


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return int(properties.total_memory) // 2
    return DEFAULT_BUDGET
