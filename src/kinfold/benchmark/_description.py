"""What trees and histograms make of classes, beside the published figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kinfold.benchmark import _maps
from kinfold.benchmark._building import build_benchmark
from kinfold.benchmark._catalogue import BUILDERS, BY_DEPTH, CATALOGUE, WINDOWS, Entry, find_entry
from kinfold.benchmark._lists import class_list
from kinfold.benchmark._trees import PUBLISHED, RULES, WORDNET, OpenedTree, open_tree
from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.labels import ClassCounts, LabelTable

_CHOICES = ("first", "shortest", "longest")
_IMAGENET_21K = "imagenet21k"
_AS_THEY_ARE = ("all", "cifar20", "list", "odd")


def describe_benchmark(
    name: str | None = None,
    *,
    data: LabelTable | ClassCounts | None = None,
    tree: str | Path | ClassTree | None = None,
    rule: str | None = None,
) -> dict[str, Any]:
    """Say what a benchmark is, and what trees and histograms make of its classes.

    Parameters
    ----------
    name : str or None, default None
        A benchmark or builder; None: one's own classes, those of ``data`` or of ``tree``.
    data : LabelTable, ClassCounts or None, default None
        The sizes of windows, of the imbalanced and of the centred set are told; with labels by key and a data
        set's name also how what is there differs from what was published.
    tree : str, Path, ClassTree or None, default None
        See :func:`open_tree`. By default, for ImageNet-21K, its published tree; else none.
    rule : {"nearest-ancestor", "direct"} or None, default None
        For WordNet.

    Returns
    -------
    dict
        JSON-ready. Beside what the catalogue says: ``n_classes``; where all classes are in WordNet,
        ``wordnet_leaf``; where there is a tree, ``class_leaf``, ``coarse`` (depth → number of classes) and
        ``tree``. For ImageNet-21K ``trees`` holds the same for the published tree and for both rules over
        WordNet, and ``published`` the paper's figures.
    """
    entry = None if name is None else find_entry(name)
    counts = data.counts() if isinstance(data, LabelTable) else data
    found: dict[str, Any] = {} if entry is None else entry.as_dict()
    classes = _classes_of(entry, counts, tree)
    if classes is None:
        if entry is None:
            raise InputError("give a benchmark, or counts or a tree of your own (--counts, --tree)")
        return {**found, "parameters_of_builder": dict(BUILDERS[entry.builder].parameters)}
    found["n_classes"] = len(classes)
    wordnet = load_wordnet()
    if all(one in wordnet for one in classes):
        found["wordnet_leaf"] = _maps.wordnet_leaves(classes).n_labels
    is_21k = entry is not None and entry.universe == _IMAGENET_21K
    spec = PUBLISHED if tree is None and is_21k else tree
    if spec is not None:
        found |= describe_tree(open_tree(spec, classes, rule=rule or RULES[0]), classes)
    if is_21k:
        found["trees"] = _all_trees(classes)
        found["coarse_one_step"] = one_step_counts(open_tree(PUBLISHED, classes).tree, classes)
        found["published"] = {**found["published"], **_published_figures()}
    if counts is not None:
        found["frequencies"] = describe_counts(counts.of(classes))
    is_compared = entry is not None and entry.published and entry.builder in _AS_THEY_ARE
    if entry is not None and is_compared and isinstance(data, LabelTable):
        found["on_disk"] = _compare(entry, data)
    return found


def _classes_of(
    entry: Entry | None, counts: ClassCounts | None, tree: str | Path | ClassTree | None
) -> tuple[str, ...] | None:
    """Return the classes that are spoken of: a benchmark's own, else those counted, else the tree's."""
    known = None if entry is None else entry.classes or entry.universe
    if known is not None:
        return class_list(known)
    if counts is not None:
        return counts.classes
    if tree is None or str(tree) in (WORDNET, PUBLISHED):
        return None
    return open_tree(tree, ()).tree.ids


def describe_tree(opened: OpenedTree, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return leaves and coarse counts of some classes in a tree; roots have depth 0."""
    tree = opened.tree
    return {
        "tree": opened.describe(),
        "class_leaf": _maps.class_leaves(classes, tree).n_labels,
        "n_roots": len(tree.roots),
        "coarse": coarse_counts(tree, classes),
        "coarse_by_choice": {choice: coarse_counts(tree, classes, choice) for choice in _CHOICES[1:]}
        if int(tree.parent_links.counts.max()) > 1
        else {},
    }


def coarse_counts(tree: ClassTree, classes: tuple[str, ...], choice: str = "first") -> dict[str, int]:
    """Return how many labels Coarse(d) leaves of some classes, for every d from 0 to the deepest."""
    numbers = tree.numbers(classes)
    depths = tree.tree_depths(choice)  # type: ignore[arg-type]
    deepest = int(depths[numbers].max())
    return {
        str(depth): len(np.unique(tree.coarsen(depth, choice=choice)[numbers]))  # type: ignore[arg-type]
        for depth in range(deepest + 1)
    }


def one_step_counts(tree: ClassTree, classes: tuple[str, ...]) -> dict[str, int]:
    """Return the same for ``steps="one"`` of :func:`coarse`; the classes are synsets of WordNet."""
    above = _maps.coarse(classes, tree, 0, steps="one").labels
    depths = tree.tree_depths()[tree.numbers(classes)].tolist()
    rows = list(zip(classes, above, depths, strict=True))
    return {
        str(d): len({up if depth > d else name for name, up, depth in rows}) for d in range(max(depths) + 1)
    }


def describe_counts(counts: ClassCounts) -> dict[str, Any]:
    """Return how many classes and samples windows, the imbalanced and the centred set keep."""
    sets = {name: _maps.frequency_window(counts, spread) for name, (spread, _, _) in WINDOWS.items()}
    sets["imbalanced"] = _maps.imbalanced(counts)
    sets["centered"] = _maps.centered(counts)
    present = counts.counts[counts.counts > 0]
    return {
        **counts.describe(),
        "least": int(present.min()),
        "median": float(np.median(present)),
        "most": int(present.max()),
        "sets": {
            name: {"n_classes": one.n_labels, "n_samples": int(counts.counts[one.kept].sum())}
            for name, one in sets.items()
        },
    }


def _compare(entry: Entry, table: LabelTable) -> dict[str, Any]:
    facts = build_benchmark(entry.name, table).facts
    splits = {name: one["n_samples"] for name, one in facts["result"]["splits"].items()}
    return {
        "n_classes": facts["result"]["n_classes"],
        "splits": splits,
        "n_of_other_classes": facts["labels"]["n_of_other_classes"],
        "n_without_label": facts["labels"]["n_without_label"],
        "differences": facts["differences"],
    }


def _all_trees(classes: tuple[str, ...]) -> dict[str, Any]:
    found: Mapping[str, OpenedTree] = {
        PUBLISHED: open_tree(PUBLISHED, classes),
        **{rule: open_tree(WORDNET, classes, rule=rule) for rule in RULES},
    }
    return {name: describe_tree(opened, classes) for name, opened in found.items()}


def _published_figures() -> dict[str, Any]:
    return {
        "wordnet_leaf": 7353,
        "class_leaf": 8153,
        "coarse": BY_DEPTH,
        "windows": {name: n for name, (_, n, _) in WINDOWS.items()},
        "imbalanced": 2113,
        "centered": 2113,
    }


def list_benchmarks() -> dict[str, list[dict[str, Any]]]:
    """Return the benchmarks known by name, and the builders for one's own classes, JSON-ready."""
    builders = [
        {"name": one.name, "title": one.title, "parameters": dict(one.parameters), "needs": list(one.needs)}
        for one in BUILDERS.values()
    ]
    entries: list[Entry] = list(CATALOGUE.values())
    return {"benchmarks": [one.as_dict() for one in entries], "builders": builders}
