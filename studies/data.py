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
from studies import glosses, photographs, word_space
from studies.made import STRONG_STYLE, STYLE, make_joint_space
from studies.words import Words

_FILES = "cifar10_mobilenetv2_{part}.npz"
_SCALE = np.float32(0.0235)  # one step of the 8-bit features


@dataclass(frozen=True)
class DataSet:
    """What a data set is, known before it is read.

    Attributes
    ----------
    source : str
        ``"digits"``, ``"cifar"`` or ``"photographs"``; of joint spaces ``"made"``, ``"photographs"``, or a
        domain of :mod:`studies.glosses`.
    n_samples, n_features, n_clusters : int
        N of the training set, D, K. Photographs are projected to so many of their leading directions.
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


@dataclass(frozen=True)
class JointSet(DataSet):
    """A data set with words in its space.

    Attributes
    ----------
    own_words : bool
        Whether the names of its classes are among the nouns.
    """

    own_words: bool = True


@dataclass(frozen=True)
class StyledSet(JointSet):
    """A made space of styles of its own.

    Attributes
    ----------
    style : float
        How strong they are.
    named_styles : bool
        Whether nouns name them.
    """

    style: float = STRONG_STYLE
    named_styles: bool = True


@dataclass(frozen=True)
class PhotographSet(DataSet):
    """Photographs with all columns of their features.

    Attributes
    ----------
    archive : str
        One of :mod:`studies.photographs`.
    first_class, class_step : int
        Classes that are taken: this one and each so many after it, in their order.
    """

    archive: str = photographs.ARCHIVE
    first_class: int = 0
    class_step: int = 1


# The half of Tiny-ImageNet's classes by which no default was chosen.
_JUDGED_HALF = {"first_class": 1, "class_step": 2}


@dataclass(frozen=True)
class WordedSet(JointSet):
    """Photographs with words among them, of :mod:`studies.word_space`.

    Attributes
    ----------
    reading : str
        What words are, and how they are read.
    half : str or None
        ``"A"`` or ``"B"``: photographs of every second class.
    centred : bool
        Whether their mean is taken off the photographs.
    """

    reading: str = "nouns"
    half: str | None = None
    centred: bool = True


DATA_SETS: dict[str, DataSet] = {
    "digits": DataSet("digits", 1797, 64),
    "digits-unbalanced-660": DataSet("digits", 660, 64, imbalance=10.0),
    "digits-very-unbalanced-450": DataSet("digits", 450, 64, imbalance=50.0),
    "cifar-500": DataSet("cifar", 500),
    "cifar-2000": DataSet("cifar", 2000),
    "cifar-5000": DataSet("cifar", 5000),
    "cifar-unbalanced-2000": DataSet("cifar", 2000, imbalance=10.0),
    "cifar-unbalanced-5000": DataSet("cifar", 5000, imbalance=10.0),
    "cifar-very-unbalanced-5000": DataSet("cifar", 5000, imbalance=50.0),
    "cifar-10000": DataSet("cifar", 10_000, tested=True),
    "cifar": DataSet("cifar", 50_000, tested=True),
    "tiny-imagenet-6000": DataSet("photographs", 6_000, 256, 100, tested=True),
    "tiny-imagenet-odd-2500": PhotographSet("photographs", 2500, 1280, 50, tested=True, **_JUDGED_HALF),
    "tiny-imagenet-odd-unbalanced-2500": PhotographSet(
        "photographs", 2500, 1280, 50, tested=True, imbalance=10.0, **_JUDGED_HALF
    ),
    "tiny-imagenet-odd-very-unbalanced-2200": PhotographSet(
        "photographs", 2200, 1280, 50, tested=True, imbalance=50.0, **_JUDGED_HALF
    ),
    "cifar-photographs-2500": PhotographSet(
        "photographs", 2500, 1280, 10, tested=True, archive=photographs.SMALL_ARCHIVE
    ),
    "artifact-glosses": JointSet("artifact", 7902, 384, 24),
    "artifact-glosses-unnamed": JointSet("artifact", 7902, 384, 24, own_words=False),
    "organism-glosses": JointSet("organism", 12_940, 384, 36),
    "organism-glosses-unnamed": JointSet("organism", 12_940, 384, 36, own_words=False),
    "made-joint": JointSet("made", 3000, 64, 10),
    "made-joint-100": JointSet("made", 6000, 64, 100),
    "made-styled": StyledSet("made", 3000, 64, 10, named_styles=False),
    "made-styled-named": StyledSet("made", 3000, 64, 10),
    "tiny-raw": WordedSet("photographs", 3000, 256, 100, centred=False),
    "tiny-nouns": WordedSet("photographs", 3000, 256, 100),
    "tiny-nouns-unnamed": WordedSet("photographs", 3000, 256, 100, own_words=False),
    "tiny-nouns-a": WordedSet("photographs", 1500, 256, 50, half="A"),
    "tiny-nouns-b": WordedSet("photographs", 1500, 256, 50, half="B"),
    "tiny-definitions": WordedSet("photographs", 3000, 256, 100, reading="definitions"),
    "tiny-definitions-a": WordedSet("photographs", 1500, 256, 50, reading="definitions", half="A"),
    "tiny-definitions-b": WordedSet("photographs", 1500, 256, 50, reading="definitions", half="B"),
    "tiny-rows": WordedSet("photographs", 3000, 256, 100, reading="rows"),
}


@dataclass(frozen=True)
class Split:
    """Features (N, D) float32 and classes (N,)."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """A training set, a test set where there is one, and words where it is a joint space."""

    train: Split
    test: Split | None = None
    words: Words | None = None


def what_is_missing(name: str, folder: Path | None) -> str | None:
    """Return why a data set can't be had here, None where it can."""
    facts = DATA_SETS[name]
    source = facts.source
    if isinstance(facts, WordedSet):
        return word_space.what_is_missing(folder)
    if source == "cifar" and folder is None:
        return "KINFOLD_DATA names no folder"
    if source == "photographs":
        archive = facts.archive if isinstance(facts, PhotographSet) else photographs.ARCHIVE
        return photographs.what_is_missing(folder, archive)
    return glosses.what_is_missing() if source in glosses.DOMAINS else None


def load_data(name: str, seed: int, folder: Path | None) -> Data:
    """Return a data set; a subset is drawn with the seed, unless all of it is asked for."""
    facts = DATA_SETS[name]
    if facts.source == "digits":
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        X, y = digits.data.astype(np.float32), digits.target.astype(np.int64)
        if facts.n_samples == len(y):
            return Data(Split(X, y))
        rows = draw_rows(y, facts, np.random.default_rng(seed))
        return Data(Split(X[rows], y[rows]))
    if isinstance(facts, JointSet):
        return _load_joint(facts, seed, folder)
    if isinstance(facts, PhotographSet):
        return _load_classes(facts, seed, folder)
    if facts.source == "photographs":
        return _load_photographs(facts, seed, folder)
    if folder is None:
        raise InputError(f"{name} needs the folder of the CIFAR-10 features: KINFOLD_DATA or --data")
    X, y = _read(folder, "train")
    if facts.n_samples < len(y):
        rows = draw_rows(y, facts, np.random.default_rng(seed))
        X, y = X[rows], y[rows]
    return Data(_scale(X, y), _scale(*_read(folder, "test")) if facts.tested else None)


def _load_photographs(facts: DataSet, seed: int, folder: Path | None) -> Data:
    (X, y), test = photographs.load_photographs(folder)
    rows = draw_rows(y, facts, np.random.default_rng(seed))
    # The directions are those of the rows that are fitted: the test set has no part in them.
    directions = photographs.leading_directions(X[rows], facts.n_features)
    return Data(Split(X[rows] @ directions, y[rows]), Split(test[0] @ directions, test[1]))


def _load_classes(facts: PhotographSet, seed: int, folder: Path | None) -> Data:
    """Return photographs of the classes that are taken, numbered anew; the test set has all of theirs."""
    small = facts.archive == photographs.SMALL_ARCHIVE
    parts = (photographs.load_small_photographs if small else photographs.load_photographs)(folder)
    (X, y), test = (_take_classes(*part, facts) for part in parts)
    rows = draw_rows(y, facts, np.random.default_rng(seed))
    return Data(Split(X[rows], y[rows]), Split(*test))


def _take_classes(
    X: NDArray[np.float32], y: NDArray[np.int64], facts: PhotographSet
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    numbers, left = np.divmod(y - facts.first_class, facts.class_step)
    taken = (left == 0) & (numbers >= 0)
    return X[taken], numbers[taken]


def _load_joint(facts: JointSet, seed: int, folder: Path | None) -> Data:
    """Return a joint space; the seed draws a made one anew."""
    if facts.source == "made":
        styled = isinstance(facts, StyledSet)
        made = make_joint_space(
            facts.n_clusters,
            facts.n_samples,
            seed,
            style=facts.style if styled else STYLE,
            named_styles=facts.named_styles if styled else True,
        )
        return Data(Split(made.X, made.y), words=Words(made.noun_features))
    if isinstance(facts, WordedSet):
        found = word_space.load_word_space(
            folder, facts.reading, half=facts.half, own_words=facts.own_words, centred=facts.centred
        )
        return Data(Split(found.X, found.y), words=found.words)
    space = glosses.load_glosses(facts.source, own_words=facts.own_words)
    return Data(Split(space.X, space.y), words=Words(space.noun_features, space.nouns, space.class_features))


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
