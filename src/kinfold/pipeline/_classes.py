"""The classes that labels name: their tree, their names, and the text features of these names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.features import RowMatrix
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import NounCache, TextEncoder, prepare_nouns, vote_for_lemmas
from kinfold.progress import Progress
from kinfold.reading import reading
from kinfold.tables import TextTable

WORDNET = "wordnet"
WORDNET_TITLE = "WordNet 3.0"
_ID, _NAME = "id", "name"
_N_EXAMPLES = 3  # ids in a message

TreeLike: TypeAlias = str | Path | ClassTree
Names: TypeAlias = Mapping[str, str | Sequence[str]]
LemmaRule = Literal["first", "vote"]
LEMMA_RULES = ("first", "vote")


@dataclass(frozen=True)
class Classes:
    """Classes below one another, and their names.

    Attributes
    ----------
    tree : ClassTree
        The classes.
    source : str
        Where the tree is from: "WordNet 3.0", a file, or "given".
    names : tuple of tuple of str
        The names of each class, one at least.
    """

    tree: ClassTree
    source: str
    names: tuple[tuple[str, ...], ...]

    def describe(self) -> dict[str, Any]:
        """Return what a report says of the tree, JSON-ready."""
        return {
            "source": self.source,
            "n_classes": len(self.tree),
            "n_leaves": len(self.tree.leaves),
            "n_roots": len(self.tree.roots),
            "fingerprint": self.tree.fingerprint(),
        }


def find_classes(tree: TreeLike, names: str | Path | Names | None, labels: Iterable[str]) -> Classes:
    """Open the tree of some labels and find the names of its classes.

    Parameters
    ----------
    tree : "wordnet", path or ClassTree
        WordNet hangs the labels below one another; a file is a parent table.
    names : path, mapping or None
        A CSV file with the columns ``id`` and ``name``, several rows for several names; or a mapping. Classes
        without one there, or all for None, have their lemmas if they are synsets; without ``names`` others
        are called as their ids.
    labels : iterable of str
        The different labels.

    Raises
    ------
    InputError
        The tree or the names can't be read, a label is no synset, or a class has no name.
    """
    opened, source = open_class_tree(tree, labels)
    return Classes(opened, source, tuple(_find_names(opened, names)))


def open_class_tree(tree: TreeLike, labels: Iterable[str]) -> tuple[ClassTree, str]:
    """Return the tree of some labels, and where it is from in words; see :func:`find_classes`."""
    if isinstance(tree, ClassTree):
        return tree, "given"
    if str(tree) == WORDNET:
        return ClassTree.from_wordnet(sorted(set(labels))), WORDNET_TITLE
    if Path(tree).is_file():
        return ClassTree.from_table(tree), str(Path(tree).absolute())
    raise InputError(f"there is no class tree at {tree}; give {WORDNET!r}, or a table with child,parent")


def _find_names(tree: ClassTree, names: str | Path | Names | None) -> Iterator[tuple[str, ...]]:
    """Yield the names of every class in the order of the tree."""
    given, wordnet = _read_names(names), load_wordnet()
    if names is not None and not any(node in tree for node in given):
        raise InputError(
            f"no name is about a class of the tree: names are for {_listed(list(given)) or 'none'}, classes "
            f"are {_listed(tree.ids)} (names=, --names)"
        )
    unnamed = [node for node in tree.ids if not given.get(node) and node not in wordnet]
    if unnamed and names is not None:
        raise InputError(
            f"{len(unnamed)} of {len(tree)} classes have no name: {_listed(unnamed)}; every class of the "
            "tree needs one (names=, --names)"
        )
    for node in tree.ids:
        yield given.get(node) or (wordnet.lemmas(node) if node in wordnet else (node,))


def _listed(ids: Sequence[str]) -> str:
    """Return the first few ids for a message."""
    return ", ".join(map(repr, ids[:_N_EXAMPLES])) + (", …" if len(ids) > _N_EXAMPLES else "")


def _read_names(names: str | Path | Names | None) -> dict[str, tuple[str, ...]]:
    """Return the names of each id, cleaned, none twice."""
    found: dict[str, list[str]] = {}
    if isinstance(names, str | Path):
        for node, name in _read_name_rows(Path(names)):
            found.setdefault(node, []).append(name)
    elif names is not None:
        found = {str(node): [some] if isinstance(some, str) else list(some) for node, some in names.items()}
    clean = {node: dict.fromkeys(name.strip() for name in several) for node, several in found.items()}
    return {node: tuple(name for name in several if name) for node, several in clean.items()}


def _read_name_rows(path: Path) -> list[tuple[str, str]]:
    with reading(path, given=True):
        path.stat()  # says that there is none
        table = TextTable.open(path, is_path=lambda cell: False)  # a name may end as an image does
        columns = list(table.names)
        if missing := [name for name in (_ID, _NAME) if name not in columns]:
            raise InputError(
                f"{path} has no column {missing[0]!r}{nearest_name(missing[0], columns)}; names of "
                f"classes stand in the columns {_ID} and {_NAME}"
            )
        node, name = columns.index(_ID), columns.index(_NAME)
        return [(row[node], row[name]) for row in table.rows(strict=True)]


def embed_class_names(
    classes: Classes,
    encoder: TextEncoder,
    rule: LemmaRule,
    X: RowMatrix,
    labels: NDArray[Any],
    folder: Path,
    progress: Progress,
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return the name that stands for each class, and its text feature.

    Features of all names are kept in ``folder`` while they are made, so that a killed call can be resumed;
    what belongs to other names or another model there is removed.
    """
    names = [several[:1] for several in classes.names] if rule == "first" else classes.names
    flat = [one for several in names for one in several]
    cache = NounCache(folder)
    prepared = prepare_nouns(encoder, flat, cache=cache)
    for entry in cache.list():
        if entry.path != prepared.path:
            cache.clear(entry.name)
    nouns = prepared.embed(progress)
    place = {noun: number for number, noun in enumerate(nouns.nouns)}
    features = np.asarray(nouns.features[[place[name] for name in flat]], np.float32)
    if all(len(several) == 1 for several in names):
        return tuple(flat), features
    choice = vote_for_lemmas(names, features, X, labels, device=encoder.device, progress=progress)
    return choice.lemmas, choice.features
