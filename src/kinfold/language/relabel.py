"""Refine labels by zero-shot choices down a class tree, and measure how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kinfold.compute import resolve_device
from kinfold.errors import InputError
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
from kinfold.validation import check_choice

RelabelRule = Literal["leaf", "parent"]
RELABEL_RULES = ("leaf", "parent")

Candidates = Literal["all", "depth", "siblings"]
CANDIDATES: tuple[Candidates, ...] = ("all", "depth", "siblings")


@dataclass(frozen=True)
class RelabelReport:
    """How labels changed.

    Attributes
    ----------
    rule : str
        "leaf" or "parent".
    n_rows, n_labeled : int
        Rows, and those of them with a label.
    n_inner : int
        Rows whose label had classes below it: those that could move.
    n_moved : int
        Rows whose label changed.
    n_classes_before, n_classes_after : int
        Classes with rows.
    vanished, appeared : tuple of int
        Classes that had rows and have none now, and the other way round.
    n_rows_of_vanished : int
        Rows that had a label of a vanished class; all of them have another one now.
    steps : tuple of int
        How many labeled rows went down 0, 1, 2, … steps.
    before, after : ndarray (m,) int32
        The moves, each pair once: classes before and after.
    counts : ndarray (m,) int64
        How many rows made each, most first, then in the order of the classes.
    """

    rule: str
    n_rows: int
    n_labeled: int
    n_inner: int
    n_moved: int
    n_classes_before: int
    n_classes_after: int
    vanished: tuple[int, ...]
    appeared: tuple[int, ...]
    n_rows_of_vanished: int
    steps: tuple[int, ...]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    counts: NDArray[np.int64]

    @property
    def share_moved(self) -> float:
        """Share of the labeled rows that moved; 0 where there are none."""
        return self.n_moved / max(self.n_labeled, 1)

    @property
    def share_of_inner_moved(self) -> float:
        """Share that moved of those that could; 0 where there are none."""
        return self.n_moved / max(self.n_inner, 1)

    def as_dict(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return it as JSON-ready data without the moves; ``ids`` names the classes."""
        return {
            "rule": self.rule,
            "n_rows": self.n_rows,
            "n_labeled": self.n_labeled,
            "n_inner": self.n_inner,
            "n_moved": self.n_moved,
            "share_moved": self.share_moved,
            "share_of_inner_moved": self.share_of_inner_moved,
            "n_classes_before": self.n_classes_before,
            "n_classes_after": self.n_classes_after,
            "vanished": [ids[number] for number in self.vanished],
            "appeared": [ids[number] for number in self.appeared],
            "n_rows_of_vanished": self.n_rows_of_vanished,
            "steps": list(self.steps),
        }


def make_report(
    rule: str,
    before: NDArray[Any],
    after: NDArray[np.int32],
    steps: NDArray[np.int32],
    is_leaf: NDArray[np.bool_],
) -> RelabelReport:
    """Count what changed between the labels of all rows, −1 for none."""
    labeled = np.flatnonzero(before >= 0)
    old, new = before[labeled].astype(np.int64), after[labeled].astype(np.int64)
    n_classes = len(is_leaf)
    had, has = np.bincount(old, minlength=n_classes), np.bincount(new, minlength=n_classes)
    vanished = np.flatnonzero((had > 0) & (has == 0))
    moved = old != new
    pairs, counts = np.unique(old[moved] * n_classes + new[moved], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return RelabelReport(
        rule=rule,
        n_rows=len(before),
        n_labeled=len(labeled),
        n_inner=int(had[~is_leaf].sum()),
        n_moved=int(moved.sum()),
        n_classes_before=int((had > 0).sum()),
        n_classes_after=int((has > 0).sum()),
        vanished=tuple(vanished.tolist()),
        appeared=tuple(np.flatnonzero((had == 0) & (has > 0)).tolist()),
        n_rows_of_vanished=int(had[vanished].sum()),
        steps=tuple(np.bincount(steps[labeled], minlength=1).tolist()),
        before=(pairs[order] // n_classes).astype(np.int32),
        after=(pairs[order] % n_classes).astype(np.int32),
        counts=counts[order],
    )


def shared_classes(*labels: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[NDArray[np.bool_], ...]]:
    """Find the classes that all of several sets have, and the rows that stay if only these are kept.

    A class may vanish from the training images and stay in the validation images, or the other way round;
    then the rest of its rows has to be left out.

    Parameters
    ----------
    *labels : array of int (N_i,)
        Labels of each set after relabelling; −1 for none.

    Returns
    -------
    classes : ndarray (k,) int64
        Ascending.
    masks : tuple of ndarray (N_i,) bool
        Rows of each set that stay.

    Raises
    ------
    InputError
        No labels are given.

    References
    ----------
    Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K", appendix C.1: 37 classes and
    484 training images fewer.

    Examples
    --------
    >>> classes, (train, validation) = shared_classes(np.array([0, 1, 1, 3]), np.array([1, 2, 3]))
    >>> classes.tolist(), train.tolist(), validation.tolist()
    ([1, 3], [False, True, True, True], [True, False, True])
    """
    if not labels:
        raise InputError("classes are shared by one set of labels or more; none is given")
    shared = np.unique(labels[0]).astype(np.int64)
    for other in labels[1:]:
        shared = np.intersect1d(shared, other)
    shared = shared[shared >= 0]
    return shared, tuple(np.isin(one, shared) for one in labels)


@dataclass(frozen=True)
class Relabeling:
    """Labels after refining.

    Attributes
    ----------
    labels : ndarray (N,) int32
        Number of the class in the tree; −1 where there was no label.
    confidences : ndarray (N,) float32
        Probability of the last choice, by the softmax over its candidates; NaN where there was nothing to
        choose: no label, or one with nothing below it.
    steps : ndarray (N,) int32
        How far down the label went; 0 where it stayed.
    report : RelabelReport
        What changed, in numbers.
    """

    labels: NDArray[np.int32]
    confidences: NDArray[np.float32]
    steps: NDArray[np.int32]
    report: RelabelReport


def relabel(
    X: ArrayLike | RowMatrix,
    labels: NDArray[Any],
    tree: ClassTree,
    class_features: ArrayLike,
    *,
    rule: RelabelRule = "leaf",
    logit_scale: float | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    out: NDArray[np.int32] | None = None,
) -> Relabeling:
    """Refine labels by zero-shot choices among the classes below them, again and again.

    "leaf" (leaf-HZR): at a class with children the image goes to the child whose text lies closest, until it
    comes to a class without. "parent" (p-HZR): the class that it is at is among the candidates, and the walk
    ends where that one wins. A class may have several parents; the walk only ever goes down. Of candidates
    with equal text features the first in the tree's order is taken.

    Parameters
    ----------
    X : row matrix of shape (N, D)
        Image features of the joint space, of any length. Only rows that can move are read, in their order and
        in blocks; beside the result, some hundred MiB are taken whatever N.
    labels : array of int of shape (N,)
        Number of each image's class in the tree, −1 for none, which stays.
    tree : ClassTree
        The classes.
    class_features : array of shape (K, D)
        One text feature per class of the tree, in its order (:func:`~kinfold.language.embed_classes`,
        :func:`~kinfold.language.choose_lemmas_by_labels`).
    rule : {"leaf", "parent"}, default "leaf"
        Whether labels always go down to a leaf, or may stay.
    logit_scale : float or None, default None
        Factor of the cosines in confidences, as of :class:`~kinfold.language.ZeroShotClassifier`; labels
        don't depend on it.
    device : str, default "auto"
        Where to compute, in float32.
    progress : Progress
        Receives progress.
    out : array of int32 of shape (N,), optional
        Where to write the labels, a memory map for instance; may be ``labels`` itself.

    Returns
    -------
    Relabeling

    Raises
    ------
    InputError
        Labels don't fit the rows or the tree, features don't fit one another, a row that can move or a class
        is zero or not finite, or the rule is unknown.

    Examples
    --------
    >>> tree = ClassTree({"furniture": None, "chair": "furniture", "desk": "furniture"})
    >>> relabel([[0.1, 0.9]], np.array([0]), tree, [[0.7, 0.7], [1, 0], [0, 1]]).labels
    array([2], dtype=int32)
    """
    check_choice(RELABEL_RULES, rule=rule)
    where = resolve_device(device)
    texts = unit_texts(class_features, len(tree), where)
    images = unit_images(X, int(texts.shape[1]), where)
    before = check_labels(labels, images.n_rows, len(tree)).astype(np.int32)  # a copy: out may be labels
    result = _start(before, out)
    is_leaf = tree.is_leaf()
    # Only rows with a label above others can move; the rest is neither read nor compared.
    chooser = Chooser(texts, _candidates(tree, rule), check_logit_scale(logit_scale))
    wanted = np.flatnonzero((before >= 0) & ~is_leaf[before])
    for numbers, rows in read_blocks(images, wanted, "Relabelling", progress):
        walk = _walk(chooser, rows, before[numbers], is_leaf)
        for kept, found in zip(result, walk, strict=True):
            kept[numbers] = found
    return Relabeling(*result, make_report(rule, before, result[0], result[2], is_leaf))


def _start(
    before: NDArray[np.int32], out: NDArray[np.int32] | None
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Return labels, confidences and steps as they are before any walk."""
    labels = np.empty_like(before) if out is None else out
    if labels.shape != before.shape or labels.dtype != np.int32:
        raise InputError(f"out must be int32 of shape {before.shape}, not {labels.dtype} of {labels.shape}")
    labels[:] = before
    return labels, np.full(len(before), np.nan, np.float32), np.zeros(len(before), np.int32)


def _candidates(tree: ClassTree, rule: str) -> Links:
    """Return what is chosen among at every class, in the order of the tree; nothing at leaves."""
    below = tree.child_links
    if rule == "leaf":
        return below
    inner = np.flatnonzero(below.counts)
    owners, values = np.r_[below.owners, inner], np.r_[below.indices, inner]
    order = np.lexsort((values, owners))
    return Links.from_pairs(owners[order], values[order], len(tree))


def _walk(
    chooser: Chooser, rows: Tensor, nodes: NDArray[np.int32], is_leaf: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """Walk down from the given inner nodes; return the ends, the last probabilities and the steps."""
    confidences = np.zeros(len(nodes), np.float32)
    steps = np.zeros(len(nodes), np.int32)
    walking = np.arange(len(nodes))
    while len(walking):
        best, confidences[walking] = chooser.choose(rows, walking, nodes[walking])
        moved = best != nodes[walking]
        steps[walking] += moved
        nodes[walking] = best
        walking = walking[moved & ~is_leaf[best]]
    return nodes, confidences, steps


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
        The same share if children were drawn at random.
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
        As for :func:`~kinfold.language.relabel`; labels of roots are left out.

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
    chooser = Chooser(texts, tree.child_links, 1.0)  # probabilities aren't used here, so any scale does
    n_depths = int(depths.max())
    sums = np.zeros((3, n_depths))
    wanted = np.flatnonzero((known >= 0) & (depths[known] > 0))
    for numbers, rows in read_blocks(images, wanted, "Checking choices", progress):
        own = known[numbers]
        # All rows of a block climb together, one step of their main path per round.
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
    check_choice(CANDIDATES, candidates=candidates)
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
        """Return whether the children chosen at nodes are right, and how likely that was at random."""
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
        # An only child has no siblings to be compared with: its class stays in the set of its depth.
        if len(sets[known[key]]) > 1:
            set_of[number] = known[key]
    return set_of, Links.from_counts([len(one) for one in sets], np.concatenate(sets))
