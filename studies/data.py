"""The data sets of the studies.

Labels are read for evaluation, for unbalanced draws, and for upper bounds alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError

_FILES = "cifar10_mobilenetv2_{part}.npz"
_SCALE = np.float32(0.0235)  # one step of the 8-bit features


@dataclass(frozen=True)
class DataSet:
    """What a data set is, known before it is read.

    Attributes
    ----------
    source : str
        ``"digits"`` or ``"cifar"``.
    n_samples, n_features, n_clusters : int
        N of the training set, D, K.
    tested : bool
        Whether there is a test set.
    imbalance : float
        Size of the largest class over that of the smallest; the others fall geometrically.
    """

    source: str
    n_samples: int
    n_features: int = 1280
    n_clusters: int = 10
    tested: bool = False
    imbalance: float = 1.0


DATA_SETS = {
    "digits": DataSet("digits", 1797, 64),
    "cifar-500": DataSet("cifar", 500),
    "cifar-2000": DataSet("cifar", 2000),
    "cifar-5000": DataSet("cifar", 5000),
    "cifar-unbalanced-2000": DataSet("cifar", 2000, imbalance=10.0),
    "cifar-unbalanced-5000": DataSet("cifar", 5000, imbalance=10.0),
    "cifar-10000": DataSet("cifar", 10_000, tested=True),
    "cifar": DataSet("cifar", 50_000, tested=True),
}


@dataclass(frozen=True)
class Split:
    """Features (N, D) float32 and classes (N,)."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """A training set, and a test set where there is one."""

    train: Split
    test: Split | None = None


def load_data(name: str, seed: int, folder: Path | None) -> Data:
    """Return a data set; of CIFAR-10 a subset drawn with the seed, unless all of it is asked for."""
    facts = DATA_SETS[name]
    if facts.source == "digits":
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        return Data(Split(digits.data.astype(np.float32), digits.target.astype(np.int64)))
    if folder is None:
        raise InputError(f"{name} needs the folder of the CIFAR-10 features: KINFOLD_DATA or --data")
    X, y = _read(folder, "train")
    if facts.n_samples < len(y):
        rows = draw_rows(y, facts, np.random.default_rng(seed))
        X, y = X[rows], y[rows]
    return Data(_scale(X, y), _scale(*_read(folder, "test")) if facts.tested else None)


def draw_rows(y: NDArray[np.int64], facts: DataSet, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the sorted numbers of the rows drawn: at random, or with class sizes falling geometrically."""
    if facts.imbalance == 1:
        return np.sort(rng.choice(len(y), facts.n_samples, replace=False))
    shares = facts.imbalance ** -np.linspace(0, 1, facts.n_clusters)
    sizes = np.floor(facts.n_samples * shares / shares.sum()).astype(int)
    sizes[0] += facts.n_samples - sizes.sum()
    order = rng.permutation(facts.n_clusters)
    drawn = [
        rng.choice(np.flatnonzero(y == label), size, replace=False)
        for label, size in zip(order, sizes, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _read(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    path = folder / _FILES.format(part=part)
    if not path.is_file():
        raise InputError(f"{path} is missing; name the folder with KINFOLD_DATA or --data")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["features"], arrays["labels"].astype(np.int64)


def _scale(X: NDArray[np.uint8], y: NDArray[np.int64]) -> Split:
    return Split(X.astype(np.float32) * _SCALE, y)
