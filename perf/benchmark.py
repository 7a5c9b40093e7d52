"""Making benchmarks of ImageNet-21K: from as many labels as it has, and from a miniature.

Labels are made: the real ids in the real tree, class sizes long-tailed, keys like those of the data set. Peak
memory is of the process, so run it alone.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kinfold.benchmark import CATALOGUE, LabelTable, build_benchmark, class_list
from perf.table import Table

N_ROWS = 11_060_239
N_VAL = 50
MINIATURE = 4


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=N_ROWS, help="training labels of the large table")
    options = parser.parse_args(arguments)
    ids = class_list("imagenet21k")
    table = Table(
        f"Benchmarks of ImageNet-21K: {len(ids):,} classes, CPU seconds",
        ("benchmark", "training labels", "classes", "making", "writing", "peak GiB"),
    )
    for n in (MINIATURE * len(ids), options.rows):
        columns = make_columns(n, 1 if n < options.rows else N_VAL)
        data, seconds = timed(lambda columns=columns: LabelTable.from_columns(*columns))
        table.add("labels sorted and checked", f"{n:,}", "", f"{seconds:.1f}", "", f"{peak():.1f}")
        for name, entry in CATALOGUE.items():
            if entry.universe == "imagenet21k":
                measure(table, name, data)
    return table


def measure(table: Table, name: str, data: LabelTable) -> None:
    """Make one benchmark, write it, and add a row."""
    builder, ids = CATALOGUE[name].builder, class_list("imagenet21k")
    rng = np.random.default_rng(1)
    n_models = {"top": 1, "union": 3}.get(builder, 0)
    models = [dict(zip(ids, rng.random(len(ids)).tolist(), strict=True)) for _ in range(n_models)]
    parameters = {"depth": 4} if builder == "coarse" else {}
    found, making = timed(lambda: build_benchmark(name, data, accuracies=models, parameters=parameters))
    with tempfile.TemporaryDirectory() as folder:
        _, writing = timed(lambda: found.save(Path(folder) / name))
    n_training = int(data.is_training.sum())
    table.add(
        name, f"{n_training:,}", f"{found.n_classes:,}", f"{making:.1f}", f"{writing:.1f}", f"{peak():.1f}"
    )


def make_columns(n_train: int, n_val: int) -> tuple[Any, Any, Any]:
    """Return keys, labels and splits of so many training images and ``n_val`` validation images per class."""
    ids = class_list("imagenet21k")
    shares = 1 + np.random.default_rng(0).pareto(2.0, len(ids))
    ends = np.round(np.cumsum(shares) / shares.sum() * n_train).astype(np.int64)
    sizes = np.diff(ends, prepend=0)
    numbers = np.concatenate([np.repeat(np.arange(len(ids)), sizes), np.repeat(np.arange(len(ids)), n_val)])
    names = pa.array(ids, pa.large_string()).take(pa.array(numbers))
    is_val = pa.array(np.arange(len(numbers)) >= n_train)
    splits = pc.if_else(is_val, pa.scalar("val", pa.large_string()), pa.scalar("train", pa.large_string()))
    rows = pa.array(np.arange(len(numbers))).cast(pa.large_string())
    files = pc.binary_join_element_wise(names, rows, pa.scalar("_", pa.large_string()))
    return pc.binary_join_element_wise(splits, names, files, pa.scalar("/", pa.large_string())), names, splits


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """Return what an action gives, and its processor seconds."""
    start = time.process_time()
    return action(), time.process_time() - start


def peak() -> float:
    """Return the peak memory of the process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    print(main().markdown())
