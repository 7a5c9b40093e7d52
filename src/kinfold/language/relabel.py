"""Finer labels for images whose class has classes below it: a walk down the tree by zero-shot choices.

References
----------
Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K" (2024), section 4.2 and appendix C:
hierarchical zero-shot label refining (leaf-HZR and p-HZR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

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
from kinfold.language._relabel_report import RelabelReport, make_report, shared_classes
from kinfold.progress import SILENT, Progress
from kinfold.rows import RowMatrix

__all__ = ["RELABEL_RULES", "RelabelReport", "RelabelRule", "Relabeling", "relabel", "shared_classes"]

RelabelRule = Literal["leaf", "parent"]
RELABEL_RULES = ("leaf", "parent")


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
    whose texts are the very same the first in the tree's order is taken.

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
        Shows images.
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
    if rule not in RELABEL_RULES:
        hint = nearest_name(str(rule), list(RELABEL_RULES))
        raise InputError(f"rule must be one of {', '.join(RELABEL_RULES)}, not {rule!r}{hint}")
    where = resolve_device(device)
    texts = unit_texts(class_features, len(tree), where)
    images = unit_images(X, int(texts.shape[1]), where)
    before = check_labels(labels, images.n_rows, len(tree)).astype(np.int32)  # a copy: out may be labels
    result = _start(before, out)
    is_leaf = tree.is_leaf()
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
