"""Claims about the builders, held against definitions that are written out naively."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.benchmark import (
    ClassCounts,
    ClassMap,
    LabelTable,
    centered,
    cifar20,
    class_leaves,
    coarse,
    frequency_window,
    halve_odd,
    imbalanced,
    named_classes,
    odd_counts,
    random_classes,
    top_classes,
    union,
    wordnet_leaves,
)
from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet

HISTOGRAMS = st.lists(st.integers(0, 6), min_size=1, max_size=40).filter(any)
# CIFAR-100's own coarse number of every fine number, as its files have them.
CIFAR_COARSE = [
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
]  # fmt: skip


def histogram(sizes):
    return ClassCounts(tuple(f"c{place:02d}" for place in range(len(sizes))), np.array(sizes, dtype=np.int64))


def kept(found):
    return [place for place, stays in enumerate(found.kept) if stays]


def percentile(sizes, share):
    """Interpolate between the two nearest of the sorted values."""
    ordered = sorted(sizes)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@settings(max_examples=100, deadline=None)
@given(HISTOGRAMS, st.sampled_from([5, 15, 25, 35, 45, 50]))
def test_windows_keep_what_lies_between_two_percentiles_with_all_ties(sizes, spread):
    there = [size for size in sizes if size]
    low, high = percentile(there, 50 - spread), percentile(there, 50 + spread)
    expected = [place for place, size in enumerate(sizes) if size and low - 1e-9 <= size <= high + 1e-9]
    assert kept(frequency_window(histogram(sizes), spread)) == expected


@settings(max_examples=100, deadline=None)
@given(HISTOGRAMS, st.randoms())
def test_windows_do_not_depend_on_the_order_of_classes(sizes, random):
    order = list(range(len(sizes)))
    random.shuffle(order)
    counts, shuffled = histogram(sizes), histogram(sizes).of([f"c{place:02d}" for place in order])
    for make in (frequency_window, imbalanced):
        assert set(make(counts).labels) == set(make(shuffled).labels)


def test_ties_at_both_edges_of_a_window_are_all_in():
    sizes = [1] * 10 + [5] * 30 + [7] * 20 + [9] * 30 + [50] * 10
    assert kept(frequency_window(histogram(sizes), 5)) == list(range(40, 60))
    assert kept(frequency_window(histogram(sizes), 15)) == list(range(10, 90))
    assert kept(frequency_window(histogram(sizes), 50)) == list(range(100))


def test_without_ties_a_window_holds_its_share_of_classes():
    sizes = np.random.default_rng(0).permutation(10_450) + 1
    found = [frequency_window(histogram_of_many(sizes), spread).n_labels for spread in (5, 15, 25, 35, 45)]
    assert all(abs(n - 10_450 * 2 * s / 100) <= 1 for n, s in zip(found, (5, 15, 25, 35, 45), strict=True))


def histogram_of_many(sizes):
    return ClassCounts(
        tuple(f"c{place:05d}" for place in range(len(sizes))), np.asarray(sizes, dtype=np.int64)
    )


@settings(max_examples=100, deadline=None)
@given(HISTOGRAMS)
def test_the_imbalanced_set_is_the_window_and_the_most_frequent_tenth(sizes):
    counts = histogram(sizes)
    there = [size for size in sizes if size]
    top = {place for place, size in enumerate(sizes) if size and size >= percentile(there, 90) - 1e-9}
    assert set(kept(imbalanced(counts))) == set(kept(frequency_window(counts, 5))) | top


@settings(max_examples=80, deadline=None)
@given(HISTOGRAMS, st.data())
def test_the_centred_set_is_the_middle_of_the_sorted_classes(sizes, data):
    there = [place for place, size in enumerate(sizes) if size]
    n = data.draw(st.integers(1, len(there)))
    ordered = sorted(there, key=lambda place: (sizes[place], place))
    before = (len(ordered) - n) // 2
    found = centered(histogram(sizes), n)
    assert kept(found) == sorted(ordered[before : before + n])
    assert centered(histogram(sizes)).n_labels == imbalanced(histogram(sizes)).n_labels


def test_empty_classes_are_not_there():
    sizes = [0] * 50 + [3, 4, 5]
    assert kept(frequency_window(histogram(sizes), 5)) == [51]
    assert kept(centered(histogram(sizes), 3)) == [50, 51, 52]
    with pytest.raises(InputError, match="no class of 2 has a sample"):
        frequency_window(histogram([0, 0]))


def test_one_class_is_every_set():
    counts = histogram([4])
    for make in (frequency_window, imbalanced, centered):
        assert make(counts).labels == ("c00",)
    assert random_classes(["a"], 1).labels == ("a",)


TREE = ClassTree(
    {"animal": None, "dog": "animal", "poodle": "dog", "toy poodle": "poodle", "tool": None, "hammer": "tool"}
)


def test_coarse_classes_are_the_ancestors_at_a_depth():
    names = ["toy poodle", "hammer", "dog"]
    assert coarse(names, TREE, 0).labels == ("animal", "tool", "animal")
    assert coarse(names, TREE, 1).labels == ("dog", "hammer", "dog")
    assert coarse(names, TREE, 2).labels == ("poodle", "hammer", "dog")
    assert coarse(names, TREE, 9).labels == tuple(names)
    assert all(coarse(names, TREE, depth).kept.all() for depth in range(5))
    for wrong in (-1, 1.5, True, "deep"):
        for steps in ("all", "one"):
            with pytest.raises(InputError, match="depth must be an integer of at least 0"):
                coarse(names, TREE, wrong, steps=steps)
    with pytest.raises(InputError, match="steps must be"):
        coarse(names, TREE, 1, steps="two")


def test_one_step_goes_to_the_direct_hypernym_a_class_or_not():
    wordnet = load_wordnet()
    animal, poodle, elephant = (wordnet.synsets(word)[0] for word in ("animal", "poodle", "elephant"))
    tree = ClassTree.from_wordnet([animal, poodle, elephant])
    found = coarse(tree.ids, tree, 0, steps="one").labels
    assert found == (animal, wordnet.parents(poodle)[0], wordnet.parents(elephant)[-1])
    assert len(wordnet.parents(elephant)) == 2
    assert coarse(tree.ids, tree, 1, steps="one").labels == tree.ids
    with pytest.raises(InputError):
        coarse(["toy poodle"], TREE, 0, steps="one")


def test_leaves_are_those_with_no_class_below_at_any_distance():
    assert class_leaves(["animal", "toy poodle", "tool"], TREE).labels == (None, "toy poodle", "tool")
    assert class_leaves(["dog", "poodle"], TREE).labels == (None, "poodle")
    wordnet = load_wordnet()
    names = [wordnet.synsets(word)[0] for word in ("dog", "toy poodle", "Einstein")]
    expected = [name for name in names if not wordnet.hyponyms(name)]
    assert [name for name in wordnet_leaves(names).labels if name] == expected


def test_the_best_classes_are_those_of_highest_accuracy_and_ties_go_by_order():
    accuracies = {"c": 0.5, "a": 0.5, "b": 0.9, "d": 0.5}
    assert top_classes(list("abcd"), accuracies, 3).labels == ("a", "b", "c", None)
    assert top_classes(list("abcde"), accuracies, 4).labels == ("a", "b", "c", "d", None)
    with pytest.raises(InputError, match="4 with an accuracy"):
        top_classes(list("abcde"), accuracies, 5)
    with pytest.raises(InputError, match="'d' has an accuracy but is no class"):
        top_classes(list("abc"), accuracies, 1)


def test_a_union_keeps_what_any_keeps():
    parts = [named_classes(list("abcd"), wanted) for wanted in ("a", "bd")]
    assert union(parts).labels == ("a", "b", None, "d")
    with pytest.raises(InputError, match="same classes"):
        union([parts[0], ClassMap(("a",), ("a",))])
    with pytest.raises(InputError, match="one map or more"):
        union([])


def test_random_classes_follow_from_the_seed_alone():
    names = [f"c{place}" for place in range(50)]
    first, again, other = (random_classes(names, 10, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert first.n_labels == other.n_labels == 10
    for wrong in (51, 0, 2.0):
        with pytest.raises(InputError):
            random_classes(names, wrong)


def test_listed_classes_that_are_not_there_are_an_error_only_if_none_is():
    assert named_classes(["a", "b"], ["b", "z"]).labels == (None, "b")
    with pytest.raises(InputError, match="none of the 1 listed classes"):
        named_classes(["a", "b"], ["z"])


def test_superclasses_of_cifar_are_those_of_its_files():
    numbers = [str(number) for number in range(100)]
    assert cifar20(numbers).labels == tuple(str(number) for number in CIFAR_COARSE)
    assert cifar20(["apple", "maple tree", "worm"]).labels == (
        "fruit_and_vegetables",
        "trees",
        "non-insect_invertebrates",
    )
    for wrong in (["100"], ["apple", "cat"]):
        with pytest.raises(InputError, match="no class of CIFAR-100"):
            cifar20(wrong)


def rows_of(sizes, split="train"):
    pairs = [(f"{split}/{label}/{row}", label) for label, size in sizes.items() for row in range(size)]
    return [key for key, _ in pairs], [label for _, label in pairs], [split] * len(pairs)


def test_odd_classes_lose_half_of_their_training_samples_and_nothing_else():
    sizes = {"a": 4, "b": 5, "c": 6, "d": 1, "e": 0, "f": 8}
    train, val = rows_of(sizes), rows_of(dict.fromkeys("abcdf", 2), "val")
    table = LabelTable.from_columns(*(a + b for a, b in zip(train, val, strict=True)))
    stays = halve_odd(table, seed=1)
    left = table.take(stays)
    names = [table.classes[label] for label in left.labels]
    is_val = left.split_codes == left.splits.index("val")
    assert is_val.sum() == 10
    found = {name: sum(n == name and not v for n, v in zip(names, is_val, strict=True)) for name in "abcdf"}
    assert found == {"a": 4, "b": 3, "c": 6, "d": 1, "f": 8}  # e isn't there, so that f has an even index
    assert odd_counts(table.counts()).tolist() == list(found.values())


def test_which_samples_go_does_not_depend_on_the_order_of_rows():
    keys, labels, splits = rows_of({"a": 20, "b": 31})
    order = np.random.default_rng(0).permutation(len(keys))
    tables = [
        LabelTable.from_columns(*([column[i] for i in way] for column in (keys, labels, splits)))
        for way in (range(len(keys)), order)
    ]
    chosen = [table.take(halve_odd(table, seed=5)).keys.to_pylist() for table in tables]
    assert chosen[0] == chosen[1]
    assert chosen[0] != tables[0].take(halve_odd(tables[0], seed=6)).keys.to_pylist()


@pytest.mark.parametrize("spread", [0, 51, -5, "wide", True, None])
def test_windows_refuse_spreads_that_are_none(spread):
    with pytest.raises(InputError, match="spread must be"):
        frequency_window(histogram([1, 2]), spread)


def test_histograms_refuse_what_is_none():
    for classes, sizes in (((), []), (("a", "a"), [1, 2]), (("a",), [-1]), (("a", "b"), [1])):
        with pytest.raises(InputError):
            ClassCounts(classes, np.array(sizes, dtype=np.int64))
