"""Published lists of classes, carried by the package or read from a file."""

from __future__ import annotations

import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import FormatError, InputError, nearest_name
from kinfold.hierarchy import ClassTree
from kinfold.storage import check_format_version

_DATA = Path(__file__).parent / "data"
_ARRAYS = _DATA / "imagenet.npz"
_FORMAT_VERSION = 1
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
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the list of classes {path} can't be read: {error}") from error
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise InputError(f"the list of classes {path} is empty; it needs a class in every line")
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"the list of classes {path} names {twice!r} twice")
    return tuple(names)


@cache
def _read_arrays() -> dict[str, NDArray[np.int64]]:
    try:
        with np.load(_ARRAYS, allow_pickle=False) as file:
            check_format_version(_ARRAYS, int(file["format_version"]), _FORMAT_VERSION)
            return {name: file[name] for name in (*_IN_ARRAYS, "imagenet21k_parents")}
    except FormatError:
        raise
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(
            f"the lists of classes in {_ARRAYS} can't be read ({error}); install Kinfold anew: "
            "pip install --force-reinstall --no-deps kinfold"
        ) from error
