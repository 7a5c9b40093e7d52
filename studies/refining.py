"""What refining labels down a class tree (HZR) does where the right class of every image is known.

Every image gets the label of an inner class above its own, and is refined from there: from the class's
parent, or from the root. In a third trial every second class is taken out of the tree: images of these have
no finer class, and their parent's label should stay; this is what the rule "parent" is for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.hierarchy import ClassTree
from kinfold.language import relabel, walk_accuracy
from kinfold.language.relabel import RELABEL_RULES

Vectors = NDArray[np.float32]


def judge_refining(X: Vectors, y: NDArray[np.int64], tree: ClassTree, features: Vectors) -> dict[str, Any]:
    """Return how many images come to their class, from where, by which rule.

    Parameters
    ----------
    X : ndarray (N, D)
        Images.
    y : ndarray (N,)
        Their classes, as numbers of the tree's.
    tree : ClassTree
        Its root lies above all classes.
    features : ndarray (nodes, D)
        Of all that is in the tree.

    Returns
    -------
    dict
        ``parent``, ``root``: by rule, the shares of images that end at their class (``right``) and at a class
        above it (``above``), and ``chance``, the share that random choices down to leaves would bring there.
        ``missing``: by rule, of the images whose class was taken out the share that stays at its parent
        (``stay``), and of the others the share that ends at its class (``right``); among those whose parent
        still has classes below. ``depths``: the accuracy of the choices made at classes of each depth, and
        that of random ones.
    """
    parents = tree.main_parents()
    starts = {"parent": parents[y], "root": np.full(len(y), tree.index(tree.roots[0]))}
    found: dict[str, Any] = {
        start: {
            rule: _compare(X, y, labels, tree, features, rule) | {"chance": _chance(tree, labels, y)}
            for rule in RELABEL_RULES
        }
        for start, labels in starts.items()
    }
    found["missing"] = _judge_missing(X, y, tree, features)
    walks = walk_accuracy(X, y, tree, features)
    found["depths"] = {"accuracy": walks.accuracies, "chance": walks.chances, "count": walks.counts}
    return found


def reach(tree: ClassTree, start: int) -> NDArray[np.float64]:
    """Return with what probability random choices among children, from a class down to a leaf, pass each."""
    passed = np.zeros(len(tree))
    passed[start] = 1
    for node in tree.topological_order:
        below = tree.child_links[node]
        np.add.at(passed, below, passed[node] / max(len(below), 1))
    return passed


def _compare(
    X: Vectors, y: NDArray[np.int64], labels: NDArray[Any], tree: ClassTree, features: Vectors, rule: Any
) -> dict[str, float]:
    ends = relabel(X, labels, tree, features, rule=rule).labels
    above = [end in set(tree.ancestor_links[label].tolist()) for end, label in zip(ends, y, strict=True)]
    return {"right": float((ends == y).mean()), "above": float(np.mean(above))}


def _chance(tree: ClassTree, labels: NDArray[Any], y: NDArray[np.int64]) -> float:
    of_start = {int(start): reach(tree, int(start)) for start in np.unique(labels)}
    return float(np.mean([of_start[int(start)][own] for start, own in zip(labels, y, strict=True)]))


def _judge_missing(
    X: Vectors, y: NDArray[np.int64], tree: ClassTree, features: Vectors
) -> dict[str, dict[str, float]]:
    """Take every second class out of the tree, and refine all images from their classes' parents."""
    out = np.unique(y)[1::2]
    kept = np.setdiff1d(np.arange(len(tree)), out)
    smaller = tree.subset([tree.ids[number] for number in kept])
    place = np.full(len(tree), -1)
    place[kept] = np.arange(len(kept))
    parents = place[tree.main_parents()[y]]
    judged = (parents >= 0) & ~smaller.is_leaf()[parents]
    missing = judged & np.isin(y, out)
    shares = {}
    for rule in RELABEL_RULES:
        ends = relabel(X, parents, smaller, features[kept], rule=rule).labels  # type: ignore[arg-type]
        there = judged & ~missing
        shares[rule] = {
            "stay": float((ends == parents)[missing].mean()),
            "right": float((ends == place[y])[there].mean()),
        }
    return shares
