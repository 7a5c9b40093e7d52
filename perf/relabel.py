"""Relabelling on ImageNet-21K's class set: a million mapped rows, and all 11.06 million as made ones.

Images and texts are random directions in 512 dimensions, labels uniform over the classes. The ids come from
timm's files where it is installed (``pip install timm --no-deps``); else as many synsets of WordNet are taken
at even distances, and the title says so. Peak memory is of the process, so run it alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.compute import resolve_device
from kinfold.features import LazyMatrix
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import calibration, relabel, walk_accuracy
from perf.ceilings import measure_ceilings
from perf.table import Table

N_CLASSES, N_WHOLE, DIM = 10_450, 11_060_223, 512


class RepeatedRows(LazyMatrix):
    """As many rows as wanted, of some that stay in memory."""

    def __init__(self, rows: NDArray[np.float32], n: int) -> None:
        self._rows, self.shape, self.dtype = rows, (n, rows.shape[1]), rows.dtype

    def _range(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._take(np.arange(start, stop))

    def _take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rows[rows % len(self._rows)]


def find_tree() -> tuple[ClassTree, str]:
    """Return the tree of 10,450 classes, and what it is."""
    if found := importlib.util.find_spec("timm"):
        folder = Path(found.submodule_search_locations[0]) / "data" / "_info"
        ids = (folder / "imagenet21k_miil_w21_synsets.txt").read_text("utf-8").split()
        return ClassTree.from_wordnet(ids), "ImageNet-21K"
    known = load_wordnet().ids
    places = np.linspace(0, len(known) - 1, N_CLASSES).astype(int)
    return ClassTree.from_wordnet([known[place] for place in places]), "as many synsets"


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    device = resolve_device(options.device)
    tree, what = find_tree()
    rng = np.random.default_rng(0)
    texts = rng.standard_normal((len(tree), DIM), dtype=np.float32)
    table = Table(
        f"Relabelling: {what}, {len(tree):,} classes, {len(tree.leaves):,} leaves, D = {DIM}, float32 on "
        f"{device.type}, {torch.get_num_threads()} threads",
        (
            "",
            "rows",
            "rows that could move",
            "s",
            "processor s",
            "µs of processor per row",
            "the same for 11.06M rows, s",
            "share of matrix-product rate",
            "peak GiB",
        ),
    )
    rates = [measure_ceilings(device, torch.float32) for _ in range(options.turns)]
    rate = median(one.matmul for one in rates)
    shared: dict[str, Any] = {"tree": tree, "class_features": texts, "device": options.device}
    base = rng.standard_normal((min(65_536, options.rows), DIM), dtype=np.float32)

    def measure(name: str, action: Callable[..., object], n: int, flops: float, X: Any, turns: int) -> None:
        labels = np.random.default_rng(1).integers(0, len(tree), n)
        wall, cpu = _time(lambda: action(X, labels, **shared), turns)
        inner = int((~tree.is_leaf()[labels]).sum())
        share = f"{flops * n / wall / rate:.0%}" if flops else "–"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        cells = (f"{wall:.1f}", f"{cpu:.1f}", f"{1e6 * cpu / n:.1f}", f"{cpu / n * N_WHOLE:.0f}", share)
        table.add(name, f"{n:,}", f"{inner:,}", *cells, f"{peak:.2f}")

    for rule in ("leaf", "parent"):
        whole = RepeatedRows(base, N_WHOLE)
        measure(f"{rule}, made rows", _with(relabel, rule=rule), N_WHOLE, 0, whole, 1)
    n = options.check_rows
    some = RepeatedRows(base, n)
    measure("accuracy of choices", walk_accuracy, n, 0, some, options.turns)
    for name in ("siblings", "depth", "all"):
        flops = 2.0 * DIM * len(tree) if name == "all" else 0
        measure(f"calibration, {name}", _with(calibration, candidates=name), n, flops, some, options.turns)
    with tempfile.TemporaryDirectory() as folder:
        mapped = _write(Path(folder) / "rows.npy", base, options.rows)
        for rule in ("leaf", "parent"):
            name = f"{rule}, mapped file"
            measure(name, _with(relabel, rule=rule), options.rows, 0, mapped, options.turns)
    table.notes.append("Mapped pages count as memory of the process, though the system may drop them.")
    table.note_ceilings(rates)
    return table


def _with(action: Callable[..., object], **more: object) -> Callable[..., object]:
    return lambda *args, **shared: action(*args, **shared, **more)


def _time(action: Callable[[], object], turns: int) -> tuple[float, float]:
    """Return the medians of seconds and of processor seconds."""
    walls, cpus = [], []
    for _ in range(turns):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return median(walls), median(cpus)


def _write(path: Path, base: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Write rows to a file and map it."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, DIM))
    for start in range(0, n, len(base)):
        rows[start : start + len(base)] = base[: n - start]
    rows.flush()
    return np.load(path, mmap_mode="r")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the mapped file")
    parser.add_argument("--check-rows", type=int, default=50_000, help="rows that choices are checked on")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
