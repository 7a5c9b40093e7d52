"""Claims about WordNet's nouns: what is shipped is what the database says, and every walk is right."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.hierarchy import WordNet, load_wordnet
from kinfold.hierarchy._wordnet import PATH, read_nouns
from scripts import make_wordnet

DATABASE = Path("/usr/share/wordnet")
needs_database = pytest.mark.skipif(
    not (DATABASE / "data.noun").exists(), reason="needs WordNet's files: apt-get install wordnet-base"
)
DOG, CAT, ENTITY, TURKEY = "n02084071", "n02121620", "n00001740", "n09039411"


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    return load_wordnet()


@pytest.fixture(scope="module")
def database() -> dict[str, dict[str, list[str]]]:
    """Parse data.noun once more, in another way than the script does."""
    synsets = {}
    for line in (DATABASE / "data.noun").read_bytes().splitlines():
        if line[:1].isdigit():
            words = line.decode("ascii").split("|")[0].split()
            n_words = int(words[3], base=16)
            entry: dict[str, list[str]] = {"lemmas": [], "@": [], "@i": []}
            entry["lemmas"] = [words[4 + 2 * place].replace("_", " ") for place in range(n_words)]
            n_pointers = int(words[4 + 2 * n_words])
            for place in range(n_pointers):
                symbol, offset, kind, _ = words[5 + 2 * n_words + 4 * place :][:4]
                if symbol in entry:
                    assert kind == "n"
                    entry[symbol].append("n" + offset)
            synsets["n" + words[0]] = entry
    return synsets


def naive_above(wordnet: WordNet, node: str) -> dict[str, set[int]]:
    """Return the lengths of all ways up to every ancestor, the node included."""
    lengths = defaultdict(set, {node: {0}})
    waiting = [(node, 0)]
    while waiting:
        at, length = waiting.pop()
        for parent in (*wordnet.hypernyms(at), *wordnet.instance_hypernyms(at)):
            if length + 1 not in lengths[parent]:
                lengths[parent].add(length + 1)
                waiting.append((parent, length + 1))
    return lengths


def some_synsets(wordnet: WordNet, n: int) -> list[str]:
    return random.Random(0).sample(wordnet.ids, n)


@needs_database
def test_every_synset_is_what_the_database_says(wordnet, database):
    assert list(wordnet.ids) == list(database)
    for node, entry in database.items():
        assert list(wordnet.lemmas(node)) == entry["lemmas"]
        assert list(wordnet.hypernyms(node)) == entry["@"]
        assert list(wordnet.instance_hypernyms(node)) == entry["@i"]
        assert list(wordnet.parents(node)) == entry["@"] + entry["@i"]


@needs_database
def test_hyponyms_are_what_the_database_says(wordnet, database):
    below, instances = defaultdict(list), defaultdict(list)
    for node, entry in database.items():
        for parent in entry["@"]:
            below[parent].append(node)
        for parent in entry["@i"]:
            instances[parent].append(node)
    for node in database:
        assert list(wordnet.hyponyms(node)) == below[node]
        assert list(wordnet.instance_hyponyms(node)) == instances[node]
        assert set(wordnet.children(node)) == {*below[node], *instances[node]}


@needs_database
def test_senses_stand_in_the_order_of_the_index(wordnet):
    n = 0
    for line in (DATABASE / "index.noun").read_text("ascii").splitlines():
        if line[0] != " ":
            word, _, n_senses, *rest = line.split()
            assert wordnet.synsets(word) == tuple("n" + offset for offset in rest[-int(n_senses) :])
            n += 1
    assert n == 117_798


@pytest.mark.slow
@needs_database
def test_the_script_gives_the_same_bytes_twice_and_what_is_shipped(tmp_path):
    for name in ("once", "again"):
        assert make_wordnet.main(["--source", str(DATABASE), "--target", str(tmp_path / name)]) == 0
    for name in (PATH.name, "WORDNET-LICENSE.txt"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with np.load(tmp_path / "once" / PATH.name) as made, np.load(PATH) as shipped:
        assert made.files == shipped.files
        for key in made.files:
            assert made[key].dtype == shipped[key].dtype
            assert np.array_equal(made[key], shipped[key])
    shipped_licence = PATH.with_name("WORDNET-LICENSE.txt").read_text("utf-8")
    assert (tmp_path / "once" / "WORDNET-LICENSE.txt").read_text("utf-8") == shipped_licence


@needs_database
def test_the_script_refuses_another_wordnet_and_leaves_the_target_alone(tmp_path):
    lines = (DATABASE / "data.noun").read_text("ascii").splitlines(keepends=True)
    (tmp_path / "data.noun").write_text("".join(lines[:-1]))
    shutil.copy(DATABASE / "index.noun", tmp_path)
    with pytest.raises(InputError, match="82114 noun synsets"):
        make_wordnet.main(["--source", str(tmp_path), "--target", str(tmp_path / "target")])
    assert not (tmp_path / "target").exists()


def test_licence_and_data_are_small_and_shipped():
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in PATH.with_name(
        "WORDNET-LICENSE.txt"
    ).read_text("utf-8")
    assert PATH.stat().st_size < 2_000_000


def test_counts_are_the_published_ones(wordnet):
    nouns = wordnet.nouns()
    assert len(wordnet) == 82_115
    assert len(nouns) == len(set(nouns.strings)) == 119_034
    assert len({noun.lower() for noun in nouns.strings}) == 117_798
    assert wordnet.roots == (ENTITY,)
    assert np.diff(wordnet.topological_order).min() < 0  # ids don't happen to be in order


def test_nouns_and_lemmas_are_two_sides_of_one_table(wordnet):
    nouns = wordnet.nouns()
    by_noun = nouns.synset_links.owners * len(wordnet) + nouns.synset_links.indices
    by_synset = wordnet.lemma_links.indices * np.int64(len(wordnet)) + wordnet.lemma_links.owners
    assert np.array_equal(np.unique(by_noun), np.unique(by_synset))
    assert len(np.unique(by_noun)) == len(by_noun) == len(by_synset)
    for number in random.Random(1).sample(range(len(nouns)), 300):
        noun = nouns.strings[number]
        expected = tuple(node for node in wordnet.synsets(noun) if noun in wordnet.lemmas(node))
        assert wordnet.synsets(noun, match_case=True) == expected
        assert tuple(wordnet.ids[row] for row in nouns.synset_links[number]) == expected


def test_words_are_found_with_any_case_and_with_underscores(wordnet):
    assert wordnet.synsets("Domestic_Dog") == (DOG,)
    assert wordnet.synsets("turkey")[1] == TURKEY
    assert wordnet.synsets("Turkey", match_case=True) == (TURKEY,)
    assert wordnet.name(DOG) == "dog"


def test_depths_are_the_shortest_and_longest_ways_to_entity(wordnet):
    nodes = some_synsets(wordnet, 300)
    for node, short, long in zip(
        nodes, wordnet.depths(nodes), wordnet.depths(nodes, longest=True), strict=True
    ):
        lengths = naive_above(wordnet, node)[ENTITY]
        assert (short, long) == (min(lengths), max(lengths))
        assert wordnet.depth(node) == short
        assert wordnet.depth(node, longest=True) == long
    assert wordnet.depths().min() == wordnet.depth(ENTITY) == 0


def test_ancestors_are_the_closure_nearest_first(wordnet):
    for node in some_synsets(wordnet, 200):
        lengths = naive_above(wordnet, node)
        del lengths[node]
        found = wordnet.ancestors(node)
        assert set(found) == set(lengths)
        assert len(found) == len(lengths)
        nearest = [min(lengths[ancestor]) for ancestor in found]
        assert nearest == sorted(nearest)
        own = wordnet.ancestor_links[wordnet.index(node)]
        assert sorted(wordnet.index(ancestor) for ancestor in found) == own.tolist()


def test_descendants_are_the_other_side_of_ancestors(wordnet):
    below = defaultdict(set)
    for node in wordnet.descendants(DOG):
        for ancestor in naive_above(wordnet, node):
            below[ancestor].add(node)
    assert below[DOG] == set(wordnet.descendants(DOG))
    assert len(wordnet.descendants(ENTITY)) == len(wordnet) - 1
    numbers = wordnet.descendant_links[wordnet.index(DOG)]
    assert sorted(wordnet.index(node) for node in wordnet.descendants(DOG)) == numbers.tolist()


def test_descendants_without_instances_are_kinds_alone(wordnet):
    physicist = wordnet.synsets("physicist")[0]
    einstein = wordnet.synsets("Einstein")[0]
    assert einstein in wordnet.instance_hyponyms(physicist)
    assert einstein not in wordnet.hyponyms(physicist)
    assert einstein in wordnet.descendants(physicist)
    assert einstein not in wordnet.descendants(physicist, instances=False)
    assert not wordnet.instance_hypernyms(physicist)


def test_leaves_have_nothing_below_them(wordnet):
    mask = wordnet.is_leaf()
    assert [wordnet.ids[row] for row in np.flatnonzero(mask)] == list(wordnet.leaves)
    nodes = some_synsets(wordnet, 500)
    assert wordnet.is_leaf(nodes).tolist() == [not wordnet.children(node) for node in nodes]
    assert wordnet.is_leaf(nodes, instances=False).tolist() == [not wordnet.hyponyms(node) for node in nodes]
    assert mask.sum() < wordnet.is_leaf(instances=False).sum()


def test_lowest_common_ancestors_have_no_common_one_below(wordnet):
    rng = random.Random(2)
    several = 0
    nodes = [*some_synsets(wordnet, 100), *rng.sample(wordnet.descendants("n00007846"), 200)]
    for first, second in zip(nodes, rng.sample(nodes, len(nodes)), strict=True):
        common = set(naive_above(wordnet, first)) & set(naive_above(wordnet, second))
        lowest = {
            node
            for node in common
            if not any(node in naive_above(wordnet, other) for other in common - {node})
        }
        found = wordnet.lowest_common_ancestors(first, second)
        assert set(found) == lowest
        several += len(found) > 1
    assert several
    assert [wordnet.name(node) for node in wordnet.lowest_common_ancestors(DOG, CAT)] == ["carnivore"]
    assert wordnet.lowest_common_ancestors(DOG) == (DOG,)
    assert wordnet.lowest_common_ancestors(DOG, *wordnet.hypernyms(DOG)[:1]) == wordnet.hypernyms(DOG)[:1]


@pytest.mark.parametrize("choice", ["first", "shortest", "longest"])
def test_a_path_goes_up_by_the_chosen_parents(wordnet, choice):
    for node in some_synsets(wordnet, 100):
        path = wordnet.path_to_root(node, choice=choice)
        assert (path[0], path[-1]) == (node, ENTITY)
        for child, parent in pairwise(path):
            assert parent in wordnet.parents(child)
            if choice == "first":
                assert parent == wordnet.parents(child)[0]
        if choice != "first":
            assert len(path) - 1 == wordnet.depth(node, longest=choice == "longest")


def test_a_path_reads_as_words(wordnet):
    assert wordnet.path_text(DOG).startswith("dog > canine > carnivore > placental > ")
    assert wordnet.path_text(DOG, max_names=4) == "dog > canine > carnivore > … > entity"
    assert wordnet.path_text(DOG, max_names=2) == "dog > … > entity"
    assert wordnet.path_text(DOG, max_names=100) == wordnet.path_text(DOG)
    assert wordnet.path_text(ENTITY, max_names=2) == "entity"
    with pytest.raises(InputError, match="max_names must be an integer of at least 2; got"):
        wordnet.path_text(DOG, max_names=1)


def test_is_ancestor_agrees_with_the_walk(wordnet):
    below = some_synsets(wordnet, 100)
    above = [wordnet.ancestors(node)[-2] for node in below[:50]] + some_synsets(wordnet, 150)[100:]
    expected = [high in wordnet.ancestors(low) for high, low in zip(above, below, strict=True)]
    assert wordnet.is_ancestor(above, below).tolist() == expected
    assert not wordnet.is_ancestor([DOG, DOG], [DOG, ENTITY]).any()
    with pytest.raises(InputError, match="can't be paired"):
        wordnet.is_ancestor([DOG], [DOG, CAT])


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("n02084072", "did you mean 'n02084071'"),
        ("n0208407", "did you mean 'n02084071'"),
        ("2084071", "did you mean 'n02084071'"),
        ("02084071-n", "did you mean 'n02084071'"),
        ("dog", "is a word, not an id; it is a lemma of n02084071"),
        ("", "'' is not among the nouns"),
        ("¹²³⁴⁵⁶⁷⁸", "is not among the nouns"),
        (2084071, "did you mean 'n02084071'"),
        (None, "None is not among the nouns"),
        (["n02084071"], "is not among the nouns"),
    ],
)
def test_a_wrong_id_names_the_nearest_right_one(wordnet, wrong, hint):
    with pytest.raises(InputError) as error:
        wordnet.parents(wrong)
    assert hint in str(error.value)


def test_a_wrong_word_names_the_nearest_right_one(wordnet):
    with pytest.raises(InputError, match="did you mean 'elephant'"):
        wordnet.synsets("elefant")
    with pytest.raises(InputError, match="'DOG' is not among"):
        wordnet.synsets("DOG", match_case=True)
    with pytest.raises(InputError, match="'' is not among"):
        wordnet.synsets("")
    with pytest.raises(InputError, match="ids must be a list of ids; got the single string"):
        wordnet.numbers(DOG)
    for wrong in (5, [[DOG]]):
        with pytest.raises(InputError, match="ids must be a list of strings"):
            wordnet.numbers(wrong)
    with pytest.raises(InputError, match="n00000000"):
        wordnet.numbers([DOG, "n00000000"])
    with pytest.raises(InputError, match="choice must be one of"):
        wordnet.path_to_root(DOG, choice="best")
    with pytest.raises(InputError, match="name one or more"):
        wordnet.lowest_common_ancestors()


def test_wordnet_is_loaded_once_and_nobody_can_change_it(wordnet):
    assert load_wordnet() is wordnet
    for links in (wordnet.parent_links, wordnet.child_links, wordnet.lemma_links, wordnet.ancestor_links):
        with pytest.raises(ValueError, match="read-only"):
            links.indices[0] = 1
    wordnet.depths()[0] = 7
    assert wordnet.depth(wordnet.ids[0]) == 0


def test_importing_the_room_reads_no_data_and_brings_no_heavy_package():
    script = (
        "import sys, kinfold.hierarchy as room; print(room.load_wordnet.cache_info().currsize, "
        "*sorted({'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["0"]


def test_a_damaged_or_newer_data_file_is_named(tmp_path):
    path = tmp_path / "nouns.npz"
    with pytest.raises(FormatError, match=r"nouns\.npz is missing; install"):
        read_nouns(path)
    content = bytearray(PATH.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="install Kinfold anew"):
        read_nouns(path)
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(FormatError, match="install Kinfold anew"):
        read_nouns(path)
    np.savez(path, format_version=np.array(2))
    with pytest.raises(NewerFormatError):
        read_nouns(path)
