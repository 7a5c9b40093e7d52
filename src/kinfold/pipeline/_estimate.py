"""Estimate of a run before it starts: time from short measurements, memory and disk from shapes."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.backbones import DEFAULT_BACKBONE, Backbone
from kinfold.compute import Runtime, cpu_count, resolve_precision
from kinfold.errors import InputError
from kinfold.images import ImageSource, UnusableImage, count_workers, decode_image
from kinfold.methods import ASSESS_SECONDS, count_estimate_operations
from kinfold.methods.protocol import Machine, Shape
from kinfold.neighbors.search import TARGET_DEGREE
from kinfold.pipeline._given import given_source
from kinfold.pipeline._language import Guide, NounsLike, prepare_guide
from kinfold.pipeline._method import DEFAULT_METHOD, Method, check_n_samples, prepare_method
from kinfold.pipeline._source import Source, SourceLike, as_backbone, resolve_source
from kinfold.storage import hash_json

# An estimate is a rough guide, and so are these: round numbers for what is only known at run time.
_BASE_MEMORY = 600 << 20  # the interpreter with PyTorch loaded
_WORKER_MEMORY = 150 << 20  # a process that decodes images
_TEXT_MEMORY = 1 << 30  # a text tower
_NEIGHBOR_MEMORY = 2 << 30  # products and candidates of the search, at most
_BLOCK_MEMORY = 256 << 20  # blocks of rows and of what is made of them
_SAMPLE_IMAGES = 16  # that are embedded to time one, spread over the source
_SAMPLE_SECONDS = 2.0  # after which no further ones are: the estimate itself must not take long
_RATE_SIDE = 1024  # of a square product: large enough to reach the machine's rate, done in milliseconds
_COPY_BYTES = 64 << 20  # beyond the caches, so that memory itself is timed
_REPEATS = 3  # of each measurement; the best one is least disturbed by other work
_KEY_BYTES = 100  # of an image's key, with what Arrow needs around it
_ASSIGNMENT_BYTES = 60  # of a row in the table of assignments, five groups with their probabilities
_ASSIGN_SECONDS = 1e-6  # per row, beside its products: sorting, and writing the table
_STATE_COPIES = 4  # of the weights in a checkpoint: student, teacher, two moments
_TRAINING_COPIES = 8  # of the weights in memory: those, gradients, and a checkpoint while it is written
_DISK_MARGIN = 1.1  # of what is free: a full disk is worse than a refusal


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
class Estimate:
    """What a run is expected to take.

    Attributes
    ----------
    stages : tuple of StageEstimate
        Stages still to be done, in order.
    """

    stages: tuple[StageEstimate, ...]

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """Highest peak of main memory."""
        return max((stage.memory_bytes for stage in self.stages), default=0)

    @property
    def disk_bytes(self) -> int:
        """What all stages together need on disk."""
        return sum(stage.disk_bytes for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "seconds": self.seconds,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "stages": [asdict(stage) for stage in self.stages],
        }

    def __str__(self) -> str:
        if not self.stages:
            return "nothing is left to be done"
        return (
            f"expected: about {_show_seconds(self.seconds)}, {self.memory_bytes / 2**30:.1f} GiB of memory, "
            f"{self.disk_bytes / 2**20:.0f} MiB of disk"
        )


def estimate(
    source: SourceLike,
    n_clusters: int | str | None = None,
    *,
    method: str = DEFAULT_METHOD,
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    variant: str = "cls",
    device: str = "auto",
    precision: str = "auto",
    n_neighbors: int | None = None,
    n_workers: int | None = None,
    method_parameters: Mapping[str, Any] | None = None,
    preset: str | None = None,
    text_model: str | Path | None = None,
    nouns: NounsLike = None,
    source_options: Mapping[str, Any] | None = None,
) -> Estimate:
    """Tell what :func:`cluster` with the same arguments would take, without writing anything.

    A few images are embedded and one matrix product is timed; this takes some seconds, and the time to
    load the backbone. The parameters are those of :func:`~kinfold.cluster`.

    Returns
    -------
    Estimate
        Seconds, memory and disk of every stage of a new run.

    Raises
    ------
    InputError
        An argument or the source can't be used.
    """
    prepared = prepare_method(
        method, n_clusters, 0, device, precision, n_neighbors, method_parameters, preset
    )
    runtime = Runtime.resolve(device, precision, n_workers=n_workers)
    with given_source(source, source_options) as given:
        opened = resolve_source(given.source, given.options)
        check_n_samples(prepared.wanted, opened.n_rows, "image", opened.uri)
        loaded = as_backbone(backbone, runtime) if opened.images is not None else None
        guide = prepare_guide(prepared, nouns, text_model, opened, loaded, variant, runtime)
        return estimate_work(opened, prepared, variant, loaded, runtime, guide=guide)


def estimate_work(
    source: Source,
    method: Method,
    variant: str,
    backbone: Backbone | None,
    runtime: Runtime,
    *,
    done: frozenset[str] = frozenset(),
    guide: Guide | None = None,
) -> Estimate:
    """Estimate the stages that aren't done; ``backbone`` embeds the images, if the source is images."""
    stages = []
    if backbone is not None and source.images is not None:
        n, dim = len(source.images), backbone.variants[variant]
        if "embed" not in done:
            stages.append(estimate_embed(source.images, backbone, (variant,), runtime))
    else:
        assert source.features is not None
        n, dim = (int(length) for length in source.features.matrix(variant).shape)
    if "fit" in done:
        return Estimate(tuple(stages))
    if guide is not None and (seconds := guide.estimate_seconds()):
        n_bytes = 4 * len(guide.nouns.words) * guide.encoder.dim
        stages.append(StageEstimate("nouns", seconds, _BASE_MEMORY + _TEXT_MEMORY, 2 * n_bytes))
    if not method.is_settled and "choose" not in done:
        operations = count_estimate_operations(n, dim)
        seconds = operations / _measure_rate(runtime.device, "float32")
        stages.append(StageEstimate("choose", seconds, _BASE_MEMORY + 4 * n * dim, 0))
    stages += estimate_grouping(method, n, dim, runtime.device)
    return Estimate(tuple(stages))


def check_disk(expected: Estimate, out: Path) -> None:
    """Refuse work whose files won't fit on the disk of ``out``.

    Raises
    ------
    InputError
        Less is free than is needed.
    """
    free = shutil.disk_usage(out).free
    needed = int(expected.disk_bytes * _DISK_MARGIN)
    if needed > free:
        raise InputError(
            f"the run needs about {needed / 2**30:.1f} GiB at {out}, but only {free / 2**30:.1f} GiB are "
            "free; make room, or choose a place on another disk (out=, --out)"
        )


def estimate_embed(
    images: ImageSource, backbone: Backbone, variants: Sequence[str], runtime: Runtime
) -> StageEstimate:
    """Estimate the embedding of all ``images`` from that of a few."""
    n = len(images)
    workers = max(1, count_workers(runtime.n_workers, n))
    prepare, forward = _measure_image(images, backbone, variants)
    if runtime.device.type == "cpu":  # the same cores decode and embed; elsewhere both go on at once
        per_image = prepare / min(workers, cpu_count()) + forward
    else:
        per_image = max(prepare / workers, forward)
    matrix_bytes = 4 * n * sum(backbone.variants[variant] for variant in variants)
    key_bytes = _KEY_BYTES * n
    return StageEstimate(
        "embed",
        n * per_image,
        _BASE_MEMORY * 2 + workers * _WORKER_MEMORY + 2 * key_bytes,
        matrix_bytes + key_bytes,
    )


def estimate_grouping(method: Method, n: int, dim: int, device: torch.device) -> list[StageEstimate]:
    """Estimate all that follows the features, ``n`` rows of ``dim`` values."""
    stages = []
    matrix_bytes = 4 * n * dim
    graphs = {hash_json(options): options for options in method.graphs(n).values()}
    if graphs:
        degrees = [min(_expect_degree(options), n - 1) for options in graphs.values()]
        memory = _BASE_MEMORY + matrix_bytes + min(_NEIGHBOR_MEMORY, 4 * n * n) + 8 * n * max(degrees)
        seconds = 4 * n * n * dim / _measure_rate(device, "float32")  # half of it to find the best
        disk = sum(8 * n * (degree + 1) for degree in degrees)
        stages.append(StageEstimate("neighbors", len(graphs) * seconds, memory, disk))
    rate = _measure_rate(device, method.estimator.precision)
    cost = method.estimator.cost(Shape(n, dim), Machine(rate, _measure_bandwidth(device)))
    seconds = cost.seconds + cost.n_fits * ASSESS_SECONDS
    memory = _BASE_MEMORY + _BLOCK_MEMORY + matrix_bytes + _TRAINING_COPIES * cost.model_bytes
    disk = _STATE_COPIES * (cost.model_bytes + cost.other_bytes)
    stages.append(StageEstimate("fit", seconds, memory, disk))
    seconds = n * (cost.model_bytes / 2 / rate + _ASSIGN_SECONDS)
    memory = _BASE_MEMORY + _BLOCK_MEMORY + _ASSIGNMENT_BYTES * n
    stages.append(StageEstimate("assign", seconds, memory, _ASSIGNMENT_BYTES * n))
    return stages


def _measure_image(images: ImageSource, backbone: Backbone, variants: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that one image takes to read and decode, and to embed, on one process."""
    prepared: list[NDArray[Any]] = []
    started = time.perf_counter()
    n_read = 0
    for row in np.unique(np.linspace(0, len(images) - 1, _SAMPLE_IMAGES).astype(int)):
        n_read += 1
        try:
            prepared.append(
                backbone.transform(decode_image(images.read(int(row)), min_side=backbone.min_side))
            )
        except UnusableImage:
            continue
        if time.perf_counter() - started > _SAMPLE_SECONDS:
            break
    read_seconds = (time.perf_counter() - started) / n_read
    if not prepared:
        return read_seconds, 0.0
    backbone.embed(np.stack(prepared[:1]), variants)  # the first call takes memory and picks kernels
    started = time.perf_counter()
    backbone.embed(np.stack(prepared), variants)
    return read_seconds, (time.perf_counter() - started) / len(prepared)


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
    for _ in range(_REPEATS):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _RATE_SIDE**3 / best


@functools.cache
def _measure_bandwidth(device: torch.device) -> float:
    """Return the bytes per second at which memory is read and written, measured once per process."""
    values = torch.zeros(_COPY_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        values.clone()[0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _COPY_BYTES / best


def _show_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
