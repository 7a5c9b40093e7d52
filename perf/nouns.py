"""Words for ImageNet: nouns selected for 4,271 centres, text counterparts of 1.28M images in bounded memory.

Made data in files that are mapped, as features are. By default a part of the images is measured, in turns
beside the machine's matrix-product rate, and the time of all of them is extrapolated; ``--n-images 1281167``
does them all.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.compute import resolve_device
from kinfold.language.space import select_nouns, text_counterparts
from perf.ceilings import Ceilings, measure_ceilings, wait
from perf.table import Table

ALL_IMAGES = 1_281_167
_BLOCK = 20_000


@dataclass(frozen=True)
class Shape:
    """ImageNet-1K in the space of CLIP ViT-B/32: k̂ = N / 300 centres that keep five nouns each."""

    n_images: int = 100_000
    n_nouns: int = 119_034
    n_features: int = 512
    n_centres: int = 4271
    n_kept: int = 5 * 4271


@dataclass(frozen=True)
class Taken:
    """Seconds, processor seconds, operations per second over those of a plain matrix product, and bytes."""

    wall: float
    cpu: float
    share: float
    memory: float
    rates: Ceilings


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    shape, device = (
        Shape(*(getattr(options, name) for name in Shape().__dict__)),
        resolve_device(options.device),
    )
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        return _measure(shape, options.turns, device, Path(folder))


def _measure(shape: Shape, turns: int, device: torch.device, folder: Path) -> Table:
    nouns = _made(folder / "nouns.npy", shape.n_nouns, shape.n_features, 1)
    images = _made(folder / "images.npy", shape.n_images, shape.n_features, 2)
    out = np.lib.format.open_memmap(folder / "texts.npy", "w+", np.float32, images.shape)
    centres, kept = np.asarray(images[: shape.n_centres]), np.asarray(nouns[: shape.n_kept])
    where = str(device)

    def select() -> None:
        select_nouns(nouns, centres, device=where)

    def retrieve(rows: slice) -> None:
        text_counterparts(images[rows], kept, out=out[rows], device=where)

    selecting = [_time(select, _product(nouns, centres), device) for _ in range(turns)]
    counterparts = []
    for part in np.array_split(np.arange(shape.n_images), turns):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        counterparts.append(_time(partial(retrieve, rows), 2 * _product(images[rows], kept), device))
    return _table(shape, device, selecting, counterparts)


def _table(shape: Shape, device: torch.device, selecting: list[Taken], counterparts: list[Taken]) -> Table:
    table = Table(
        f"Words: {shape.n_nouns:,} nouns, D = {shape.n_features}, k̂ = {shape.n_centres:,}, float32 on "
        f"{device.type}, {torch.get_num_threads()} threads",
        ("", "seconds", "CPU seconds", "images per second", "share of matrix-product rate"),
    )
    table.add(
        "select nouns",
        f"{median(taken.wall for taken in selecting):.1f}",
        f"{median(taken.cpu for taken in selecting):.1f}",
        "",
        f"{median(taken.share for taken in selecting):.0%}",
    )
    wall, cpu = (sum(getattr(taken, name) for taken in counterparts) for name in ("wall", "cpu"))
    share = f"{median(taken.share for taken in counterparts):.0%}"
    table.add(
        f"counterparts of {shape.n_images:,} images in {shape.n_kept:,} nouns",
        f"{wall:.0f}",
        f"{cpu:.0f}",
        f"{shape.n_images / wall:,.0f}",
        share,
    )
    if shape.n_images < ALL_IMAGES:
        more = ALL_IMAGES / shape.n_images
        table.add(
            f"the same of {ALL_IMAGES:,}, extrapolated", f"{wall * more:.0f}", f"{cpu * more:.0f}", "", ""
        )
    own = [max(taken.memory for taken in some) / 2**20 for some in (selecting, counterparts)]
    table.notes.append(
        f"Peak memory beside mapped files and what was there before (images and nouns are mapped, the kept "
        f"nouns are not): {own[0]:,.0f} MiB to select, {own[1]:,.0f} MiB for counterparts.\n"
    )
    table.note_ceilings([taken.rates for taken in (*selecting, *counterparts)])
    return table


def _time(work: Callable[[], object], flops: float, device: torch.device) -> Taken:
    """Time some work beside the machine's rates, measured before and after."""
    before = measure_ceilings(device, torch.float32)
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    with _peak_of_memory() as peak:
        work()
    wait(device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = measure_ceilings(device, torch.float32)
    rates = Ceilings((before.matmul + after.matmul) / 2, (before.copy + after.copy) / 2)
    return Taken(wall, cpu, flops / wall / rates.matmul, peak[0], rates)


def _product(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the operations of ``a @ b.T``."""
    return 2.0 * len(a) * len(b) * a.shape[1]


def _made(path: Path, n_rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Write rows of normal draws to a file, and map it."""
    generator = np.random.default_rng(seed)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, dim))
    for start in range(0, n_rows, _BLOCK):
        block = file[start : start + _BLOCK]
        block[:] = generator.standard_normal(block.shape, dtype=np.float32)
    file.flush()
    del file
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return mapped


@contextmanager
def _peak_of_memory() -> Iterator[list[float]]:
    """Yield a list that holds by how many bytes the process's own memory grew, mapped files not counted."""
    peak, before, done = [0.0], _own_memory(), threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _own_memory() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _own_memory() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    found = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return 1024.0 * int(found[0].split()[1])


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in Shape().__dict__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
