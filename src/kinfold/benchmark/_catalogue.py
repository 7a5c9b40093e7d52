"""Benchmarks known by name: how each is made, what data it needs, and the figures published about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kinfold.errors import InputError, nearest_name

DATA_SETS: tuple[dict[str, Any], ...] = (
    {
        "name": "tiny-imagenet",
        "title": "Tiny-ImageNet",
        "universe": "tiny-imagenet",
        "published": {
            "n_classes": 200,
            "splits": {"train": 100_000, "val": 10_000},
            "per_class": {"train": 500, "val": 50},
        },
        "where": "Stanford CS231n: cs231n.stanford.edu/tiny-imagenet-200.zip. train/n01443537/images/… lies "
        "by class; labels of val are in val_annotations.txt: give a table, or sort into val/n01443537/…",
    },
    {
        "name": "cifar10",
        "title": "CIFAR-10",
        "published": {
            "n_classes": 10,
            "splits": {"train": 50_000, "test": 10_000},
            "per_class": {"train": 5000, "test": 1000},
        },
        "where": "cs.toronto.edu/~kriz/cifar.html. Folders train/airplane/… and test/airplane/…",
    },
    {
        "name": "cifar100",
        "title": "CIFAR-100, fine labels",
        "published": {
            "n_classes": 100,
            "splits": {"train": 50_000, "test": 10_000},
            "per_class": {"train": 500, "test": 100},
        },
        "where": "cs.toronto.edu/~kriz/cifar.html. Folders train/apple/… and test/apple/…",
    },
    {
        "name": "cifar20",
        "title": "CIFAR-20: CIFAR-100 with its 20 superclasses",
        "builder": "cifar20",
        "published": {
            "n_classes": 20,
            "splits": {"train": 50_000, "test": 10_000},
            "per_class": {"train": 2500, "test": 500},
        },
        "where": "CIFAR-100 (cs.toronto.edu/~kriz/cifar.html), labels by name, or by number 0 to 99",
    },
    {
        "name": "stl10",
        "title": "STL-10",
        "published": {
            "n_classes": 10,
            "splits": {"train": 5_000, "test": 8_000},
            "per_class": {"train": 500, "test": 800},
        },
        "where": "cs.stanford.edu/~acoates/stl10. Folders train/airplane/… and test/airplane/…; the "
        "100,000 images of the split unlabeled have no class",
    },
    {
        "name": "food101",
        "title": "Food-101",
        "published": {
            "n_classes": 101,
            "splits": {"train": 75_750, "test": 25_250},
            "per_class": {"train": 750, "test": 250},
        },
        "where": "data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. images/apple_pie/…; meta/train.txt and "
        "meta/test.txt say the split: give a table, or sort into train/apple_pie/… and test/apple_pie/…",
    },
    {
        "name": "dtd",
        "title": "DTD, the describable textures",
        "published": {
            "n_classes": 47,
            "splits": {"train": 1_880, "val": 1_880, "test": 1_880},
            "per_class": {"train": 40, "val": 40, "test": 40},
        },
        "where": "robots.ox.ac.uk/~vgg/data/dtd. images/banded/…; labels/train1.txt, val1.txt and test1.txt "
        "say the split. TAC trains on train and val (3,760) and evaluates on test",
    },
    {
        "name": "ucf101",
        "title": "UCF-101, one frame per video",
        "published": {"n_classes": 101, "splits": {"train": 9_537, "val": 3_783}},
        "where": "crcv.ucf.edu/data/UCF101.php. The middle frame of every video, as train/ApplyEyeMakeup/… "
        "and val/ApplyEyeMakeup/… by the first train/test list",
    },
)
WINDOWS = {"tiny": (5, 1060, "1.17M"), "small": (15, 3146, "3.46M"), "base": (25, 5230, "5.67M")}
WINDOWS |= {"large": (35, 7326, "7.79M"), "huge": (45, 9405, "9.88M")}
BY_DEPTH = {
    "1": 3987,
    "2": 5086,
    "3": 6772,
    "4": 8386,
    "5": 9429,
    "6": 9997,
    "7": 10241,
    "8": 10351,
    "11": 10450,
}
"""Class counts of Coarse(d) in the scaling paper's Table 5; which d is whose follows from the counts."""


@dataclass(frozen=True)
class Builder:
    """A way to make a benchmark.

    Attributes
    ----------
    name : str
        What it is called.
    title : str
        What it does, in a line.
    parameters : mapping
        Parameters and their defaults; None where a value must be given.
    needs : tuple of str
        What else must be given: ``tree``, ``accuracies``, ``classes``, ``labels``.
    """

    name: str
    title: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A benchmark by name.

    Attributes
    ----------
    name, title : str
        What it is called; what it is.
    builder : str
        The builder that makes it.
    parameters : mapping
        Its parameters, as published.
    universe : str or None
        The list of classes it is made from, see ``CLASS_LISTS``; None: whatever classes there are.
    classes : str or None
        The list of classes it keeps.
    published : mapping
        ``n_classes`` and, where known, ``n_samples`` (as printed), ``splits`` (samples per
        split) and ``per_class`` (samples per split of every class),
        ``by_depth`` (``n_classes`` by the parameter depth).
    needs : tuple of str
        What must be given to make it.
    where : str
        Where the images come from, and how they must lie on disk.
    """

    name: str
    title: str
    builder: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    universe: str | None = None
    classes: str | None = None
    published: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    where: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "name": self.name,
            "title": self.title,
            "builder": self.builder,
            "parameters": dict(self.parameters),
            "universe": self.universe,
            "classes": self.classes,
            "needs": list(self.needs),
            "published": dict(self.published),
            "where": self.where,
        }


BUILDERS = {
    one.name: one
    for one in (
        Builder("all", "every class and sample as it is"),
        Builder("odd", "half of the training samples of classes of odd index go", {"seed": 0}),
        Builder("window", "classes within so many percentiles of the median frequency", {"spread": 5}),
        Builder(
            "imbalanced", "a window around the median and the most frequent classes", {"spread": 5, "top": 10}
        ),
        Builder(
            "centered", "so many classes centred on the median frequency", {"n_classes": "as imbalanced"}
        ),
        Builder(
            "coarse",
            "classes deeper than a depth become their ancestor there",
            {"depth": None, "choice": "first", "steps": "all"},
            ("tree",),
        ),
        Builder("wordnet-leaf", "classes with nothing below them in WordNet"),
        Builder("class-leaf", "classes with no class below them", {}, ("tree",)),
        Builder("top", "the classes that a model recognises best", {"n_classes": 1000}, ("accuracies",)),
        Builder(
            "union", "classes among the best of one of several models", {"n_classes": 1000}, ("accuracies",)
        ),
        Builder("random", "so many classes drawn at random", {"n_classes": 1000, "seed": 0}),
        Builder("list", "the classes of a list", {}, ("classes",)),
        Builder("relabelled", "labels of kinfold relabel; classes that a split lacks go", {}, ("labels",)),
        Builder(
            "ancestors",
            "every label with all its ancestors: several labels per image",
            {},
            ("tree", "labels"),
        ),
        Builder("cifar20", "CIFAR-100's classes become its 20 superclasses"),
    )
}
WHERE_21K = (
    "ImageNet-21K, winter 2021 version, processed as in ImageNet-21K Pretraining for the Masses: classes of "
    "more than 500 images, the first 50 of each for validation. Folders train/n00005787/… and val/n00005787/…"
)
WHERE_1K = (
    "ImageNet-1K (ILSVRC 2012), from image-net.org on request. Folders train/n01440764/… and val/n01440764/…"
)


def _from_21k(
    name: str,
    title: str,
    builder: str,
    n_classes: int | None = None,
    n_samples: str | None = None,
    by_depth: Mapping[str, int] | None = None,
    **more: Any,
) -> Entry:
    published = {"n_classes": n_classes, "n_samples": n_samples, "by_depth": by_depth}
    known = {key: value for key, value in published.items() if value is not None}
    return Entry(
        f"imagenet21k{name}", title, builder, universe="imagenet21k", published=known, where=WHERE_21K, **more
    )


def _subset(name: str, title: str, splits: Mapping[str, int], n_classes: int) -> Entry:
    per_class = {name: size // n_classes for name, size in splits.items()}
    published = {"n_classes": n_classes, "splits": dict(splits), "per_class": per_class}
    return Entry(
        name, title, "list", universe="imagenet1k", classes=name, published=published, where=WHERE_1K
    )


def _entries() -> list[Entry]:
    windows = [
        _from_21k(
            f"-{name}",
            f"ImageNet-21K {name.title()}: frequencies within {spread} percentiles of the median",
            "window",
            n,
            size,
            parameters={"spread": spread},
        )
        for name, (spread, n, size) in WINDOWS.items()
    ]
    return [
        Entry(
            "imagenet1k",
            "ImageNet-1K",
            "all",
            universe="imagenet1k",
            published={"n_classes": 1000, "splits": {"train": 1_281_167, "val": 50_000}},
            where=WHERE_1K,
        ),
        Entry(
            "imagenet1k-odd",
            "ImageNet-1K ODD: half of the samples of odd classes",
            "odd",
            universe="imagenet1k",
            published={"n_classes": 1000, "n_samples": "0.96M"},
            where=WHERE_1K,
        ),
        _from_21k("", "ImageNet-21K, winter 2021, processed", "all", 10450, "11.06M"),
        *windows,
        _from_21k(
            "-imbalanced",
            "Imbalanced-2K: the tenth around the median and the most frequent tenth",
            "imbalanced",
            2113,
            "2.55M",
        ),
        _from_21k(
            "-centered", "Centered-2K: as many classes centred on the median", "centered", 2113, "2.34M"
        ),
        _from_21k(
            "-coarse",
            "Coarse(d): classes deeper than d become coarser",
            "coarse",
            n_samples="11.06M",
            by_depth=BY_DEPTH,
            parameters={"steps": "one"},
            needs=("depth",),
        ),
        _from_21k("-wordnet-leaf", "WordNet leaf: nothing below in WordNet", "wordnet-leaf", 7353, "7.54M"),
        _from_21k("-class-leaf", "ImageNet21K leaf: no class below", "class-leaf", 8153, "8.37M"),
        _from_21k(
            "-top1k",
            "the 1,000 classes that a model recognises best (CLIP-1K, DINOv2-1K, Sup-1K)",
            "top",
            1000,
            needs=("accuracies",),
        ),
        _from_21k(
            "-union",
            "classes among the 1,000 best of one of several models",
            "union",
            1331,
            "1.49M",
            needs=("accuracies",),
        ),
        _from_21k("-random1k", "1,000 classes drawn at random", "random", 1000, "1.06M"),
        _from_21k(
            "-leaf-hzr",
            "labels refined to leaves by kinfold relabel --rule leaf",
            "relabelled",
            8153,
            "11.06M",
            needs=("labels",),
        ),
        _from_21k(
            "-p-hzr",
            "labels refined by kinfold relabel --rule parent",
            "relabelled",
            10413,
            "11.06M",
            needs=("labels",),
        ),
        _from_21k(
            "-ancestors",
            "every label with all its ancestors",
            "ancestors",
            10450,
            "11.06M",
            needs=("labels",),
        ),
        _subset("imagenet-10", "ImageNet-10", {"train": 13_000, "val": 500}, 10),
        _subset("imagenet-dogs", "ImageNet-Dogs: 15 breeds", {"train": 19_500, "val": 750}, 15),
        _subset("imagenet-50", "ImageNet-50 of SCAN", {"val": 2_500}, 50),
        _subset("imagenet-100", "ImageNet-100 of SCAN", {"val": 5_000}, 100),
        _subset("imagenet-200", "ImageNet-200 of SCAN", {"val": 10_000}, 200),
        *(Entry(**{"builder": "all", **facts}) for facts in DATA_SETS),
    ]


CATALOGUE = {one.name: one for one in _entries()}


def find_entry(name: str) -> Entry:
    """Return the benchmark of a name; the name of a builder stands for that builder on one's own classes.

    Raises
    ------
    InputError
        There is no such benchmark and no such builder.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name in BUILDERS:
        builder = BUILDERS[name]
        return Entry(name, builder.title, name, needs=builder.needs)
    known = [*CATALOGUE, *BUILDERS]
    raise InputError(
        f"there is no benchmark {name!r}{nearest_name(name, known)}; see `kinfold benchmark list`"
    )
