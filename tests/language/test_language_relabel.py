"""Claims about refining labels, held against walks that are written out naively in float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import (
    _choice,
    calibration,
    choose_lemmas_by_labels,
    relabel,
    shared_classes,
    walk_accuracy,
)

RULES = ("leaf", "parent")
SCALE = 20.0


def unit(matrix):
    wide = np.asarray(matrix, np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@st.composite
def problems(draw):
    """Graphs of up to 12 classes with several parents, images, texts and labels, some without."""
    n = draw(st.integers(1, 12))
    parents = {}
    for number in range(n):
        above = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        parents[f"c{number}"] = [f"c{parent}" for parent in sorted(above)]
    parents = {name: parents[name] for name in draw(st.permutations(list(parents)))}
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_rows = draw(st.integers(1, 40))
    texts = rng.normal(size=(n, 6))
    if draw(st.booleans()):  # homonyms
        texts[rng.integers(n)] = texts[rng.integers(n)]
    images = rng.normal(size=(n_rows, 6)) * rng.uniform(0.01, 100, (n_rows, 1))
    return (
        ClassTree(parents),
        images.astype(np.float32),
        texts.astype(np.float32),
        rng.integers(-1, n, n_rows),
    )


def softmax_of_first(scores):
    """Return the place of the largest score, the first of equals, and its probability.

    Scores that differ by less than float32 can tell apart are no case to compare.
    """
    scores = np.round(scores, 12)
    best = int(np.argmax(scores))
    if currently_in_test_context():
        assume(not np.any((scores < scores[best]) & (scores > scores[best] - 1e-6)))
    weights = np.exp(SCALE * (scores - scores[best]))
    return best, weights[best] / weights.sum()


def walk(tree, image, texts, label, rule):
    """Go down one image's way by definition."""
    node, confidence, steps = label, np.nan, 0
    while node >= 0 and len(below := tree.children(tree.ids[node])):
        candidates = (
            sorted(map(tree.index, below)) if rule == "leaf" else sorted([*map(tree.index, below), node])
        )
        best, confidence = softmax_of_first(texts[candidates] @ image)
        if candidates[best] == node:
            break
        node, steps = candidates[best], steps + 1
    return node, confidence, steps


@settings(max_examples=80, deadline=None)
@given(problems(), st.sampled_from(RULES))
def test_every_row_goes_the_way_that_a_naive_walk_goes(problem, rule):
    tree, images, texts, labels = problem
    found = relabel(images, labels, tree, texts, rule=rule, logit_scale=SCALE)
    ways = [
        walk(tree, image, unit(texts), label, rule) for image, label in zip(unit(images), labels, strict=True)
    ]
    ends, confidences, steps = map(np.array, zip(*ways, strict=True))
    assert found.labels.tolist() == ends.tolist()
    assert found.steps.tolist() == steps.tolist()
    np.testing.assert_allclose(found.confidences, confidences, rtol=1e-4)
    assert found.labels.dtype == np.int32
    assert found.confidences.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(RULES))
def test_the_report_counts_what_changed(problem, rule):
    tree, images, texts, labels = problem
    found = relabel(images, labels, tree, texts, rule=rule)
    report, known = found.report, labels >= 0
    old, new = set(labels[known]), set(found.labels[known])
    inner = {number for number, node in enumerate(tree.ids) if tree.children(node)}
    assert report.n_rows == len(labels)
    assert report.n_labeled == known.sum() == sum(report.steps)
    assert report.n_inner == sum(label in inner for label in labels)
    assert report.n_moved == (labels != found.labels).sum() == report.counts.sum()
    assert (report.n_classes_before, report.n_classes_after) == (len(old), len(new))
    assert set(report.vanished) == old - new
    assert set(report.appeared) == new - old
    assert report.n_rows_of_vanished == sum(label in old - new for label in labels)
    assert report.steps == tuple(np.bincount(found.steps[known], minlength=1))
    moves = list(zip(report.before.tolist(), report.after.tolist(), strict=True))
    assert dict(zip(moves, report.counts.tolist(), strict=True)) == {
        move: sum((a, b) == move for a, b in zip(labels, found.labels, strict=True)) for move in moves
    }
    assert [-count for count in report.counts] == sorted(-report.counts)
    assert len(report.as_dict(tree.ids)["vanished"]) == len(report.vanished)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_choices_towards_known_labels_are_counted_at_every_class_above(problem):
    tree, images, texts, labels = problem
    right, chance = {}, {}
    for image, label in zip(unit(images), labels, strict=True):
        path = tree.path_to_root(tree.ids[label])[::-1] if label >= 0 else ()
        towards = {path[-1], *tree.ancestors(path[-1])} if path else set()
        for depth, node in enumerate(path[:-1]):
            below = tree.children(node)
            best, _ = softmax_of_first(unit(texts)[[tree.index(child) for child in below]] @ image)
            right.setdefault(depth, []).append(below[best] in towards)
            chance.setdefault(depth, []).append(len(towards & set(below)) / len(below))
    found = walk_accuracy(images, labels, tree, texts)
    assert len(found.counts) == tree.tree_depths().max()
    for depth, count in enumerate(found.counts):
        assert count == len(right.get(depth, []))
        if count:
            assert found.accuracies[depth] == pytest.approx(np.mean(right[depth]))
            assert found.chances[depth] == pytest.approx(np.mean(chance[depth]))
        else:
            assert np.isnan(found.accuracies[depth])


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["all", "depth", "siblings"]))
def test_calibration_restricts_the_candidates(problem, candidates):
    tree, images, texts, labels = problem
    labels = labels.clip(0)
    sure, right = [], []
    for image, label in zip(unit(images), labels, strict=True):
        node = tree.ids[label]
        others = tree.siblings(node, roots=False) or tree.same_depth(node)
        near = {"all": tree.ids, "depth": (*tree.same_depth(node), node), "siblings": (*others, node)}
        numbers = sorted(tree.numbers(near[candidates]))
        best, probability = softmax_of_first(unit(texts)[numbers] @ image)
        sure.append(probability)
        right.append(numbers[best] == label)
    found = calibration(images, labels, tree, texts, candidates, n_bins=7, logit_scale=SCALE)
    assert found.n_rows == len(labels) == found.curve.counts.sum()
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.mean_confidence == pytest.approx(np.mean(sure), rel=1e-4)
    bins = np.clip(np.ceil(np.array(sure) * 7).astype(int) - 1, 0, 6)
    gaps = [abs(np.sum((np.array(right) - sure)[bins == m])) for m in range(7)]
    assert found.error == pytest.approx(sum(gaps) / len(sure), abs=1e-4)


def test_rows_without_label_and_leaves_stay_and_need_no_features():
    tree = ClassTree({"a": None, "b": "a", "c": "a"})
    X = np.array([[0, 0], [np.nan, 1], [1, 0], [0, 3]], np.float32)
    found = relabel(X, np.array([-1, 2, 0, 0]), tree, [[1, 1], [1, 0], [0, 1]])
    assert found.labels.tolist() == [-1, 2, 1, 2]
    assert np.isnan(found.confidences[:2]).all()
    assert found.steps.tolist() == [0, 0, 1, 1]
    with pytest.raises(InputError, match="row 1 has no direction"):
        relabel(X, np.array([-1, 0, 0, 0]), tree, [[1, 1], [1, 0], [0, 1]])
    with pytest.raises(InputError, match="row 0 has no direction"):
        walk_accuracy(X, np.array([1, 1, 1, 1]), tree, [[1, 1], [1, 0], [0, 1]])


def test_of_equal_texts_the_first_in_the_tree_is_taken():
    rng = np.random.default_rng(0)
    names = [f"c{number}" for number in range(37)]
    text = rng.normal(size=64)
    tree = ClassTree({"z": "top", **dict.fromkeys(names, "top"), "top": None})
    images = rng.normal(size=(500, 64)) + text
    assert (relabel(images, np.full(500, 38), tree, np.tile(text, (39, 1))).labels == 0).all()
    assert (relabel(images, np.full(500, 38), tree, np.tile(text, (39, 1)), rule="parent").labels == 0).all()
    first = ClassTree({"top": None, **dict.fromkeys(names, "top")})
    assert (
        relabel(images, np.zeros(500, int), first, np.tile(text, (38, 1)), rule="parent").labels == 0
    ).all()


def test_memory_maps_halves_and_blocks_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    tree = ClassTree({f"c{i}": f"c{(i - 1) // 3}" if i else None for i in range(200)})
    images, texts = rng.normal(size=(3_000, 16)).astype(np.float16), rng.normal(size=(200, 16))
    labels = rng.integers(-1, 70, 3_000)
    whole = relabel(images, labels, tree, texts)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr(_choice, "_BLOCK_BYTES", 5_000)
    monkeypatch.setattr(_choice, "_PIECE_BYTES", 1_000)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.int32, (3_000,))
    parts = relabel(mapped, labels, tree, texts, out=out)
    assert parts.labels is out
    assert np.array_equal(whole.labels, out)
    np.testing.assert_allclose(whole.confidences, parts.confidences, rtol=1e-4)
    own = labels.astype(np.int32)
    assert relabel(images, own, tree, texts, out=own).report.n_moved == whole.report.n_moved > 0


def test_a_chain_of_five_thousand_classes_is_walked_to_its_end():
    names = [f"c{number}" for number in range(5_000)]
    tree = ClassTree(dict(zip(names, [None, *names], strict=False)))
    found = relabel([[1.0, 0.0]], np.array([0]), tree, np.ones((5_000, 2)))
    assert (found.labels[0], found.steps[0], found.confidences[0]) == (4_999, 4_999, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "parents"}, "rule must be one of 'leaf', 'parent'; got 'parents'; did you mean 'parent'"),
        ({"labels": np.array([0, 3])}, "labels must lie in -1 … 2, got 0 … 3"),
        ({"labels": np.array([0.0, 1.0])}, "labels must be 2 integers"),
        ({"class_features": np.ones((4, 2))}, "there are 3 classes, but features of 4"),
        ({"class_features": np.ones((3, 5))}, "the features have 2 dimensions, the texts 5"),
        ({"class_features": np.zeros((3, 2))}, "class 0 has no direction"),
        ({"logit_scale": 0}, "logit_scale must be a number above 0"),
        ({"out": np.zeros(2)}, "out must be int32"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    tree = ClassTree({"a": None, "b": "a", "c": "a"})
    asked = {
        "X": np.ones((2, 2)),
        "labels": np.array([0, 1]),
        "tree": tree,
        "class_features": np.eye(3, 2) + 1,
    }
    with pytest.raises(InputError) as error:
        relabel(**{**asked, **change})
    assert message in str(error.value)


def test_calibration_needs_a_label_and_known_candidates():
    tree = ClassTree({"a": None, "b": "a"})
    with pytest.raises(InputError, match="did you mean 'siblings'"):
        calibration(np.ones((1, 2)), np.array([0]), tree, np.ones((2, 2)), "sibling")
    with pytest.raises(InputError, match="no row has a label"):
        calibration(np.ones((1, 2)), np.array([-1]), tree, np.ones((2, 2)))


def test_sets_keep_the_classes_that_all_of_them_have():
    with pytest.raises(InputError, match="none is given"):
        shared_classes()
    classes, masks = shared_classes(np.array([-1, 4]), np.array([2, 4, 4]))
    assert classes.tolist() == [4]
    assert [mask.tolist() for mask in masks] == [[False, True], [False, True, True]]


@pytest.fixture(scope="module")
def imagenet_21k() -> ClassTree:
    """The tree of the 10,450 classes, from timm's files; timm itself isn't imported."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("the 10,450 class ids of ImageNet-21K are in timm, which isn't installed")
    folder = Path(found.submodule_search_locations[0]) / "data" / "_info"
    return ClassTree.from_wordnet((folder / "imagenet21k_miil_w21_synsets.txt").read_text("utf-8").split())


def made_space(tree, n_rows, dim=64, seed=0):
    """Texts near those of the classes above them, images near the text of their label or of one below."""
    rng = np.random.default_rng(seed)
    texts = rng.normal(size=(len(tree), dim))
    for node in tree.topological_order:
        if len(above := tree.parent_links[node]):
            texts[node] = 0.7 * texts[above].mean(axis=0) + 0.7 * texts[node]
    labels = rng.integers(0, len(tree), n_rows)
    below = tree.descendant_links
    truth = np.array([rng.choice(np.r_[label, below[label]]) for label in labels])
    images = texts[truth] + rng.normal(size=(n_rows, dim))
    return images.astype(np.float32), texts.astype(np.float32), labels, truth


def is_below(tree, nodes, above):
    return tree.is_ancestor([tree.ids[n] for n in above], [tree.ids[n] for n in nodes]) | (nodes == above)


def test_on_imagenet_21k_leaf_rule_ends_in_leaves_and_parent_rule_stays_below_labels(imagenet_21k):
    tree = imagenet_21k
    images, texts, labels, _ = made_space(tree, 20_000)
    leaf = relabel(images, labels, tree, texts, rule="leaf")
    assert tree.is_leaf()[leaf.labels].all()
    assert is_below(tree, leaf.labels, labels).all()
    assert leaf.report.share_of_inner_moved == 1
    parent = relabel(images, labels, tree, texts, rule="parent")
    assert is_below(tree, parent.labels, labels).all()
    assert 0 < parent.report.n_moved < parent.report.n_inner == leaf.report.n_moved
    stayed = (parent.labels == labels) & ~tree.is_leaf()[labels]
    assert (parent.steps[stayed] == 0).all()
    assert np.isfinite(parent.confidences[stayed]).all()
    chosen = np.random.default_rng(0).choice(len(labels), 500, replace=False)
    for rule, found in (("leaf", leaf), ("parent", parent)):
        for row in chosen:
            image, wide = unit(images[[row]])[0], unit(texts)
            assert walk(tree, image, wide, labels[row], rule)[0] == found.labels[row]


def test_on_imagenet_21k_choices_are_better_than_chance_and_fewer_candidates_better(imagenet_21k):
    tree = imagenet_21k
    images, texts, _, truth = made_space(tree, 4_000)
    levels = walk_accuracy(images, truth, tree, texts)
    assert (levels.accuracies > levels.chances).all()
    figures = [
        calibration(images, truth, tree, texts, name).accuracy for name in ("all", "depth", "siblings")
    ]
    assert figures == sorted(figures)
    assert 0 < figures[0] < figures[-1]


class Words:
    """A text tower of made vectors: each text its own, the same in every call."""

    name, dim, device, logit_scale = "words", 32, torch.device("cpu"), 30.0

    def encode(self, texts, *, progress=None):
        seeds = [sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 2**32 for text in texts]
        return np.stack([np.random.default_rng(seed).normal(size=32) for seed in seeds]).astype(np.float32)


def test_on_imagenet_21k_lemmas_by_vote_are_stable_under_permutation(imagenet_21k):
    tree, wordnet, rng = imagenet_21k, load_wordnet(), np.random.default_rng(0)
    lemmas = [wordnet.lemmas(node) for node in tree.ids]
    labels = rng.integers(-1, len(tree), 40_000)
    images = rng.normal(size=(40_000, 32)).astype(np.float32)
    order = rng.permutation(len(labels))
    first = choose_lemmas_by_labels(Words(), lemmas, images, labels, prompts=("{}",))
    second = choose_lemmas_by_labels(Words(), lemmas, images[order], labels[order], prompts=("{}",))
    assert first.lemmas == second.lemmas
    assert [vote.tolist() for vote in first.votes] == [vote.tolist() for vote in second.votes]
    assert sum(vote.sum() for vote in first.votes) == (labels >= 0).sum()
    assert any(chosen != names[0] for chosen, names in zip(first.lemmas, lemmas, strict=True))
