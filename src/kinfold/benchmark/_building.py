"""Making a benchmark: what becomes of every class, applied to labels by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kinfold.benchmark import _maps
from kinfold.benchmark._catalogue import BUILDERS, Entry, find_entry
from kinfold.benchmark._files import Benchmark
from kinfold.benchmark._lists import class_list
from kinfold.benchmark._making import make_benchmark
from kinfold.benchmark._maps import ClassMap
from kinfold.benchmark._trees import PUBLISHED, WORDNET, OpenedTree, open_tree
from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy import ClassTree
from kinfold.labels import ClassCounts, LabelTable


def build_benchmark(
    name: str,
    data: LabelTable | ClassCounts,
    *,
    tree: str | Path | ClassTree | None = None,
    rule: str = "nearest-ancestor",
    classes: Sequence[str] | None = None,
    accuracies: Sequence[Mapping[str, float]] = (),
    parameters: Mapping[str, Any] | None = None,
) -> Benchmark:
    """Make a benchmark.

    Parameters
    ----------
    name : str
        One of the catalogue, or a builder for one's own classes.
    data : LabelTable or ClassCounts
        Labels by key. Counts alone give the classes of the benchmark, but no file of keys and labels.
    tree : str, Path, ClassTree or None, default None
        See :func:`open_tree`; by default the published tree for ImageNet-21K and WordNet for anything else.
    rule : {"nearest-ancestor", "direct"}, default "nearest-ancestor"
        For WordNet.
    classes : sequence of str or None, default None
        The list of classes to keep, for the builder ``list``; of a benchmark of the catalogue its own by
        default.
    accuracies : sequence of mappings, default ()
        Accuracy per class of one model (``top``) or several (``union``).
    parameters : mapping or None, default None
        Of the builder, in place of those of the catalogue.

    Returns
    -------
    Benchmark

    Raises
    ------
    InputError
        The name or a parameter is unknown, something that is needed is missing, or the data don't fit.
    """
    entry = find_entry(name)
    chosen = _parameters(entry, parameters or {})
    table = data if isinstance(data, LabelTable) else None
    counts = data if isinstance(data, ClassCounts) else data.counts()
    n_outside = 0
    if entry.universe is not None:
        universe = class_list(entry.universe)
        if table is not None:
            inside = table.within(universe)
            n_outside, table, counts = len(table) - len(inside), inside, inside.counts()
        else:
            counts, n_outside = _within(counts, universe)
    if table is None and "labels" in BUILDERS[entry.builder].needs:
        raise InputError(
            f"{name} is made of labels by key; counts alone don't suffice (labels=, --labels, --source)"
        )
    opened = None
    if "tree" in BUILDERS[entry.builder].needs:
        default = PUBLISHED if entry.universe == "imagenet21k" else WORDNET
        opened = open_tree(default if tree is None else tree, counts.classes, rule=rule)
    wanted = classes if classes is not None else class_list(entry.classes) if entry.classes else None
    found = make_map(
        entry.builder, counts, opened=opened, wanted=wanted, accuracies=accuracies, parameters=chosen
    )
    return make_benchmark(entry, chosen, found, counts, table=table, opened=opened, n_outside=n_outside)


def make_map(
    builder: str,
    counts: ClassCounts,
    *,
    opened: OpenedTree | None = None,
    wanted: Sequence[str] | None = None,
    accuracies: Sequence[Mapping[str, float]] = (),
    parameters: Mapping[str, Any],
) -> ClassMap:
    """Return what a builder makes of every class."""
    names = counts.classes
    if builder in ("coarse", "class-leaf"):
        if opened is None:
            raise InputError(f"{builder} needs a tree (tree=, --tree)")
        if builder == "coarse":
            own = {name: parameters[name] for name in ("choice", "steps")}
            return _maps.coarse(names, opened.tree, parameters["depth"], **own)
        return _maps.class_leaves(names, opened.tree)
    if builder in ("top", "union"):
        if not accuracies or (builder == "top" and len(accuracies) > 1):
            wanted_tables = "one table" if builder == "top" else "one table or more"
            raise InputError(
                f"{builder} needs {wanted_tables} of accuracies per class (accuracies=, --accuracies)"
            )
        return _maps.union(_maps.top_classes(names, one, parameters["n_classes"]) for one in accuracies)
    if builder == "list":
        if wanted is None:
            raise InputError("list needs the classes to keep (classes=, --classes)")
        return _maps.named_classes(names, wanted)
    makers = {
        "window": lambda: _maps.frequency_window(counts, parameters["spread"]),
        "imbalanced": lambda: _maps.imbalanced(counts, parameters["spread"], parameters["top"]),
        "centered": lambda: _maps.centered(counts, _own_size(parameters["n_classes"])),
        "wordnet-leaf": lambda: _maps.wordnet_leaves(names),
        "random": lambda: _maps.random_classes(names, parameters["n_classes"], seed=parameters["seed"]),
        "cifar20": lambda: _maps.cifar20(names),
    }
    if builder in makers:
        return makers[builder]()
    return ClassMap(names, names)


def _own_size(n_classes: Any) -> int | None:
    return None if n_classes == BUILDERS["centered"].parameters["n_classes"] else n_classes


def _parameters(entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
    builder = BUILDERS[entry.builder]
    known = list(builder.parameters)
    for name in given:
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InputError(f"{entry.name} has no parameter {name!r}{nearest_name(name, known)}; {takes}")
    chosen = {**builder.parameters, **entry.parameters, **given}
    if missing := [name for name, value in chosen.items() if value is None]:
        raise InputError(
            f"{entry.name} needs a value for {', '.join(missing)} (parameters=, --set {missing[0]}=…)"
        )
    return chosen


def _within(counts: ClassCounts, universe: Sequence[str]) -> tuple[ClassCounts, int]:
    inside = counts.of(universe)
    if not inside.n_samples:
        raise InputError(
            f"none of the counted classes (like {counts.classes[0]!r}) is one of the {len(universe):,} "
            f"classes (like {universe[0]!r})"
        )
    return inside, counts.n_samples - inside.n_samples
