"""Builders: map each class to its label in a benchmark, as pure functions of classes, counts and trees."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError, nearest_name
from kinfold.hierarchy import ClassTree, WordNet, load_wordnet
from kinfold.labels import ClassCounts, LabelTable
from kinfold.validation import SEED, Number, check, check_integer

SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
FINE = tuple(sorted(name for names in SUPERCLASSES.values() for name in names))
COARSE = tuple(SUPERCLASSES)
_COARSE_OF = {name: coarse for coarse, names in SUPERCLASSES.items() for name in names}
STEPS = ("all", "one")


def to_cifar20(classes: Sequence[str]) -> list[str]:
    """Return the superclass of each class of CIFAR-100.

    Names become names of superclasses; numbers 0 to 99, CIFAR-100's alphabetical ones, become 0 to 19.

    Raises
    ------
    InputError
        A class is none of CIFAR-100.
    """
    if classes and all(name.isdecimal() for name in classes):
        if wrong := [name for name in classes if int(name) >= len(FINE)]:
            raise InputError(f"{wrong[0]} is no class of CIFAR-100; its numbers go from 0 to 99")
        return [str(COARSE.index(_COARSE_OF[FINE[int(name)]])) for name in classes]
    plain = [name.strip().replace(" ", "_") for name in classes]
    if wrong := [name for name in plain if name not in _COARSE_OF]:
        raise InputError(f"{wrong[0]!r} is no class of CIFAR-100; it has names like {FINE[0]!r}, or 0 to 99")
    return [_COARSE_OF[name] for name in plain]


@dataclass(frozen=True)
class ClassMap:
    """What becomes of every class.

    Attributes
    ----------
    classes : tuple of str
        The classes as they are.
    labels : tuple of (str or None)
        The label that each gets in the benchmark; None: its samples are left out.
    """

    classes: tuple[str, ...]
    labels: tuple[str | None, ...]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which classes stay, under whatever label."""
        return np.array([label is not None for label in self.labels], dtype=bool)

    @property
    def n_labels(self) -> int:
        """Number of different labels that are left."""
        return len(set(self.labels) - {None})

    @classmethod
    def keep(cls, classes: Sequence[str], kept: NDArray[np.bool_]) -> ClassMap:
        """Let some classes stay as they are."""
        pairs = zip(classes, kept.tolist(), strict=True)
        return cls(tuple(classes), tuple(name if stays else None for name, stays in pairs))


def frequency_window(counts: ClassCounts, spread: float = 5) -> ClassMap:
    """Keep the classes whose frequency lies within ``spread`` percentiles of the median.

    Parameters
    ----------
    counts : ClassCounts
        Classes without samples aren't there: they are neither kept nor counted for percentiles.
    spread : float, default 5
        s of the window [50 − s, 50 + s], above 0 and up to 50.

    Notes
    -----
    The ends are percentiles of the frequencies by linear interpolation, and both belong to the window:
    classes as frequent as an end are kept all, so that ties never depend on the order of classes. This is how
    10 % of 10,450 classes can be 1,060 (scaling paper, Section 4.1).
    """
    _check_spread(spread)
    low, high = np.percentile(_present(counts), [50 - spread, 50 + spread])
    return ClassMap.keep(counts.classes, _between(counts, low, high))


def imbalanced(counts: ClassCounts, spread: float = 5, top: float = 10) -> ClassMap:
    """Keep a window around the median and the most frequent classes (Imbalanced-2K; Section 4.1).

    Parameters
    ----------
    counts : ClassCounts
        See :func:`frequency_window`.
    spread : float, default 5
        The window's.
    top : float, default 10
        Share of classes that are among the most frequent, in percent, above 0 and up to 100; ties at the end
        are kept all.
    """
    _check_spread(spread)
    if isinstance(top, bool) or not isinstance(top, (int, float)) or not 0 < top <= 100:
        raise InputError(f"top must be above 0 and up to 100, not {top!r}")
    low, high, above = np.percentile(_present(counts), [50 - spread, 50 + spread, 100 - top])
    return ClassMap.keep(counts.classes, _between(counts, low, high) | _between(counts, above, np.inf))


def centered(counts: ClassCounts, n_classes: int | None = None) -> ClassMap:
    """Keep so many classes centred on the median (Centered-2K; scaling paper, Section 4.1).

    Parameters
    ----------
    counts : ClassCounts
        See :func:`frequency_window`.
    n_classes : int or None, default None
        How many; by default as many as :func:`imbalanced` keeps.

    Notes
    -----
    Classes are sorted by frequency, equal ones by their order; of those around the middle exactly
    ``n_classes`` are taken, the rarer ones where the middle allows two choices.
    """
    if n_classes is None:
        n_classes = imbalanced(counts).n_labels
    there = np.flatnonzero(counts.counts)
    _check_size(n_classes, len(there))
    order = there[np.argsort(counts.counts[there], kind="stable")]
    start = (len(order) - n_classes) // 2
    return _keep_numbers(counts.classes, order[start : start + n_classes])


def coarse(
    classes: Sequence[str], tree: ClassTree, depth: int, *, choice: str = "first", steps: str = "all"
) -> ClassMap:
    """Replace every class deeper in the tree than ``depth`` by a coarser one; no sample is left out.

    This is Coarse(d) of the scaling paper, Section 4.2.

    Parameters
    ----------
    classes : sequence of str
        All of them nodes of the tree.
    tree : ClassTree
        Who stands below whom.
    depth : int
        d, 0 or more; roots have depth 0.
    choice : {"first", "shortest", "longest"}, default "first"
        Which parent is taken where there are several, see :meth:`ClassTree.coarsen`.
    steps : {"all", "one"}, default "all"
        "all": up to the ancestor at that depth, as the paper's text says. "one": up to the direct hypernym in
        WordNet, a class or not and however deep, which is how the paper's counts come out. Of several
        hypernyms it is the parent in the tree, else the last named one on the way to that parent.

    Raises
    ------
    InputError
        A value is none of these, a class isn't in the tree, or, for "one", a deeper one not in WordNet.
    """
    if steps not in STEPS:
        raise InputError(f"steps must be one of {', '.join(STEPS)}, not {steps!r}")
    numbers = tree.numbers(classes)
    if steps == "all":
        stands = tree.coarsen(depth, choice=choice)[numbers]  # type: ignore[arg-type]
        return ClassMap(tuple(classes), tuple(tree.ids[number] for number in stands))
    tree.coarsen(depth)  # refuses what is no depth
    main, depths = tree.main_parents(choice), tree.tree_depths(choice)  # type: ignore[arg-type]
    wordnet = load_wordnet()
    return ClassMap(
        tuple(classes),
        tuple(
            _hypernym(wordnet, name, tree.ids[main[number]]) if depths[number] > depth else name
            for name, number in zip(classes, numbers.tolist(), strict=True)
        ),
    )


def _hypernym(wordnet: WordNet, node: str, towards: str) -> str:
    """Return the hypernym of a synset that is ``towards``, or else the last one below it."""
    above = wordnet.parents(node)
    if not above:
        return node
    if towards in above or len(above) == 1:
        return towards if towards in above else above[0]
    return next((one for one in reversed(above) if towards in wordnet.ancestors(one)), above[-1])


def class_leaves(classes: Sequence[str], tree: ClassTree) -> ClassMap:
    """Keep the classes with no other class below them, however far (ImageNet21K leaf, Section 4.2)."""
    numbers = tree.numbers(classes)
    is_class = np.zeros(len(tree), dtype=bool)
    is_class[numbers] = True
    owners, below = tree.descendant_links.take(numbers)
    inner = np.zeros(len(numbers), dtype=bool)
    inner[owners[is_class[below]]] = True
    return ClassMap.keep(classes, ~inner)


def wordnet_leaves(classes: Sequence[str], *, instances: bool = False) -> ClassMap:
    """Keep the classes with nothing below them in WordNet 3.0 (WordNet leaf, Section 4.2)."""
    return ClassMap.keep(classes, load_wordnet().is_leaf(classes, instances=instances))


def top_classes(classes: Sequence[str], accuracies: Mapping[str, float], n_classes: int = 1000) -> ClassMap:
    """Keep the classes that a model recognises best (CLIP-1K, DINOv2-1K, Sup-1K; Section 4.3).

    Parameters
    ----------
    classes : sequence of str
        The classes.
    accuracies : mapping of str to float
        Accuracy per class, that of a linear probe on the validation set in the paper. Of equal ones the first
        classes are taken; classes without an accuracy can't be.
    n_classes : int, default 1000
        How many.
    """
    known = set(classes)
    if wrong := [name for name in accuracies if name not in known]:
        raise InputError(
            f"{wrong[0]!r} has an accuracy but is no class{nearest_name(wrong[0], list(classes))}"
        )
    values = np.array([accuracies.get(name, -np.inf) for name in classes])
    _check_size(n_classes, int(np.isfinite(values).sum()), "with an accuracy")
    return _keep_numbers(classes, np.argsort(-values, kind="stable")[:n_classes])


def union(maps: Iterable[ClassMap]) -> ClassMap:
    """Keep the classes that one of several maps of the same classes keeps (Union, Section 4.3)."""
    several = list(maps)
    if not several or any(one.classes != several[0].classes for one in several):
        raise InputError("a union needs one map or more, all of the same classes")
    return ClassMap.keep(several[0].classes, np.any([one.kept for one in several], axis=0))


def random_classes(classes: Sequence[str], n_classes: int = 1000, *, seed: int = 0) -> ClassMap:
    """Keep so many classes drawn at random without replacement (Random 1K, Section 4.3)."""
    check({"seed": SEED}, seed=seed)
    _check_size(n_classes, len(classes))
    return _keep_numbers(classes, np.random.default_rng(seed).permutation(len(classes))[:n_classes])


def named_classes(classes: Sequence[str], wanted: Collection[str]) -> ClassMap:
    """Keep the classes of a list; it is an error if none of them is there."""
    chosen = set(wanted)
    kept = np.array([name in chosen for name in classes], dtype=bool)
    if not kept.any():
        raise InputError(
            f"none of the {len(chosen):,} listed classes (like {next(iter(wanted), None)!r}) is among the "
            f"{len(classes):,} classes (like {classes[0]!r})"
        )
    return ClassMap.keep(classes, kept)


def cifar20(classes: Sequence[str]) -> ClassMap:
    """Replace the classes of CIFAR-100 by its 20 superclasses; names by names, numbers by numbers."""
    return ClassMap(tuple(classes), tuple(to_cifar20(classes)))


def halve_odd(table: LabelTable, *, seed: int = 0) -> NDArray[np.bool_]:
    """Choose the rows that stay when half of the samples of every class of odd index go (ODD, Section 3).

    Parameters
    ----------
    table : LabelTable
        The index of a class is its place among ``table.classes``. Only training rows go; with n of them ⌊n /
        2⌋ do.
    seed : int, default 0
        Which ones go follows from seed, class index and keys alone.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    check({"seed": SEED}, seed=seed)
    kept = np.ones(len(table), dtype=bool)
    rows = np.flatnonzero(table.is_training & (table.labels % 2 == 1))
    rows = rows[np.argsort(table.labels[rows], kind="stable")]
    classes, starts = np.unique(table.labels[rows], return_index=True)
    for label, own in zip(classes.tolist(), np.split(rows, starts[1:]), strict=bool(len(classes))):
        order = np.random.default_rng([seed, label]).permutation(len(own))
        kept[own[order[: len(own) // 2]]] = False
    return kept


def odd_counts(counts: ClassCounts) -> NDArray[np.int64]:
    """Return how many training samples of every class :func:`halve_odd` leaves, from counts alone."""
    odd = np.arange(len(counts.classes)) % 2 == 1
    stay: NDArray[np.int64] = counts.counts - np.where(odd, counts.counts // 2, 0)
    return stay


def _present(counts: ClassCounts) -> NDArray[np.int64]:
    present = counts.counts[counts.counts > 0]
    if not len(present):
        raise InputError(f"no class of {len(counts.classes):,} has a sample")
    return present


def _between(counts: ClassCounts, low: float, high: float) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (counts.counts > 0) & (counts.counts >= low) & (counts.counts <= high)
    return found


def _keep_numbers(classes: Sequence[str], numbers: NDArray[np.int64]) -> ClassMap:
    kept = np.zeros(len(classes), dtype=bool)
    kept[numbers] = True
    return ClassMap.keep(classes, kept)


def _check_spread(spread: float) -> None:
    check({"spread": Number(above=0, most=50)}, spread=spread)  # percentiles on either side of the median


def _check_size(n_classes: int, n_there: int, which: str = "") -> None:
    check_integer(n_classes=n_classes)
    if n_classes > n_there:
        raise InputError(
            f"{n_classes:,} classes can't be chosen: there are {n_there:,}{which and ' '}{which}"
        )
