"""Claims about class trees, held against definitions that are written out naively."""

from __future__ import annotations

import importlib.util
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet

CHOICES = ("first", "shortest", "longest")
DIAMOND = {"top": None, "left": "top", "right": ["top"], "bottom": ["left", "right"], "alone": []}


@st.composite
def parent_maps(draw):
    """Graphs without cycles of up to 12 nodes, in an order that isn't that of the levels."""
    names = [f"c{number}" for number in range(draw(st.integers(1, 12)))]
    parents = {}
    for number, name in enumerate(names):
        above = draw(st.sets(st.integers(0, number - 1))) if number else set()
        parents[name] = [names[parent] for parent in draw(st.permutations(sorted(above)))]
    return {name: parents[name] for name in draw(st.permutations(names))}


class Naive:
    """Everything by definition, on sets."""

    def __init__(self, parents):
        self.parents = parents
        self.above = {node: self.ways(node).keys() - {node} for node in parents}

    def ways(self, node):
        """Return the lengths of all ways up to every ancestor."""
        lengths = {node: {0}}
        for parent in self.parents[node]:
            for ancestor, known in self.ways(parent).items():
                lengths.setdefault(ancestor, set()).update(length + 1 for length in known)
        return lengths

    def depth(self, node, pick):
        roots = [node for node in self.parents if not self.parents[node]]
        return pick(length for root in roots for length in self.ways(node).get(root, ()))

    def main(self, node, choice):
        above = self.parents[node]
        rank = {
            "first": lambda _: 0,
            "shortest": lambda p: self.depth(p, min),
            "longest": lambda p: -self.depth(p, max),
        }
        return min(above, key=rank[choice]) if above else None

    def way(self, node, choice):
        path = [node]
        while (above := self.main(path[-1], choice)) is not None:
            path.append(above)
        return path


@settings(max_examples=80, deadline=None)
@given(parent_maps())
def test_relations_are_what_their_definitions_say(parents):
    tree, naive = ClassTree(parents), Naive(parents)
    assert tree.ids == tuple(parents)
    order = [tree.ids[number] for number in tree.topological_order]
    for node in parents:
        assert list(tree.parents(node)) == parents[node]
        assert tree.children(node) == tuple(child for child in parents if node in parents[child])
        assert set(tree.ancestors(node)) == naive.above[node]
        assert set(tree.descendants(node)) == {other for other in parents if node in naive.above[other]}
        assert tree.depth(node) == naive.depth(node, min)
        assert tree.depth(node, longest=True) == naive.depth(node, max)
        assert all(order.index(parent) < order.index(node) for parent in parents[node])
        for links, named in (
            (tree.ancestor_links, tree.ancestors),
            (tree.descendant_links, tree.descendants),
        ):
            assert links[tree.index(node)].tolist() == sorted(tree.index(other) for other in named(node))
    assert tree.roots == tuple(node for node in parents if not parents[node])
    assert tree.leaves == tuple(node for node in parents if not tree.children(node))
    assert tree.is_leaf().tolist() == [node in tree.leaves for node in parents]


@settings(max_examples=80, deadline=None)
@given(parent_maps())
def test_siblings_and_depths_group_the_classes(parents):
    tree = ClassTree(parents)
    for roots in (True, False):
        links = tree.sibling_links(roots=roots)
        for node in parents:
            shared = {other for other in parents if set(parents[node]) & set(parents[other])}
            if roots and not parents[node]:
                shared = {other for other in parents if not parents[other]}
            expected = tuple(other for other in parents if other in shared - {node})
            assert tree.siblings(node, roots=roots) == expected
            assert links[tree.index(node)].tolist() == [tree.index(other) for other in expected]
    for node in parents:
        for longest in (True, False):
            alike = [
                other
                for other in parents
                if tree.depth(other, longest=longest) == tree.depth(node, longest=longest)
            ]
            assert tree.same_depth(node, longest=longest) == tuple(other for other in alike if other != node)


@settings(max_examples=80, deadline=None)
@given(parent_maps(), st.data())
def test_lowest_common_ancestors_are_minimal(parents, data):
    tree, naive = ClassTree(parents), Naive(parents)
    nodes = data.draw(st.lists(st.sampled_from(list(parents)), min_size=1, max_size=4))
    common = set.intersection(*({node} | naive.above[node] for node in nodes))
    lowest = {node for node in common if not any(node in naive.above[other] for other in common)}
    found = tree.lowest_common_ancestors(*nodes)
    assert set(found) == lowest
    assert len(found) == len(lowest)
    depths = [naive.depth(node, max) for node in found]
    assert depths == sorted(depths, reverse=True)


@settings(max_examples=80, deadline=None)
@given(parent_maps(), st.sampled_from(CHOICES))
def test_coarse_classes_are_the_ancestors_at_a_depth(parents, choice):
    tree, naive = ClassTree(parents), Naive(parents)
    ways = {node: naive.way(node, choice) for node in parents}
    counts = tree.coarse_counts(choice=choice)
    assert len(counts) == max(len(way) for way in ways.values())
    for depth, count in enumerate([*counts, len(parents)]):
        stands = [tree.ids[number] for number in tree.coarsen(depth, choice=choice)]
        assert stands == [way[max(0, len(way) - 1 - depth)] for way in ways.values()]
        assert len(set(stands)) == count
    for node, way in ways.items():
        assert list(tree.path_to_root(node, choice=choice)) == way


@settings(max_examples=80, deadline=None)
@given(parent_maps(), st.data())
def test_a_subset_hangs_below_its_nearest_ancestors(parents, data):
    tree, naive = ClassTree(parents), Naive(parents)
    members = data.draw(st.lists(st.sampled_from(list(parents)), min_size=1, unique=True))
    direct = tree.subset(members, rule="direct")
    nearest = tree.subset(members)
    assert direct.ids == nearest.ids == tuple(members)
    for node in members:
        above = naive.above[node] & set(members)
        assert set(nearest.ancestors(node)) == above
        assert set(nearest.parents(node)) == {
            node for node in above if not any(node in naive.above[other] for other in above)
        }
        assert list(direct.parents(node)) == [parent for parent in parents[node] if parent in members]
        distances = [min(naive.ways(node)[parent]) for parent in nearest.parents(node)]
        assert distances == sorted(distances)


@settings(max_examples=50, deadline=None)
@given(parent_maps())
def test_a_tree_is_the_same_after_writing_and_reading(tmp_path_factory, parents):
    tree = ClassTree(parents)
    path = tmp_path_factory.mktemp("tables") / "tree.parquet"
    pq.write_table(tree.to_table(), path)
    again = ClassTree.from_table(path)
    assert again.ids == tree.ids
    assert [again.parents(node) for node in again] == [tree.parents(node) for node in tree]
    assert again.fingerprint() == tree.fingerprint()


def test_a_diamond_is_counted_once():
    tree = ClassTree(DIAMOND)
    assert tree.ancestors("bottom") == ("left", "right", "top")
    assert tree.descendants("top") == ("left", "right", "bottom")
    assert tree.lowest_common_ancestors("left", "right") == ("top",)
    assert tree.lowest_common_ancestors("left", "alone") == ()
    assert tree.roots == ("top", "alone")
    assert tree.leaves == ("bottom", "alone")
    assert "left" in tree
    assert "nothing" not in tree
    assert list(tree) == list(DIAMOND)


def test_of_several_lowest_common_ancestors_the_deepest_comes_first():
    tree = ClassTree({"high": None, "top": None, "deep": "top", "x": ["high", "deep"], "y": ["high", "deep"]})
    assert tree.lowest_common_ancestors("x", "y") == ("deep", "high")


def test_a_tree_of_one_class_is_root_and_leaf():
    tree = ClassTree({"only": None})
    assert tree.roots == tree.leaves == tree.path_to_root("only") == ("only",)
    assert tree.siblings("only") == tree.same_depth("only") == tree.ancestors("only") == ()
    assert tree.coarsen(0).tolist() == [0]
    assert tree.coarse_counts().tolist() == [1]
    assert len(tree.sibling_links().indices) == len(tree.ancestor_links.indices) == 0
    assert not tree.is_ancestor(["only"], ["only"]).any()
    assert tree.numbers([]).shape == (0,)


def test_a_chain_of_five_thousand_parents_needs_no_recursion():
    names = [f"c{number}" for number in range(5_000)]
    tree = ClassTree(dict(zip(names, [None, *names], strict=False)))
    assert tree.depth("c4999") == tree.depth("c4999", longest=True) == 4_999
    assert tree.ancestors("c4999") == tuple(reversed(names[:-1]))
    assert tree.descendants("c0") == tuple(names[1:])
    assert tree.path_to_root("c4999") == tuple(reversed(names))
    assert tree.lowest_common_ancestors("c4999", "c1234") == ("c1234",)
    assert np.array_equal(tree.ancestor_links.counts, np.arange(5_000))
    assert tree.coarsen(10)[-1] == 10
    assert tree.subset(["c4999", "c7"]).parents("c4999") == ("c7",)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({}, "has no class"),
        (["a", "b"], "made of a mapping from child to parents, not of list"),
        ({"a": "a"}, "'a' is its own parent"),
        ({"a": "b", "b": "a"}, "cycle, child before parent: a > b > a"),
        ({"x": "a", "a": "c", "b": "a", "c": "b", "r": None}, "cycle, child before parent: a > c > b > a"),
        ({"a": ["r", "b"], "b": "a", "r": None}, "a > b > a"),
        ({"animal": None, "dog": "anmal"}, "'anmal' of 'dog' has no entry of its own; did you mean 'animal'"),
        ({"dog": "zzz"}, "no entry of its own; give it one, with an empty parent"),
        ({"a": None, "b": ["a", "a"]}, "'b' has the parent 'a' twice"),
        ({"a": None, 3: "a"}, "got 3"),
        ({"": None}, "got ''"),
        ({"a": None, "b": 3}, "'b' has the parents 3, which are not a list of strings"),
        ({"a": None, "b": [["a"]]}, "ids must be non-empty strings"),
    ],
)
def test_what_is_no_tree_is_refused(parents, message):
    with pytest.raises(InputError) as error:
        ClassTree(parents)
    assert message in str(error.value)


def test_a_long_cycle_is_shown_in_short():
    names = [f"c{number}" for number in range(5_000)]
    with pytest.raises(InputError) as error:
        ClassTree({name: names[number - 1] for number, name in enumerate(names)})
    assert str(error.value).endswith(
        "c0 > c4999 > c4998 > c4997 > c4996 > c4995 > c4994 > c4993 > c4992 > … > c0"
    )


@pytest.mark.parametrize("depth", [-1, 1.5, True, None, "1"])
def test_a_depth_is_an_integer(depth):
    with pytest.raises(InputError, match="depth must be an integer of at least 0; got"):
        ClassTree(DIAMOND).coarsen(depth)


def test_a_subset_refuses_what_it_cannot_hold():
    tree = ClassTree(DIAMOND)
    for ids, message in (
        ([], "has no class"),
        ("left", "must be a list of ids; got the single string"),
        (["left", "top", "left"], "'left' is there 2 times"),
        (["lefd"], "did you mean 'left'"),
    ):
        with pytest.raises(InputError, match=message):
            tree.subset(ids)
    with pytest.raises(InputError, match=r"rule must be one of .*; got 'closest'"):
        tree.subset(["left"], rule="closest")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_table_gives_a_tree(tmp_path):
    text = '\ufeffchild,parent,note\n"dog, pet",animal,x\nanimal,,\ncat,animal,\n"dog, pet",cat,\n'
    tree = ClassTree.from_table(write(tmp_path / "tree.csv", text))
    assert tree.ids == ("dog, pet", "animal", "cat")
    assert tree.parents("dog, pet") == ("animal", "cat")
    table = write(tmp_path / "tree.tsv", "is_a\tname\n\tanimal\nanimal\tdog\n")
    assert ClassTree.from_table(table, child_column="name", parent_column="is_a").children("animal") == (
        "dog",
    )


def test_a_parquet_table_may_hold_numbers_nulls_and_dictionaries(tmp_path):
    pq.write_table(pa.table({"child": [1, 2, 3], "parent": [None, 1, 1]}), tmp_path / "numbers.parquet")
    assert ClassTree.from_table(tmp_path / "numbers.parquet").children("1") == ("2", "3")
    pq.write_table(pa.table({"child": ["a", "b"], "parent": pa.nulls(2)}), tmp_path / "roots.parquet")
    assert ClassTree.from_table(tmp_path / "roots.parquet").roots == ("a", "b")
    texts = pa.array(["a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"child": texts, "parent": ["", "a"]}), tmp_path / "texts.pq")
    assert ClassTree.from_table(str(tmp_path / "texts.pq")).parents("b") == ("a",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tree.csv", "child,parent\n", "has no class"),
        ("tree.csv", "", "is empty and can't be read"),
        ("tree.csv", "kid,parents\n", "has no column 'child'"),
        ("tree.csv", "child,parents\n", "did you mean 'parents'"),
        ("tree.csv", "child,parent\n,a\n", "row 2: the child is empty"),
        ("tree.csv", "child,parent\na,\nb,a\nb,a\n", "row 4: 'b' below 'a' is there twice"),
        ("tree.csv", "child,parent\na,\na,\n", "row 3: 'a' below nothing is there twice"),
        (
            "tree.csv",
            "child,parent\na,\nb,\nb,a\n",
            "row 4: 'b' has an empty parent in one row and one in another",
        ),
        (
            "tree.csv",
            "child,parent\na,\nb,a\nb,\n",
            "row 4: 'b' has an empty parent in one row and one in another",
        ),
        ("tree.csv", "child,parent\na,b,c\n", "line 2 of"),
        ("tree.csv", "child,parent\na,b\nb,a\n", "tree.csv has a cycle, child before parent: a > b > a"),
        ("tree.csv", "child,parent\na,a\n", "'a' is its own parent"),
        ("tree.csv", "child,parent\nroot,\na,rooot\n", "tree.csv: the parent 'rooot' of 'a' has no entry"),
        ("tree.csv", 'child,parent\n"a,\n', "can't be read"),
        ("tree.parquet", "child,parent\n", "can't be read"),
        ("tree.txt", "child,parent\n", "must end in .csv, .tsv or .parquet"),
    ],
)
def test_a_faulty_table_is_refused_with_its_place(tmp_path, name, text, message):
    with pytest.raises(InputError) as error:
        ClassTree.from_table(write(tmp_path / name, text))
    assert message in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "windows-1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_as_spreadsheets_save_it(tmp_path, encoding, delimiter):
    text = "child,parent\nbête,\nbête.png,bête\n".replace(",", delimiter)
    (tmp_path / "tree.csv").write_bytes(text.encode(encoding))
    tree = ClassTree.from_table(tmp_path / "tree.csv")
    assert tree.ids == ("bête", "bête.png")
    assert tree.parents("bête.png") == ("bête",)


def test_a_table_of_the_wrong_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        ClassTree.from_table(tmp_path / "missing.csv")
    (tmp_path / "bytes.csv").write_bytes(b"child,parent\n\0\xff,\n")
    with pytest.raises(InputError, match="no table of text"):
        ClassTree.from_table(tmp_path / "bytes.csv")
    pq.write_table(pa.table({"child": [1.5], "parent": [None]}), tmp_path / "floats.parquet")
    with pytest.raises(InputError, match=r"column 'child' of .* holds double"):
        ClassTree.from_table(tmp_path / "floats.parquet")


def test_synsets_hang_below_one_another_by_both_rules():
    wordnet = load_wordnet()
    dog, canine, carnivore, animal, poodle = "n02084071", "n02083346", "n02075296", "n00015388", "n02113335"
    members = [poodle, dog, carnivore, animal]
    nearest = ClassTree.from_wordnet(members)
    assert wordnet.hypernyms(dog)[0] == canine
    assert nearest.parents(poodle) == (dog,)
    assert nearest.parents(dog) == (carnivore,)
    assert nearest.roots == (animal,)
    direct = ClassTree.from_wordnet(members, rule="direct")
    assert direct.parents(poodle) == (dog,)
    assert direct.roots == (dog, carnivore, animal)
    assert ClassTree.from_wordnet([dog, poodle]).wordnet_leaves() == ()
    assert ClassTree.from_wordnet([dog, canine]).leaves == (dog,)
    with pytest.raises(InputError, match="did you mean 'n02084071'"):
        ClassTree.from_wordnet(["n02084072"])
    with pytest.raises(InputError, match="is not among the nouns"):
        ClassTree({"no synset": None}).wordnet_leaves()


def test_instances_are_below_their_class_only_if_wanted():
    wordnet = load_wordnet()
    members = [wordnet.synsets("physicist")[0], wordnet.synsets("Einstein")[0]]
    assert ClassTree.from_wordnet(members).leaves == (members[1],)
    assert ClassTree.from_wordnet(members, instances=False).leaves == tuple(members)


@pytest.fixture(scope="module")
def imagenet_21k() -> list[str]:
    """Ids of the 10,450 classes, from timm's files; timm itself isn't imported."""
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("the 10,450 class ids of ImageNet-21K are in timm, which isn't installed")
    folder = Path(found.submodule_search_locations[0]) / "data" / "_info"
    return (folder / "imagenet21k_miil_w21_synsets.txt").read_text("utf-8").split()


def test_leaves_of_imagenet_21k_are_the_published_ones_within_a_percent(imagenet_21k):
    assert len(imagenet_21k) == 10_450
    for rule in ("direct", "nearest-ancestor"):
        tree = ClassTree.from_wordnet(imagenet_21k, rule=rule)
        assert abs(len(tree.wordnet_leaves()) - 7353) <= 73
        assert abs(len(tree.leaves) - 8153) <= 81
        assert set(tree.wordnet_leaves()) <= set(tree.leaves)


@pytest.mark.parametrize("rule", ["direct", "nearest-ancestor"])
def test_trees_of_imagenet_21k_agree_with_naive_loops(imagenet_21k, rule):
    wordnet, members = load_wordnet(), set(imagenet_21k)
    known = {}

    def above(node):
        if node not in known:
            parents = wordnet.parents(node)
            known[node] = set(parents).union(*(above(parent) for parent in parents))
        return known[node]

    tree = ClassTree.from_wordnet(imagenet_21k, rule=rule)
    for node in imagenet_21k:
        if rule == "direct":
            assert list(tree.parents(node)) == [
                parent for parent in wordnet.parents(node) if parent in members
            ]
        else:
            candidates = above(node) & members
            hidden = set().union(*(above(parent) for parent in candidates))
            assert set(tree.parents(node)) == candidates - hidden
    sizes = Counter(tree.depths().tolist())
    assert [sizes[depth] for depth in range(len(sizes))] == np.diff(
        tree.coarse_counts(choice="shortest"), prepend=0
    ).tolist()


def test_links_refuse_a_node_that_is_not_there():
    links = ClassTree(DIAMOND).parent_links
    assert links[-2].tolist() == links[3].tolist()
    for wrong in (5, -6):
        with pytest.raises(IndexError, match="there is no list"):
            links[wrong]


def test_links_of_several_nodes_are_those_of_each():
    rng = np.random.default_rng(0)
    names = [f"c{number}" for number in range(200)]
    parents = {
        name: [names[k] for k in rng.choice(number, min(number, 3), replace=False)]
        for number, name in enumerate(names)
    }
    links = ClassTree(parents).parent_links
    chosen = rng.integers(0, 200, 500)
    owners, values = links.take(chosen)
    assert values.tolist() == [value for node in chosen for value in links[node]]
    assert owners.tolist() == [place for place, node in enumerate(chosen) for _ in links[node]]
    assert links.take([])[1].shape == (0,)
    twice = links.transpose().transpose()
    assert [sorted(links[node]) for node in range(200)] == [twice[node].tolist() for node in range(200)]
    assert all(a < b for node in range(200) for a, b in combinations(twice[node].tolist(), 2))
