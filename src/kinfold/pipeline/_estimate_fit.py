"""What neighbours, training and assignment will take, from shapes and two short measurements."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import torch

from kinfold.compute import resolve_precision
from kinfold.methods import ASSESS_SECONDS
from kinfold.methods.protocol import Machine, Shape
from kinfold.neighbors.search import TARGET_DEGREE
from kinfold.pipeline._method import Method
from kinfold.storage import hash_json

BASE_MEMORY = 600 << 20  # the interpreter with PyTorch loaded
_RATE_SIDE = 1024
_NEIGHBOR_MEMORY = 2 << 30
_BLOCK_MEMORY = 256 << 20
_COPY_BYTES = 64 << 20
_ASSIGNMENT_BYTES = 60
_ASSIGN_SECONDS = 1e-6
_STATE_COPIES = 4  # of the weights in a checkpoint: student, teacher, two moments


@dataclass(frozen=True)
class StageEstimate:
    """What one stage is expected to take.

    Attributes
    ----------
    name : str
        The stage.
    seconds : float
        Wall-clock time on this machine as busy as it is now: a rough guide, not a promise.
    memory_bytes : int
        Peak of main memory, all processes together.
    disk_bytes : int
        What it needs on disk at its most, checkpoints counted.
    """

    name: str
    seconds: float
    memory_bytes: int
    disk_bytes: int


def estimate_grouping(method: Method, n: int, dim: int, device: torch.device) -> list[StageEstimate]:
    """Estimate all that follows the features, ``n`` rows of ``dim`` values."""
    stages = []
    matrix_bytes = 4 * n * dim
    graphs = {hash_json(options): options for options in method.graphs(n).values()}
    if graphs:
        degrees = [min(_expect_degree(options), n - 1) for options in graphs.values()]
        memory = BASE_MEMORY + matrix_bytes + min(_NEIGHBOR_MEMORY, 4 * n * n) + 8 * n * max(degrees)
        seconds = 4 * n * n * dim / _measure_rate(device, "float32")  # half of it to find the best
        disk = sum(8 * n * (degree + 1) for degree in degrees)
        stages.append(StageEstimate("neighbors", len(graphs) * seconds, memory, disk))
    rate = _measure_rate(device, method.estimator.precision)
    cost = method.estimator.cost(Shape(n, dim), Machine(rate, _measure_bandwidth(device)))
    seconds = cost.seconds + cost.n_fits * ASSESS_SECONDS
    memory = BASE_MEMORY + _BLOCK_MEMORY + matrix_bytes + 8 * cost.model_bytes
    disk = _STATE_COPIES * (cost.model_bytes + cost.other_bytes)
    stages.append(StageEstimate("fit", seconds, memory, disk))
    seconds = n * (cost.model_bytes / 2 / rate + _ASSIGN_SECONDS)
    memory = BASE_MEMORY + _BLOCK_MEMORY + _ASSIGNMENT_BYTES * n
    stages.append(StageEstimate("assign", seconds, memory, _ASSIGNMENT_BYTES * n))
    return stages


def _expect_degree(options: dict[str, Any]) -> int:
    """Return the neighbours per sample that a graph will have: at most, where that can't be known."""
    threshold, least = options.get("threshold"), int(options["n_neighbors"])
    if threshold is None:
        return least
    most = int(options["max_neighbors"])
    return min(most, TARGET_DEGREE * least) if threshold == "auto" else most


def _measure_rate(device: torch.device, precision: str) -> float:
    """Return the floating-point operations per second of a matrix product, measured once per process."""
    return _rate_of(device, resolve_precision(precision, device), torch.get_num_threads())


@functools.cache
def _rate_of(device: torch.device, precision: torch.dtype, _n_threads: int) -> float:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(_RATE_SIDE, _RATE_SIDE, generator=generator)
    matrix = matrix.to(device, precision)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _RATE_SIDE**3 / best


@functools.cache
def _measure_bandwidth(device: torch.device) -> float:
    """Return the bytes per second at which memory is read and written, measured once per process."""
    values = torch.zeros(_COPY_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        values.clone()[0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _COPY_BYTES / best
