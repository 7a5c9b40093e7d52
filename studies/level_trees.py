"""Whether some level fits each depth of the class tree: ``python -m studies.level_trees``.

Photographs of Tiny-ImageNet's 100 classes are grouped at K = 100. Labels at depth d of WordNet (Coarse(d) of
the scaling paper) judge every level of the run's tree, Ward's tree of all photographs, and k-means with the
same numbers of groups: the best AMI of each, and its number of groups.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.levels import build_levels
from kinfold.methods import GraphClustering, SphericalKMeans
from kinfold.metrics import adjusted_mutual_info
from kinfold.neighbors import knn_graph
from studies.photographs import load_photographs
from studies.report import grid
from studies.word_space import judged_classes

N_CLASSES, PER_CLASS, N_LEVELS = 100, 60, 45


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("KINFOLD_DATA"))
    parser.add_argument("--seed", type=int, default=0)
    order = parser.parse_args()
    if order.data is None:
        parser.error("say where the photographs are: --data or KINFOLD_DATA")
    X, y = draw_photographs(Path(order.data), order.seed)
    depths = coarse_labels(y, judged_classes(Path(order.data)))
    fitted = GraphClustering(N_CLASSES, random_state=order.seed).fit(X)
    levels = build_levels(X, fitted.labels_, N_CLASSES, knn_graph(X, n_neighbors=10), seed=order.seed)
    parts = levels.find_parts(X, fitted.labels_)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    ward = linkage(units, "ward")
    numbers = np.unique(np.round(np.geomspace(2, levels.n_parts, N_LEVELS)).astype(int)).tolist()
    sides: dict[str, Callable[[int], NDArray[np.integer]]] = {
        "levels of a run": lambda k: levels.groups(k)[parts],
        "Ward": lambda k: fcluster(ward, k, "maxclust"),
        "k-means": lambda k: (
            SphericalKMeans(k, n_init=1, temperature=1.0, random_state=order.seed).fit(X).labels_
        ),
    }
    found = {name: best_of(cut, numbers, depths) for name, cut in sides.items()}
    rows = [
        [
            str(depth),
            str(len(np.unique(labels))),
            *(f"{found[name][depth][0]:.3f} ({found[name][depth][1]})" for name in sides),
        ]
        for depth, labels in depths.items()
    ]
    print(grid(["depth", "classes", *sides], rows))


def draw_photographs(folder: Path, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return 60 training photographs of every class."""
    (X, y), _ = load_photographs(folder)
    random = np.random.default_rng(seed)
    chosen = [random.choice(np.flatnonzero(y == one), PER_CLASS, replace=False) for one in range(N_CLASSES)]
    rows = np.sort(np.concatenate(chosen))
    return X[rows], y[rows]


def coarse_labels(y: NDArray[np.int64], classes: tuple[str, ...]) -> dict[int, NDArray[np.integer]]:
    """Return labels at every depth of WordNet that tells some classes apart, as no smaller depth does."""
    wordnet = load_wordnet()
    ids = dict.fromkeys(classes)
    for synset in classes:
        ids.update(dict.fromkeys(wordnet.ancestors(synset)))
    tree = ClassTree.from_wordnet(ids)
    found: dict[int, NDArray[np.integer]] = {}
    before = 1
    for depth in range(int(tree.tree_depths().max()) + 1):
        of_class = tree.coarsen(depth)[: len(classes)]
        if (count := len(np.unique(of_class))) > before:
            found[depth], before = of_class[y], count
    return found


def best_of(
    cut: Callable[[int], NDArray[np.integer]], numbers: list[int], depths: dict[int, NDArray[np.integer]]
) -> dict[int, tuple[float, int]]:
    """Return the best AMI at every depth, and its number of groups."""
    labels = {k: cut(k) for k in numbers}
    return {
        depth: max((adjusted_mutual_info(coarse, labels[k]), k) for k in numbers)
        for depth, coarse in depths.items()
    }


if __name__ == "__main__":
    main()
