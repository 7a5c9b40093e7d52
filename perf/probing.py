"""The upper bounds on CIFAR-10's features (``$KINFOLD_DATA``): 50,000 training and 10,000 test rows of 1,280.

Beside the times stands the share of a matrix product's rate that the products of each reach by processor
time: what is missing to one is gathering rows, updates and everything else.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.compute import cpu_count
from kinfold.errors import InputError
from kinfold.probing import LEARNING_RATES, WEIGHT_DECAYS, knn_classify, linear_probe
from perf.ceilings import measure_ceilings
from perf.table import Table

SCALE = np.float32(0.0235)  # of the quantised features
Part = tuple[NDArray[np.float32], NDArray[Any]]


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    train, test = _load("train", options.n_rows), _load("test", None)
    n, dim = train[0].shape
    table = Table(
        f"Upper bounds: {n:,} × {dim:,}, {len(test[0]):,} test rows, {cpu_count()} cores",
        ("", "accuracy", "top-5", "s", "CPU s", "share of matrix-product rate"),
    )
    ceilings = measure_ceilings(torch.device("cpu"), torch.float32)
    n_classes, per_row = len(np.unique(train[1])), 4 * dim  # a product forward and one back
    grid = 0.9 * n * len(LEARNING_RATES) * len(WEIGHT_DECAYS)
    epochs = options.n_epochs
    work: dict[str, tuple[Callable[[], Any], float]] = {
        "20 nearest neighbours": (lambda: knn_classify(*train, *test), 2.0 * n * len(test[0]) * dim),
        f"linear probe, {epochs} epochs, 20 settings": (
            lambda: linear_probe(*train, *test, n_epochs=epochs),
            epochs * per_row * n_classes * (grid + n),
        ),
    }
    for name, (measure, operations) in work.items():
        wall, cpu = time.perf_counter(), time.process_time()
        found = measure()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        share = operations / max(cpu, math.ulp(1.0)) / (ceilings.matmul / torch.get_num_threads())
        shares = (f"{100 * value:.2f} %" for value in (found.accuracy, found.top5_accuracy))
        table.add(name, *shares, f"{wall:.0f}", f"{cpu:.0f}", f"{share:.0%}")
    table.note_ceilings([ceilings])
    return table


def _load(part: str, n_rows: int | None) -> Part:
    folder = os.environ.get("KINFOLD_DATA")
    if not folder:
        raise InputError("set KINFOLD_DATA to the folder of cifar10_mobilenetv2_train.npz and _test.npz")
    with np.load(Path(folder) / f"cifar10_mobilenetv2_{part}.npz", allow_pickle=False) as archive:
        X, y = archive["features"], archive["labels"]
    rows = np.linspace(0, len(y) - 1, n_rows or len(y)).astype(int)  # they are sorted by class
    return X[rows] * SCALE, y[rows]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-rows", type=int, help="training rows, by default all")
    parser.add_argument("--n-epochs", type=int, default=100)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
