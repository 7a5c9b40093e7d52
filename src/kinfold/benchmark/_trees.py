"""Class lists and class trees: carried by the package, read from files, or chosen for a benchmark.

``imagenet21k_miil_tree.pth``, published with ImageNet-21K-P, is a dictionary pickled by PyTorch:
``class_list`` (the ids), ``class_tree_list`` (for every class the indices of itself, its parent, and so on
up to a root), ``class_description`` (id to name) and ``child_2_parent``. Ids and indices may be NumPy's.
It is read without running any code that the pickle may hold.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy import ClassTree
from kinfold.reading import open_arrays, reading, reason_of
from kinfold.storage import check_format_version

_DATA = Path(__file__).parent / "data"
_ARRAYS = _DATA / "imagenet.npz"
_FORMAT_VERSION = 1
_MEND = "install Kinfold anew: pip install --force-reinstall --no-deps kinfold"
_IN_ARRAYS = ("imagenet1k", "imagenet21k")
CLASS_LISTS = (
    *_IN_ARRAYS,
    "imagenet-10",
    "imagenet-dogs",
    "imagenet-50",
    "imagenet-100",
    "imagenet-200",
    "tiny-imagenet",
)
PATHS, IDS, NAMES = "class_tree_list", "class_list", "class_description"
PUBLISHED, WORDNET = "published", "wordnet"
RULES = ("nearest-ancestor", "direct")


@cache
def class_list(name: str) -> tuple[str, ...]:
    """Return the class ids of a published set, in their published order where it has one, else sorted.

    Parameters
    ----------
    name : str
        One of ``CLASS_LISTS``: ``imagenet1k`` (1,000 classes), ``imagenet21k`` (the 10,450 of the processed
        winter 2021 version), ``imagenet-10``, ``imagenet-dogs`` (15), ``imagenet-50``, ``imagenet-100``,
        ``imagenet-200``, ``tiny-imagenet`` (200). Where each comes from stands in ``data/SOURCES.md``.

    Raises
    ------
    InputError
        There is no such list.
    FormatError
        The package's data are missing or damaged.
    """
    if name not in CLASS_LISTS:
        raise InputError(
            f"there is no list of classes {name!r}{nearest_name(name, list(CLASS_LISTS))}; "
            f"there are {', '.join(CLASS_LISTS)}"
        )
    if name in _IN_ARRAYS:
        return tuple(f"n{offset:08d}" for offset in _read_arrays()[name].tolist())
    return read_class_list(_DATA / f"{name}.txt")


@cache
def published_tree() -> ClassTree:
    """Return the tree of the 10,450 classes that was published with ImageNet-21K-P.

    Every class has one parent, or none; see :func:`class_list` for the order.

    Raises
    ------
    FormatError
        The package's data are missing or damaged.
    """
    ids = class_list("imagenet21k")
    parents = _read_arrays()["imagenet21k_parents"].tolist()
    pairs = zip(ids, parents, strict=True)
    return ClassTree({child: None if parent < 0 else ids[parent] for child, parent in pairs})


def read_class_list(path: str | Path) -> tuple[str, ...]:
    """Read class names from a text file: the first word of every line; blank lines and ``#`` are left out.

    Raises
    ------
    InputError
        The file can't be read, is empty, or names a class twice.
    """
    path = Path(path)
    with reading(path, given=True):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise InputError(f"the list of classes {path} is empty; it needs a class in every line")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"the list of classes {path} names {twice!r} twice")
    return tuple(names)


@cache
def _read_arrays() -> dict[str, NDArray[np.int64]]:
    with open_arrays(_ARRAYS, _MEND) as file:
        check_format_version(_ARRAYS, int(file["format_version"]), _FORMAT_VERSION)
        return {name: file[name] for name in (*_IN_ARRAYS, "imagenet21k_parents")}


def read_tree_file(path: str | Path) -> ClassTree:
    """Read a published tree file.

    Only numbers, texts, lists, dictionaries and NumPy arrays of these are let in; a file that would run
    anything else is refused before it runs.

    Parameters
    ----------
    path : str or Path
        A ``.pth`` file.

    Returns
    -------
    ClassTree
        Classes in the file's order, one parent each or none.

    Raises
    ------
    InputError
        The file can't be read, holds something else, or its paths contradict one another.
    """
    path = Path(path)
    content = _load(path)
    if not isinstance(content, Mapping) or PATHS not in content:
        raise InputError(f"{path} is no published class tree: it holds no {PATHS!r}")
    ids = _read_ids(path, content)
    ways = _read_paths(path, content[PATHS], len(ids))
    return ClassTree(
        {child: ids[way[1]] if len(way) > 1 else None for child, way in zip(ids, ways, strict=True)}
    )


def _load(path: Path) -> Any:
    from kinfold.backbones.model_files import load_torch_file  # loads PyTorch

    if not path.is_file():
        raise InputError(f"there is no tree file at {path}; check the path")
    try:
        with _numpy_allowed():
            return load_torch_file(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} was not read: it is damaged, or holds code that would run when it is opened. A "
            f"published tree holds only lists, texts and numbers ({reason_of(error)})"
        ) from error
    except Exception as error:  # unpickling raises what it likes
        raise InputError(
            f"{path} is no file that PyTorch wrote, or is damaged: {reason_of(error)}"
        ) from error


@contextmanager
def _numpy_allowed() -> Iterator[None]:
    """Let plain NumPy arrays and numbers in, under the names that NumPy 1 and 2 give them in pickles."""
    from torch import serialization

    kinds = {
        type(np.dtype(kind))
        for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "U1", "O")
    }
    allowed: list[Any] = [np.ndarray, np.dtype, *kinds]
    for home in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [_named_like(home, name) for name in ("scalar", "_reconstruct")]
    before = serialization.get_safe_globals()
    serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _named_like(module: str, name: str) -> Callable[..., Any]:
    """Return NumPy's function of a pickle under the name that a pickle calls it by."""
    array = np.zeros(1)
    real = (np.int64(0) if name == "scalar" else array).__reduce__()[0]

    def stand_in(*arguments: Any) -> Any:
        return real(*arguments)  # type: ignore[operator]

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


def _read_ids(path: Path, content: Mapping[str, Any]) -> list[str]:
    lists = [[str(one) for one in content[key]] for key in (IDS, NAMES) if key in content]
    if not lists:
        raise InputError(f"{path} names no classes: it holds neither {IDS!r} nor {NAMES!r}")
    if any(other != lists[0] for other in lists[1:]):
        raise InputError(
            f"{path} contradicts itself: {IDS} and {NAMES} are not about the same classes in the same order"
        )
    return lists[0]


def _read_paths(path: Path, ways: Any, n_classes: int) -> list[list[int]]:
    try:
        read = [[int(number) for number in way] for way in ways]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {PATHS} is no list of lists of numbers ({error})") from error
    if len(read) != n_classes:
        raise InputError(f"{path} has {len(read):,} paths for {n_classes:,} classes")
    for place, way in enumerate(read):
        if not way or way[0] != place or not all(0 <= number < n_classes for number in way):
            raise InputError(f"{path}: path {place} doesn't go from class {place} through classes: {way[:5]}")
        if way[1:] != (read[way[1]] if len(way) > 1 else []):
            raise InputError(f"{path}: path {place} and that of its parent {way[1]} contradict one another")
    return read


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
