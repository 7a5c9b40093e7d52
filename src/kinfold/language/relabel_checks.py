"""How far the zero-shot choices that refine labels can be trusted: measured against labels that are known.

References
----------
Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K" (2024), appendix B.5 (Figure 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.compute import resolve_device
from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy import ClassTree, Links
from kinfold.language._choice import (
    Chooser,
    check_labels,
    check_logit_scale,
    read_blocks,
    unit_images,
    unit_texts,
)
from kinfold.metrics import CalibrationCurve, calibration_curve
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix

Candidates = Literal["all", "depth", "siblings"]
CANDIDATES: tuple[Candidates, ...] = ("all", "depth", "siblings")


@dataclass(frozen=True)
class WalkAccuracy:
    """How often a choice among children goes towards the known label, by depth of the class it is made at.

    Attributes
    ----------
    counts : ndarray (n_depths,) int64
        Choices made at classes of depth 0, 1, …
    accuracies : ndarray (n_depths,) float64
        Share of them that were right; NaN where there are none.
    chances : ndarray (n_depths,) float64
        The same share if children were drawn by lot.
    """

    counts: NDArray[np.int64]
    accuracies: NDArray[np.float64]
    chances: NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Zero-shot classification with restricted candidates: how right, and how sure.

    Attributes
    ----------
    candidates : str
        "all", "depth" or "siblings".
    n_rows : int
        Rows with a label.
    accuracy, mean_confidence : float
        Share of right ones, and mean of the largest probability; 0 to 1.
    curve : CalibrationCurve
        Accuracy by confidence, with the histogram.
    """

    candidates: str
    n_rows: int
    accuracy: float
    mean_confidence: float
    curve: CalibrationCurve

    @property
    def error(self) -> float:
        """The expected calibration error (ECE)."""
        return self.curve.error


def walk_accuracy(
    X: ArrayLike | RowMatrix,
    labels: NDArray[Any],
    tree: ClassTree,
    class_features: ArrayLike,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
) -> WalkAccuracy:
    """Measure choices among children, from every class above the known label.

    Each image is put at every class on its label's main path to the root in turn, whatever was chosen before.
    A child is right if it is the label or lies above it; with several parents more than one can be. Depths
    are those along the main path (:meth:`~kinfold.hierarchy.ClassTree.main_parents`).

    Parameters
    ----------
    X, labels, tree, class_features, device, progress
        As for :func:`~kinfold.language.relabel`; labels of roots say nothing here.

    Raises
    ------
    InputError
        As for :func:`~kinfold.language.relabel`.
    """
    where = resolve_device(device)
    texts = unit_texts(class_features, len(tree), where)
    images = unit_images(X, int(texts.shape[1]), where)
    known = check_labels(labels, images.n_rows, len(tree))
    above, depths, towards = tree.main_parents(), tree.tree_depths(), _Towards(tree)
    chooser = Chooser(texts, tree.child_links, 1.0)
    n_depths = int(depths.max())
    sums = np.zeros((3, n_depths))
    wanted = np.flatnonzero((known >= 0) & (depths[known] > 0))
    for numbers, rows in read_blocks(images, wanted, "Checking choices", progress):
        own = known[numbers]
        nodes, walking = above[own], np.arange(len(own))
        while len(walking):
            best, _ = chooser.choose(rows, walking, nodes)
            right, chance = towards.judge(own[walking], nodes, best)
            weights = (np.ones(len(nodes)), right, chance)
            sums += [np.bincount(depths[nodes], one, minlength=n_depths) for one in weights]
            nodes = above[nodes]
            walking, nodes = walking[nodes >= 0], nodes[nodes >= 0]
    counts = sums[0].astype(np.int64)
    with np.errstate(invalid="ignore"):
        return WalkAccuracy(counts, sums[1] / counts, sums[2] / counts)


def calibration(
    X: ArrayLike | RowMatrix,
    labels: NDArray[Any],
    tree: ClassTree,
    class_features: ArrayLike,
    candidates: Candidates = "all",
    *,
    n_bins: int = 15,
    logit_scale: float | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Calibration:
    """Measure zero-shot classification whose candidates are restricted by the known label.

    Parameters
    ----------
    X, labels, tree, class_features, logit_scale, device, progress
        As for :func:`~kinfold.language.relabel`.
    candidates : {"all", "depth", "siblings"}, default "all"
        All classes; those of the same depth as the label (the shortest way to a root); or the label and the
        classes that share a parent with it, those of the same depth where there are none.
    n_bins : int, default 15
        Bins of the curve.

    Raises
    ------
    InputError
        As for :func:`~kinfold.language.relabel`; or no row has a label.
    """
    if candidates not in CANDIDATES:
        hint = nearest_name(str(candidates), list(CANDIDATES))
        raise InputError(f"candidates must be one of {', '.join(CANDIDATES)}, not {candidates!r}{hint}")
    where = resolve_device(device)
    texts = unit_texts(class_features, len(tree), where)
    images = unit_images(X, int(texts.shape[1]), where)
    known = check_labels(labels, images.n_rows, len(tree))
    wanted = np.flatnonzero(known >= 0)
    if not len(wanted):
        raise InputError("no row has a label; calibration needs one at least")
    set_of, sets = _candidate_sets(tree, candidates)
    chooser = Chooser(texts, sets, check_logit_scale(logit_scale))
    sure, right = np.empty(len(wanted), np.float32), np.empty(len(wanted), np.bool_)
    start = 0
    for numbers, rows in read_blocks(images, wanted, f"Calibration, {candidates}", progress):
        own, stop = known[numbers], start + len(numbers)
        best, sure[start:stop] = chooser.choose(rows, np.arange(len(own)), set_of[own])
        right[start:stop] = best == own
        start = stop
    curve = calibration_curve(sure, right, n_bins=n_bins)
    return Calibration(
        candidates, len(wanted), float(right.mean()), float(sure.mean(dtype=np.float64)), curve
    )


class _Towards:
    """Tells whether a child of a class lies on a way down to a label."""

    def __init__(self, tree: ClassTree) -> None:
        self._n = n = len(tree)
        closure = tree.ancestor_links
        owners = np.r_[closure.owners, np.arange(n)]
        self._nodes = np.sort(owners * n + np.r_[closure.indices, np.arange(n)])  # (label, itself or above)
        steps, parents = tree.parent_links.take(self._nodes % n)
        self._ways, self._n_ways = np.unique(
            self._nodes[steps] // n * n + parents, return_counts=True
        )  # (label, class above): how many of the class's children are right
        self._n_children = tree.child_links.counts

    def judge(
        self, labels: NDArray[Any], nodes: NDArray[Any], chosen: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return whether the children chosen at nodes are right, and how likely that was by lot."""
        rows = labels.astype(np.int64) * self._n
        keys = rows + chosen
        places = np.minimum(np.searchsorted(self._nodes, keys), len(self._nodes) - 1)
        ways = self._n_ways[np.searchsorted(self._ways, rows + nodes)]
        return self._nodes[places] == keys, ways / self._n_children[nodes]


def _candidate_sets(tree: ClassTree, candidates: str) -> tuple[NDArray[np.int64], Links]:
    """Return which set every class is compared within, and the sets."""
    n = len(tree)
    if candidates == "all":
        return np.zeros(n, np.int64), Links.from_counts([n], np.arange(n))
    depths = tree.depths().astype(np.int64)
    levels = Links.from_pairs(depths, np.arange(n), int(depths.max()) + 1)
    if candidates == "depth":
        return depths, levels
    return _sibling_sets(tree, depths, [levels[depth] for depth in range(len(levels))])


def _sibling_sets(
    tree: ClassTree, depths: NDArray[np.int64], sets: list[NDArray[np.int32]]
) -> tuple[NDArray[np.int64], Links]:
    """Add to the sets of one depth those of the children of the same parents, which they share."""
    set_of = depths.copy()
    known: dict[bytes, int] = {}
    for number in np.flatnonzero(tree.parent_links.counts).tolist():
        parents = np.sort(tree.parent_links[number])
        key = parents.tobytes()
        if key not in known:
            family = np.unique(tree.child_links.take(parents)[1])
            known[key] = len(sets)
            sets.append(family)
        if len(sets[known[key]]) > 1:
            set_of[number] = known[key]
    return set_of, Links.from_counts([len(one) for one in sets], np.concatenate(sets))
