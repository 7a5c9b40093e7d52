"""What Sinkhorn–Knopp makes of a trained teacher's targets, batch by batch: ``python -m studies.targets``.

One head of the ladder's first rung is taken as the teacher; its outputs on batches of samples and neighbours
are balanced as in training, and compared with the classes. No head is trained on the balanced targets.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kinfold.heads import sinkhorn
from kinfold.neighbors import NeighborGraph, knn_graph
from studies.data import DATA_SETS, load_data
from studies.report import grid
from studies.tables import GROUNDS, TEACHER_TEMPERATURES, ladder

BATCH_SIZES = (256, 1024)
_ROWS_SEEN = 40_960  # of batches, for every figure
_COLUMNS = ("balanced", "temperature", "batch", "right", "changed", "highest", "of the class")


@dataclass(frozen=True)
class TargetFigures:
    """Means over the rows of many batches, all in [0, 1].

    Attributes
    ----------
    right : float
        Share of rows whose most probable cluster is that of their class.
    changed : float
        Share of rows whose most probable cluster is another one than without balancing.
    highest : float
        Highest probability of a row.
    of_class : float
        Probability of the cluster of the row's class.
    """

    right: float
    changed: float
    highest: float
    of_class: float


def clusters_of_classes(clusters: NDArray[np.integer], classes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the cluster that stands for each class (K,), one to one and of most samples in all."""
    table = np.zeros((classes.max() + 1, classes.max() + 1), dtype=np.int64)
    np.add.at(table, (classes, clusters), 1)
    return np.asarray(linear_sum_assignment(-table)[1], dtype=np.int64)


def judge_targets(
    logits: Tensor,
    expected: NDArray[np.int64],
    batches: Iterator[NDArray[np.int64]],
    *,
    temperature: float,
    balanced: bool | str,
) -> TargetFigures:
    """Return what targets are like.

    Parameters
    ----------
    logits : Tensor (N, K)
        The teacher's, not divided by the temperature.
    expected : ndarray (N,)
        Cluster of every row's class.
    batches : iterator of ndarray (2, B)
        Samples and a neighbour of each.
    temperature : float
        Of the teacher.
    balanced : bool or "joint"
        As :class:`~kinfold.ICCE` takes ``sinkhorn``.
    """
    plain, right, changed, highest, of_class, n_rows = logits.argmax(dim=1), 0, 0, 0.0, 0.0, 0
    for batch in batches:
        rows = torch.from_numpy(batch)
        views = logits[rows] / temperature  # (2, B, K)
        if balanced == "joint":
            log_q = sinkhorn(views.flatten(0, 1)[None])[0]
        else:
            log_q = (sinkhorn(views) if balanced else torch.log_softmax(views, dim=2)).flatten(0, 1)
        wanted, chosen = torch.from_numpy(expected)[rows.flatten()], log_q.argmax(dim=1)
        right += int((chosen == wanted).sum())
        changed += int((chosen != plain[rows.flatten()]).sum())
        highest += float(log_q.amax(dim=1).exp().sum())
        of_class += float(log_q.gather(1, wanted[:, None]).exp().sum())
        n_rows += len(wanted)
    return TargetFigures(right / n_rows, changed / n_rows, highest / n_rows, of_class / n_rows)


def draw_batches(graph: NeighborGraph, batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield samples (2, B) without repetition with a random neighbour of each; all have some."""
    random = np.random.default_rng(seed)
    size = min(batch_size, graph.n_samples)
    for _ in range(max(1, _ROWS_SEEN // size)):
        samples = random.choice(graph.n_samples, size, replace=False)
        places = graph.indptr[samples] + (random.random(size) * graph.degrees[samples]).astype(np.int64)
        yield np.stack([samples, graph.indices[places].astype(np.int64)])


def main() -> None:
    """Train the teacher and print the table."""
    parser = argparse.ArgumentParser(prog="python -m studies.targets", description=__doc__)
    parser.add_argument("data", choices=[ground.data for ground in GROUNDS])
    parser.add_argument("--heads", type=int, default=2, help="of the training whose best head is the teacher")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    given = os.environ.get("KINFOLD_DATA")
    data = load_data(options.data, options.seed, Path(given) if given else None).train
    row = ladder(next(ground for ground in GROUNDS if ground.data == options.data))[0]
    estimator = row.make_estimator(options.seed)
    estimator.set_params(n_heads=options.heads, consensus=False, self_training=False).fit(data.X)
    graph = knn_graph(data.X, **estimator.needs(len(data.X)).graphs[estimator.name])
    with torch.inference_mode():
        logits = estimator._network(torch.from_numpy(data.X))[0]
        expected = clusters_of_classes(logits.argmax(dim=1).numpy(), data.y)[data.y]
        lines = []
        for temperature, size, balanced in product(TEACHER_TEMPERATURES, BATCH_SIZES, (False, True, "joint")):
            found = judge_targets(
                logits,
                expected,
                draw_batches(graph, size, options.seed),
                temperature=temperature,
                balanced=balanced,
            )
            figures = (found.right, found.changed, found.highest, found.of_class)
            start = [str(balanced), f"{temperature:g}", str(size)]
            lines.append(start + [f"{figure:.3f}" for figure in figures])
    print(f"{options.data}, K = {DATA_SETS[options.data].n_clusters}\n\n{grid(_COLUMNS, lines)}")


if __name__ == "__main__":
    main()
