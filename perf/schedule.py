"""A whole fit by our own schedule beside the epochs of the looped reference, on real features.

The reference trains 8 heads for 60 epochs in batches of 512, as the authors' public code does; an epoch of
it is timed after each of our fits, and the others are taken to last as long.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch

from kinfold import TEMI
from kinfold.compute import resolve_device
from kinfold.heads import PairSampler
from kinfold.metrics import clustering_accuracy
from kinfold.neighbors import knn_graph
from perf.heads import LoopedReference, Shape
from perf.table import Table
from studies.data import DATA_SETS, load_data


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table; without the folder of the features it says only that."""
    options = _parse(arguments)
    facts = DATA_SETS[options.data]
    shape = Shape(facts.n_samples, facts.n_features, facts.n_clusters, options.n_heads, options.batch_size)
    table = Table(
        f"A whole TEMI fit, H = {shape.n_heads}, beside {options.epochs} epochs of the looped heads "
        f"(B = {shape.batch_size}): {options.data}, {torch.get_num_threads()} threads",
        ("seed", "epochs", "s", "accuracy", "reference, s per epoch", "time ÷ reference", "processor time"),
    )
    folder = options.folder or os.environ.get("KINFOLD_DATA")
    if folder is None:
        table.notes.append("Not measured: it needs the folder of the CIFAR-10 features (KINFOLD_DATA).")
        return table
    ratios = [_measure(table, options, shape, seed, Path(folder)) for seed in range(options.seeds)]
    table.notes.append(f"Mean of the seeds: {mean(ratios):.3f} of the reference's time.")
    return table


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=sorted(DATA_SETS), default="cifar")
    parser.add_argument("--folder", help="where the features are; KINFOLD_DATA if not given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-heads", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=512, help="of the reference")
    parser.add_argument("--epochs", type=int, default=60, help="of the reference")
    return parser.parse_args(arguments)


def _measure(table: Table, options: argparse.Namespace, shape: Shape, seed: int, folder: Path) -> float:
    """Fit and time once, add a row, and return the ratio of the times."""
    split = load_data(options.data, seed, folder).train
    model = TEMI(n_clusters=shape.n_clusters, n_heads=shape.n_heads, random_state=seed)
    graph = knn_graph(split.X, **model.needs(shape.n_samples).graphs["temi"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they would say is in the accuracy
        wall, cpu = _time(lambda: model.fit(split.X, graph=graph))
    device = resolve_device("auto")
    reference = LoopedReference(shape, "temi", device)
    sampler = PairSampler(
        torch.from_numpy(split.X), graph, batch_size=shape.batch_size, seed=seed, device=device
    )

    def train_epoch() -> None:
        for batch in sampler.epoch(0):
            reference.step(batch)

    epoch_wall, epoch_cpu = _time(train_epoch)
    ratio = wall / (options.epochs * epoch_wall)
    table.add(
        str(seed),
        str(len(model.history_)),
        f"{wall:.0f}",
        f"{clustering_accuracy(split.y, model.labels_):.3f}",
        f"{epoch_wall:.1f}",
        f"{ratio:.3f}",
        f"{cpu / (options.epochs * epoch_cpu):.3f}",
    )
    return ratio


def _time(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds and processor seconds that ``work`` takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    print(main().markdown())
