"""The one door to nearest neighbours."""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, MissingExtraError, nearest_name
from kinfold.features.matrix import RowMatrix, as_row_matrix
from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._bfloat16 import bfloat16_neighbors
from kinfold.neighbors._csr import Csr
from kinfold.neighbors._exact import best_similarities, exact_neighbors
from kinfold.neighbors._overlap import multiplies_bfloat16
from kinfold.neighbors._plan import READING_SHARE
from kinfold.neighbors._rule import Rule, threshold_for_degree
from kinfold.neighbors.graph import NeighborGraph
from kinfold.progress import SILENT, Progress

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "exact", "faiss")
EXACT_LIMIT = {"cpu": 500_000, "cuda": 5_000_000}
TARGET_DEGREE = 4
DEFAULT_MAX_NEIGHBORS = 2000
DEFAULT_BUDGET = 2 << 30
_SAMPLE = 1024


def knn_graph(
    X: ArrayLike | RowMatrix,
    n_neighbors: int = 50,
    *,
    threshold: float | str | None = None,
    max_neighbors: int = DEFAULT_MAX_NEIGHBORS,
    backend: str = "auto",
    device: str | torch.device = "auto",
    precision: str = "auto",
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
        of similarity at which the mean degree, floor and cap included, is 4 × ``n_neighbors`` on a fixed
        sample of 1,024 rows.
    max_neighbors : int, default 2000
        Cap of the adaptive rule, at least ``n_neighbors``; unused without a threshold.
    backend : {"auto", "exact", "faiss"}, default "auto"
        ``"exact"`` computes all similarities. ``"faiss"`` searches an index: approximate sets of neighbours
        with exact similarities. ``"auto"`` is exact up to 500,000 rows (5,000,000 on a GPU), then faiss if
        installed.
    device : str or torch.device, default "auto"
        Device of the exact search: CUDA if there is one, else the CPU (also in place of MPS, whose sort of
        64-bit integers can't be relied upon).
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of the exact search's matrix products. The neighbours are the same: with ``"bfloat16"`` candidates
        are measured again in float32, and rows for which an error bound does not prove that none was missed
        are searched again in float32. ``"auto"`` is bfloat16 where the device has units for it.
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
        ``X`` is no matrix of real numbers, rows are zero or not finite (the first ones are named), or a
        parameter is out of range.
    MissingExtraError
        faiss was asked for and isn't installed.
    """
    matrix = as_row_matrix(X)
    n = int(matrix.shape[0])
    _check_parameters(n, n_neighbors, threshold, max_neighbors, memory_budget)
    where = _search_device(device)
    budget = _default_budget(where) if memory_budget is None else int(memory_budget)
    backend = _choose_backend(backend, n, where)
    rows = UnitRows(matrix, where, n_bytes=budget // READING_SHARE)
    rows.check()
    if n == 1:
        parameters = {**Rule.fixed(n_neighbors).describe(), "backend": backend}
        empty = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return NeighborGraph(np.zeros(2, np.int64), *empty, parameters)
    rule = _make_rule(rows, n_neighbors, threshold, max_neighbors, budget, where)
    facts: dict[str, Any] = {}
    if backend == "faiss":
        from kinfold.neighbors._faiss import faiss_neighbors

        parts = faiss_neighbors(rows, rule, budget, progress)
    else:
        parts, facts = _search_exactly(rows, rule, budget, where, precision, progress)
    parameters = {**rule.describe(), "n_neighbors": n_neighbors, "backend": backend, **facts}
    return NeighborGraph(*parts, parameters)


def _search_exactly(
    rows: UnitRows, rule: Rule, budget: int, device: torch.device, precision: str, progress: Progress
) -> tuple[Csr, dict[str, Any]]:
    """Return the exact neighbours, and what the graph should say of how they were found."""
    dtype = resolve_precision(precision, device)
    if dtype == torch.bfloat16 and not multiplies_bfloat16(device):
        logger.warning("neighbours are searched in float32: in bfloat16 a GPU needs PyTorch 2.8")
        dtype = torch.float32
    if dtype == torch.float32:
        return exact_neighbors(rows, rule, budget, device, progress), {"precision": "float32"}
    parts, n_again = bfloat16_neighbors(rows, rule, budget, device, progress)
    share = round(n_again / rows.n_rows, 6)
    return parts, {"precision": "bfloat16", "share_searched_again": share}


def _check_parameters(
    n: int, n_neighbors: int, threshold: float | str | None, max_neighbors: int, budget: int | None
) -> None:
    for name, value in (("n_neighbors", n_neighbors), ("max_neighbors", max_neighbors)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if budget is not None and budget < 1:
        raise InputError(f"memory_budget must be a positive number of bytes, not {budget!r}")
    if n > 2**31 - 1:
        raise InputError(f"{n:,} rows are more than a graph with 32-bit indices can hold")
    if threshold is None:
        return
    if isinstance(threshold, str):
        if threshold != "auto":
            raise InputError(f"threshold must be a number, 'auto' or None, not {threshold!r}")
    elif not (isinstance(threshold, Real) and math.isfinite(threshold) and -1 <= threshold <= 1):
        raise InputError(f"threshold is a cosine similarity in [-1, 1], not {threshold!r}")
    if max_neighbors < n_neighbors:
        raise InputError(f"max_neighbors ({max_neighbors}) is below n_neighbors ({n_neighbors})")


def _make_rule(
    rows: UnitRows,
    n_neighbors: int,
    threshold: float | str | None,
    max_neighbors: int,
    budget: int,
    device: torch.device,
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
    sample = np.sort(np.random.default_rng(0).choice(rows.n_rows, min(rows.n_rows, _SAMPLE), replace=False))
    best = best_similarities(rows, sample.astype(np.int64), at_most, budget, device)
    value = threshold_for_degree(best, at_least, at_most, TARGET_DEGREE * n_neighbors)
    logger.info(
        "similarity threshold %.4f gives a mean degree of about %d", value, TARGET_DEGREE * n_neighbors
    )
    return Rule(at_least, at_most, value)


def _choose_backend(backend: str, n: int, device: torch.device) -> str:
    if backend not in BACKENDS:
        raise InputError(
            f"backend {backend!r} is unknown; use one of {', '.join(BACKENDS)}"
            f"{nearest_name(str(backend), list(BACKENDS))}"
        )
    installed = importlib.util.find_spec("faiss") is not None
    if backend == "faiss" and not installed:
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


def _search_device(device: str | torch.device) -> torch.device:
    found = resolve_device(device)
    return found if found.type in EXACT_LIMIT else torch.device("cpu")


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return int(properties.total_memory) // 2
    return DEFAULT_BUDGET
