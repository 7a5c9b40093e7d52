"""What a run will take, told before it starts: time from small measurements, memory and disk from shapes."""

from __future__ import annotations

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
from kinfold.compute import cpu_count, resolve_device, resolve_precision
from kinfold.errors import InputError
from kinfold.heads.network import BOTTLENECK, HIDDEN
from kinfold.images import ImageSource, UnusableImage, count_workers, decode_image
from kinfold.methods import plan_training
from kinfold.pipeline._backbone import as_backbone
from kinfold.pipeline._method import Method, prepare_method
from kinfold.pipeline._source import Source, SourceLike, resolve_source

_SAMPLE_IMAGES = 16
_SAMPLE_SECONDS = 2.0
_RATE_SIDE = 1024
_BASE_MEMORY = 600 << 20  # the interpreter with PyTorch loaded
_WORKER_MEMORY = 150 << 20
_NEIGHBOR_MEMORY = 2 << 30
_BLOCK_MEMORY = 256 << 20
_KMEANS_PASSES = 60
_KMEANS_READS = 3  # of the matrix in each pass
_COPY_BYTES = 64 << 20
_TRAINING_SHARE = 0.6  # of the matrix-product rate
_ASSIGNMENT_BYTES = 60
_ASSIGN_SECONDS = 1e-6
_STATE_COPIES = 4  # of the weights in a checkpoint: student, teacher, two moments
_DISK_MARGIN = 1.1


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
    n_clusters: int,
    *,
    method: str = "temi",
    backbone: str | Path | Backbone = DEFAULT_BACKBONE,
    variant: str = "cls",
    device: str = "auto",
    precision: str = "auto",
    n_neighbors: int | None = None,
    n_workers: int | None = None,
    method_parameters: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
) -> Estimate:
    """Tell what :func:`cluster` with the same arguments would take, without writing anything.

    A few images are embedded and one matrix product is timed; this takes some seconds, and the time to
    load the backbone. The parameters are those of :func:`cluster`.
    """
    prepared = prepare_method(method, n_clusters, 0, device, precision, n_neighbors, method_parameters)
    opened = resolve_source(source, source_options)
    loaded = as_backbone(backbone, device, precision) if opened.images is not None else None
    return estimate_work(opened, prepared, variant, loaded, device=device, n_workers=n_workers)


def estimate_work(
    source: Source,
    method: Method,
    variant: str,
    backbone: Backbone | None,
    *,
    device: str = "auto",
    n_workers: int | None = None,
    done: frozenset[str] = frozenset(),
) -> Estimate:
    """Estimate the stages that aren't done; ``backbone`` embeds the images, if the source is images."""
    stages = []
    if backbone is not None and source.images is not None:
        n, dim = len(source.images), backbone.variants[variant]
        if "embed" not in done:
            stages.append(estimate_embed(source.images, backbone, (variant,), device, n_workers))
    else:
        assert source.features is not None
        n, dim = (int(length) for length in source.features.matrix(variant).shape)
    if "fit" in done:
        return Estimate(tuple(stages))
    stages += _estimate_grouping(method, n, dim, resolve_device(device))
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
    images: ImageSource, backbone: Backbone, variants: Sequence[str], device: str, n_workers: int | None
) -> StageEstimate:
    """Estimate the embedding of all ``images`` from that of a few."""
    n = len(images)
    workers = max(1, count_workers(n_workers, n))
    prepare, forward = _measure_image(images, backbone, variants)
    if resolve_device(device).type == "cpu":
        per_image = prepare / min(workers, cpu_count()) + forward
    else:
        per_image = max(prepare / workers, forward)
    matrix_bytes = 4 * n * sum(backbone.variants[variant] for variant in variants)
    key_bytes = n * 100
    return StageEstimate(
        "embed",
        n * per_image,
        _BASE_MEMORY * 2 + workers * _WORKER_MEMORY + 2 * key_bytes,
        matrix_bytes + key_bytes,
    )


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
    backbone.embed(np.stack(prepared[:1]), variants)
    started = time.perf_counter()
    backbone.embed(np.stack(prepared), variants)
    return read_seconds, (time.perf_counter() - started) / len(prepared)


def _estimate_grouping(method: Method, n: int, dim: int, device: torch.device) -> list[StageEstimate]:
    """Estimate all that follows the features, ``n`` rows of ``dim`` values."""
    stages = []
    matrix_bytes, model_bytes = 4 * n * dim, _count_model_bytes(method, dim)
    if method.needs_graph:
        k = min(method.graph_neighbors(n), n - 1)
        memory = _BASE_MEMORY + matrix_bytes + min(_NEIGHBOR_MEMORY, 4 * n * n) + 8 * n * k
        seconds = 4 * n * n * dim / _measure_rate(device, "float32")  # half of it to find the best
        stages.append(StageEstimate("neighbors", seconds, memory, 8 * n * (k + 1)))
    rate = _measure_rate(device, method.estimator.get_params().get("precision", "float32"))
    seconds = _estimate_fit_seconds(method, n, dim, rate, device)
    memory = _BASE_MEMORY + _BLOCK_MEMORY + matrix_bytes + 8 * model_bytes
    stages.append(StageEstimate("fit", seconds, memory, _STATE_COPIES * model_bytes))
    seconds = n * (model_bytes / 2 / rate + _ASSIGN_SECONDS)
    memory = _BASE_MEMORY + _BLOCK_MEMORY + _ASSIGNMENT_BYTES * n
    stages.append(StageEstimate("assign", seconds, memory, _ASSIGNMENT_BYTES * n))
    return stages


def _measure_rate(device: torch.device, precision: str) -> float:
    """Return the floating-point operations per second of a matrix product."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(_RATE_SIDE, _RATE_SIDE, generator=generator)
    matrix = matrix.to(device, resolve_precision(precision, device))
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _RATE_SIDE**3 / best


def _measure_bandwidth(device: torch.device) -> float:
    """Return the bytes per second at which memory is read and written."""
    values = torch.zeros(_COPY_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        values.clone()[0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * _COPY_BYTES / best


def _estimate_fit_seconds(method: Method, n: int, dim: int, rate: float, device: torch.device) -> float:
    parameters = method.estimator.get_params()
    if not method.needs_graph:
        n_init = parameters.get("n_init")
        starts = n_init if isinstance(n_init, int) else 10 if n * method.n_clusters <= 1_000_000 else 3
        product = 2 * n * dim * method.n_clusters / rate
        reading = _KMEANS_READS * 4 * n * dim / _measure_bandwidth(device)
        return starts * _KMEANS_PASSES * (product + reading)
    plan = plan_training(
        n, method.n_clusters, n_epochs=parameters.get("n_epochs"), batch_size=parameters.get("batch_size")
    )
    n_seen = plan.schedule.n_epochs * plan.steps_per_epoch * plan.batch_size
    weights = _count_model_bytes(method, dim) / 4
    # Two views of each sample; student forward and backward are three products, the teacher's is a fourth.
    return 2 * 2 * 4 * n_seen * weights / (_TRAINING_SHARE * rate)


def _count_model_bytes(method: Method, dim: int) -> int:
    """Return the bytes of all heads while they are trained, or of all centroids."""
    if not method.needs_graph:
        return 4 * dim * method.n_clusters
    heads = method.estimator.get_params().get("n_heads", 1)
    return int(4 * heads * (dim * HIDDEN + HIDDEN * BOTTLENECK + BOTTLENECK * method.n_clusters))


def _show_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
