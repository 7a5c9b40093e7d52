"""What a run will take, told before it starts: time from small measurements, memory and disk from shapes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.backbones import DEFAULT_BACKBONE, Backbone
from kinfold.compute import Runtime, cpu_count
from kinfold.errors import InputError
from kinfold.images import ImageSource, UnusableImage, count_workers, decode_image
from kinfold.pipeline._estimate_fit import BASE_MEMORY, StageEstimate, estimate_grouping
from kinfold.pipeline._language import Guide, NounsLike, prepare_guide
from kinfold.pipeline._method import DEFAULT_METHOD, Method, check_n_samples, prepare_method
from kinfold.pipeline._source import Source, SourceLike, as_backbone, resolve_source

_SAMPLE_IMAGES = 16
_SAMPLE_SECONDS = 2.0
_WORKER_MEMORY = 150 << 20
_TEXT_MEMORY = 1 << 30
_DISK_MARGIN = 1.1


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
    load the backbone. The parameters are those of :func:`cluster`.
    """
    prepared = prepare_method(
        method, n_clusters, 0, device, precision, n_neighbors, method_parameters, preset
    )
    runtime = Runtime.resolve(device, precision, n_workers=n_workers)
    opened = resolve_source(source, source_options)
    check_n_samples(n_clusters, opened.n_rows, "image", opened.uri)
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
        stages.append(StageEstimate("nouns", seconds, BASE_MEMORY + _TEXT_MEMORY, 2 * n_bytes))
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
    if runtime.device.type == "cpu":
        per_image = prepare / min(workers, cpu_count()) + forward
    else:
        per_image = max(prepare / workers, forward)
    matrix_bytes = 4 * n * sum(backbone.variants[variant] for variant in variants)
    key_bytes = n * 100
    return StageEstimate(
        "embed",
        n * per_image,
        BASE_MEMORY * 2 + workers * _WORKER_MEMORY + 2 * key_bytes,
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


def _show_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
