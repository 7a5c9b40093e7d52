"""What the caller of the search asks for: checked, and chosen where that is left open."""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.compute import resolve_device, resolve_precision
from kinfold.errors import InputError, MissingExtraError, nearest_name
from kinfold.neighbors._overlap import multiplies_bfloat16

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "exact", "faiss", "hnsw")
ZERO_ROWS = ("refuse", "isolate")
EXACT_LIMIT = {"cpu": 500_000, "cuda": 5_000_000}
DEFAULT_BUDGET = 2 << 30


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


def check_count(**parameters: Any) -> None:
    """Raise :class:`InputError` for the first parameter that is not a positive whole number."""
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")


def read_row_numbers(rows: Any, n_rows: int) -> NDArray[np.int64]:
    """Return numbers of rows as int64 (R,); :class:`InputError` unless they are whole and in 0 … N − 1."""
    numbers = np.asarray(rows)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise InputError(f"rows must be a list of row numbers, got {numbers.dtype} {numbers.shape}")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < n_rows:
        raise InputError(f"rows must lie in 0 … {n_rows - 1}, got {numbers.min()} … {numbers.max()}")
    return numbers.astype(np.int64)


def check_parameters(
    n: int,
    n_neighbors: int,
    threshold: float | str | None,
    max_neighbors: int,
    budget: int | None,
    zero_rows: str,
) -> None:
    """Raise :class:`InputError` for what no search can be asked for."""
    check_count(n_neighbors=n_neighbors, max_neighbors=max_neighbors)
    if budget is not None and budget < 1:
        raise InputError(f"memory_budget must be a positive number of bytes, not {budget!r}")
    if n > 2**31 - 1:
        raise InputError(f"{n:,} rows are more than a graph with 32-bit indices can hold")
    check_name("zero_rows", zero_rows, ZERO_ROWS)
    if threshold is None:
        return
    if isinstance(threshold, str):
        if threshold != "auto":
            raise InputError(f"threshold must be a number, 'auto' or None, not {threshold!r}")
    elif not (isinstance(threshold, Real) and math.isfinite(threshold) and -1 <= threshold <= 1):
        raise InputError(f"threshold is a cosine similarity in [-1, 1], not {threshold!r}")
    if max_neighbors < n_neighbors:
        raise InputError(f"max_neighbors ({max_neighbors}) is below n_neighbors ({n_neighbors})")


def _choose_backend(backend: str, n: int, device: torch.device) -> str:
    check_name("backend", backend, BACKENDS)
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


def check_name(parameter: str, name: str, known: tuple[str, ...]) -> None:
    """Raise :class:`InputError`, with the nearest known name, for a name that is unknown."""
    if name not in known:
        hint = nearest_name(str(name), list(known))
        raise InputError(f"{parameter} {name!r} is unknown; use one of {', '.join(known)}{hint}")


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
