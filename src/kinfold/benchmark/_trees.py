"""Which tree classes hang in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinfold.benchmark._lists import published_tree
from kinfold.benchmark._tree_file import read_tree_file
from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy import ClassTree

PUBLISHED, WORDNET = "published", "wordnet"
RULES = ("nearest-ancestor", "direct")


@dataclass(frozen=True, eq=False)
class OpenedTree:
    """A tree, and where it is from.

    Attributes
    ----------
    tree : ClassTree
        Has all classes among its nodes.
    kind : str
        ``published``, ``wordnet``, ``tree file``, ``table`` or ``given``.
    rule : str or None
        The rule of a tree from WordNet.
    """

    tree: ClassTree
    kind: str
    rule: str | None = None

    def describe(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "kind": self.kind,
            "rule": self.rule,
            "n_nodes": len(self.tree),
            "fingerprint": self.tree.fingerprint(),
        }


def open_tree(
    spec: str | Path | ClassTree, classes: Sequence[str], *, rule: str = "nearest-ancestor"
) -> OpenedTree:
    """Open the tree of some classes.

    Parameters
    ----------
    spec : str, Path or ClassTree
        ``published``: the tree published with ImageNet-21K-P; ``wordnet``: WordNet 3.0, classes being its
        ids; a ``.pth`` file as published with ImageNet-21K-P; a parent table (CSV, TSV, Parquet; columns
        child, parent).
    classes : sequence of str
        All of them must be in the tree.
    rule : {"nearest-ancestor", "direct"}, default "nearest-ancestor"
        For WordNet, see :meth:`ClassTree.from_wordnet`.

    Raises
    ------
    InputError
        The tree can't be read, or lacks a class.
    """
    if rule not in RULES:
        raise InputError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    if isinstance(spec, ClassTree):
        opened = OpenedTree(spec, "given")
    elif str(spec) == WORDNET:
        return OpenedTree(ClassTree.from_wordnet(classes, rule=rule), WORDNET, rule)  # type: ignore[arg-type]
    elif str(spec) == PUBLISHED:
        opened = OpenedTree(published_tree(), PUBLISHED)
    elif Path(spec).suffix == ".pth":
        opened = OpenedTree(read_tree_file(spec), "tree file")
    else:
        opened = OpenedTree(ClassTree.from_table(spec), "table")
    missing = [name for name in classes if name not in opened.tree]
    if missing:
        hint = nearest_name(missing[0], list(opened.tree.ids))
        where = "given" if isinstance(spec, ClassTree) else spec
        raise InputError(
            f"{len(missing):,} of {len(classes):,} classes are not in the tree ({where}), {missing[0]!r} "
            f"first{hint}"
        )
    return opened
