"""Names for 1,000 and 10,000 clusters out of WordNet's 119,034 nouns, step by step, in bounded memory.

Made data in files that are mapped, as features are: every cluster lies around a noun of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.compute import resolve_device
from kinfold.hierarchy import load_wordnet
from kinfold.language import name_clusters
from kinfold.progress import ProgressTask
from perf.table import Table

_BLOCK = 20_000
_STATUS = Path("/proc/self/status")


class _Steps:
    """Progress that times its tasks."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[ProgressTask]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield self
        self.seconds[description] = (time.perf_counter() - wall, time.process_time() - cpu)

    def advance(self, n: int = 1, **figures: object) -> None:
        """Nothing to show."""


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-clusters", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--per-cluster", type=int, default=50)
    parser.add_argument("--n-features", type=int, default=512)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    device = str(resolve_device(options.device))
    words = load_wordnet().nouns().strings
    table = Table(
        f"Naming: {len(words):,} nouns, D = {options.n_features}, {options.per_cluster} images per cluster, "
        f"{device}",
        ("clusters", "step", "wall s", "processor s"),
    )
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        nouns = _made(Path(folder) / "nouns.npy", len(words), options.n_features, None)
        for n_clusters in options.n_clusters:
            labels = np.arange(n_clusters * options.per_cluster) % n_clusters
            around = nouns[: 3 * n_clusters : 3]
            images = _made(Path(folder) / "images.npy", len(labels), options.n_features, around)
            _measure(table, images, labels, n_clusters, nouns, words, device)
    table.notes.append(f"Memory of its own at the end: {_own_memory()} MiB; files are mapped.")
    return table


def _measure(
    table: Table,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_clusters: int,
    nouns: NDArray[np.float32],
    words: tuple[str, ...],
    device: str,
) -> None:
    steps, wall, cpu = _Steps(), time.perf_counter(), time.process_time()
    names = name_clusters(images, labels, n_clusters, nouns, words, device=device, progress=steps)
    total = (time.perf_counter() - wall, time.process_time() - cpu)
    right = sum(noun == words[3 * cluster] for cluster, noun in enumerate(names.nouns))
    for name, (wall, cpu) in {**steps.seconds, f"all, {right:,} right": total}.items():
        table.add(f"{n_clusters:,}", name, f"{wall:.1f}", f"{cpu:.1f}")


def _made(path: Path, n: int, dim: int, around: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Write random rows, around the given ones in turn, and return them mapped from the file."""
    random = np.random.default_rng(n)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (n, dim))
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(n, start + _BLOCK))
        out[rows] = random.standard_normal((len(rows), dim), np.float32)
        if around is not None:
            out[rows] = 2 * out[rows] + around[rows % len(around)]
    out.flush()
    return np.load(path, mmap_mode="r")


def _own_memory() -> str:
    """Return what the process holds besides mapped files, where the system says it."""
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((f"{int(line.split()[1]) // 1024:,}" for line in lines if line.startswith("RssAnon")), "?")


if __name__ == "__main__":
    print(main().markdown())
