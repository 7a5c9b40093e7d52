"""Data sets that are used as they are: where they come from, how they lie on disk, and how large they are."""

from __future__ import annotations

from typing import Any

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
