"""The tree file published with ImageNet-21K-P, ``imagenet21k_miil_tree.pth``, and reading it safely.

The file is a dictionary that PyTorch has pickled: ``class_list`` (the ids), ``class_tree_list`` (for every
class the numbers of itself, its parent, and so on up to a root), ``class_description`` (id to name) and
``child_2_parent``. Ids and numbers may be NumPy's.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree

PATHS, IDS, NAMES = "class_tree_list", "class_list", "class_description"


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
    import torch

    if not path.is_file():
        raise InputError(f"there is no tree file at {path}")
    try:
        with _numpy_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} was not read: it is damaged, or holds code that would run when it is opened. A "
            f"published tree holds only lists, texts and numbers ({str(error).splitlines()[0]})"
        ) from error
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is no file that PyTorch wrote, or is damaged: {reason}") from error


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
