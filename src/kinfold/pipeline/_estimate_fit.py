"""What neighbours, training and assignment will take, from shapes and two short measurements."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kinfold.compute import resolve_precision
from kinfold.heads import count_head_weights
from kinfold.methods import Auto, Plan, plan_training, turtle_batch_size
from kinfold.neighbors.search import TARGET_DEGREE
from kinfold.pipeline._method import Method
from kinfold.storage import hash_json

BASE_MEMORY = 600 << 20  # the interpreter with PyTorch loaded
_RATE_SIDE = 1024
_NEIGHBOR_MEMORY = 2 << 30
_BLOCK_MEMORY = 256 << 20
_KMEANS_PASSES = 60
_KMEANS_READS = 3  # of the matrix in each pass
_COPY_BYTES = 64 << 20
_TRAINING_SHARE = 0.6  # of the matrix-product rate
_ASSIGNMENT_BYTES = 60
_ASSIGN_SECONDS = 1e-6
_STATE_COPIES = 4  # of the weights in a checkpoint: student, teacher, two moments
_NMI_SECONDS = 5e-9  # per sample and pair of heads
_VOTE_SECONDS = 1e-6  # per label of all heads: alignment and partitions
_TURTLE_STEPS = 1500  # where training ends by its own rule
_RATES = 6  # settings of self-training and the final one
_PAPER_ITERATIONS = 12_500
_ASSESS_SECONDS = 1.0
_CENTRE_PASSES = 60  # of k-means, at most
_NOUNS = 119_034  # WordNet's


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


@dataclass(frozen=True)
class _Machine:
    """How fast this one is: floating-point operations and bytes copied per second."""

    rate: float
    bandwidth: float


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
    rate = _measure_rate(device, method.estimator.get_params().get("precision", "float32"))
    machine = _Machine(rate, _measure_bandwidth(device))
    parts = (
        method.estimator.build(0) if isinstance(method.estimator, Auto) else {method.name: method.estimator}
    )
    seconds = sum(_estimate_fit(part, n, dim, machine) + _ASSESS_SECONDS for part in parts.values())
    sizes = [_count_model_bytes(part, n, dim) for part in parts.values()]
    memory = BASE_MEMORY + _BLOCK_MEMORY + matrix_bytes + 8 * max(sizes)
    stages.append(StageEstimate("fit", seconds, memory, _STATE_COPIES * sum(sizes)))
    seconds = n * (max(sizes) / 2 / rate + _ASSIGN_SECONDS)
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


def _estimate_fit(estimator: Any, n: int, dim: int, machine: _Machine) -> float:
    """Return the seconds of one method's fit."""
    parameters = estimator.get_params(deep=False)
    if "n_heads" in parameters:
        plan = _plan_heads(parameters, n, dim)
        n_targets = int(parameters.get("smoothing_neighbors", 1))
        seconds = _estimate_heads(plan, n_targets, parameters["n_clusters"], dim, machine)
        if parameters.get("consensus", False) is not False:
            seconds += _estimate_consensus(parameters["consensus_shares"], plan.n_heads, n)
        if parameters.get("self_training", False):
            seconds += _estimate_self_training(parameters, n, dim, machine)
        return seconds
    if "n_inner_steps" in parameters:
        return _estimate_turtle(parameters, n, dim, machine)
    if "noun_features" in parameters:
        return _estimate_tac(estimator, n, dim, machine)
    return _estimate_kmeans(parameters, n, dim, machine)


def _plan_heads(parameters: dict[str, Any], n: int, dim: int) -> Plan:
    given = {name: parameters[name] for name in ("n_heads", "n_epochs", "batch_size")}
    return plan_training(n, dim, parameters["n_clusters"], **given)


def _estimate_heads(plan: Plan, n_targets: int, n_clusters: int, dim: int, machine: _Machine) -> float:
    n_seen = plan.schedule.n_epochs * plan.steps_per_epoch * plan.batch_size
    weights = plan.n_heads * count_head_weights(dim, n_clusters)
    # Two views of each sample. The student's forward and backward are three products, the teacher's one for
    # every neighbour that a target is the mean of.
    return 2 * 2 * (3 + n_targets) * n_seen * weights / (_TRAINING_SHARE * machine.rate)


def _estimate_consensus(shares: Sequence[float], n_heads: int, n: int) -> float:
    """Return the seconds of one consensus for each share of the heads; a head alone is its own."""
    counts = {round(share * n_heads) for share in shares}
    return n * sum(count**2 / 2 * _NMI_SECONDS + count * _VOTE_SECONDS for count in counts if count > 1)


def _estimate_self_training(parameters: dict[str, Any], n: int, dim: int, machine: _Machine) -> float:
    batch = min(n, max(128, min(1024, n // 16)))
    steps = parameters.get("self_training_iterations") or min(_PAPER_ITERATIONS, 500 + 20 * (n // batch))
    return float(_RATES * 2 * 2 * steps * batch * dim * parameters["n_clusters"] / machine.rate)


def _estimate_turtle(parameters: dict[str, Any], n: int, dim: int, machine: _Machine) -> float:
    batch = min(n, parameters["batch_size"] or turtle_batch_size(n, parameters["n_clusters"]))
    steps = parameters["n_steps"] or _TURTLE_STEPS
    products = 2 * parameters["n_inner_steps"] + 4
    product = 2 * batch * dim * parameters["n_clusters"] / machine.rate
    reading = 4 * batch * dim / machine.bandwidth
    return float(steps * products * (product + reading))


def _estimate_kmeans(parameters: dict[str, Any], n: int, dim: int, machine: _Machine) -> float:
    n_clusters, n_init = parameters["n_clusters"], parameters["n_init"]
    starts = n_init if isinstance(n_init, int) else 10 if n * n_clusters <= 1_000_000 else 3
    product = 2 * n * dim * n_clusters / machine.rate
    reading = _KMEANS_READS * 4 * n * dim / machine.bandwidth
    return float(starts * _KMEANS_PASSES * (product + reading))


def _estimate_tac(estimator: Any, n: int, dim: int, machine: _Machine) -> float:
    """Return the seconds of TAC: centres, selection, counterparts, neighbours of texts, and training."""
    parameters = estimator.get_params(deep=False)
    n_centres = estimator.count_centres(n)
    n_kept = n_centres * parameters["nouns_per_centre"]
    products = 2.0 * dim * n_centres * (_CENTRE_PASSES * n + _NOUNS) + 4.0 * dim * n_kept * n
    if not parameters["train"]:
        joint = {"n_clusters": parameters["n_clusters"], "n_init": "auto"}
        return float(products / machine.rate) + _estimate_kmeans(joint, n, 2 * dim, machine)
    plan = estimator.plan(n)
    n_seen = plan.n_epochs * plan.steps_per_epoch * plan.batch_size
    # Two heads, two views of each sample, forward and twice backward.
    training = 2.0 * 2 * 2 * 3 * n_seen * (dim + parameters["n_clusters"]) * dim / _TRAINING_SHARE
    return float((products + training + 4.0 * n * n * dim) / machine.rate)


def _count_model_bytes(estimator: Any, n: int, dim: int) -> int:
    """Return the bytes of all heads while they are trained, or of all centroids."""
    parameters = estimator.get_params(deep=False)
    n_clusters = int(parameters["n_clusters"])
    if "n_heads" in parameters:
        return 4 * _plan_heads(parameters, n, dim).n_heads * count_head_weights(dim, n_clusters)
    if "noun_features" in parameters:
        n_kept = int(estimator.count_centres(n)) * int(parameters["nouns_per_centre"])
        return 4 * dim * (2 * (dim + n_clusters) + n_kept)
    return 4 * dim * n_clusters
