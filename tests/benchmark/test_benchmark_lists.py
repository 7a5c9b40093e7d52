"""Claims about published lists and trees of classes, and about the published tree file."""

from __future__ import annotations

import importlib.util
import json
import lzma
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from kinfold.benchmark import (
    CLASS_LISTS,
    class_leaves,
    class_list,
    open_tree,
    published_tree,
    read_class_list,
    read_tree_file,
)
from kinfold.errors import InputError
from kinfold.hierarchy import ClassTree, load_wordnet

SIZES = {
    "imagenet1k": 1000,
    "imagenet21k": 10_450,
    "imagenet-10": 10,
    "imagenet-dogs": 15,
    "imagenet-50": 50,
    "imagenet-100": 100,
    "imagenet-200": 200,
    "tiny-imagenet": 200,
}
# What the classes are called where the sets are described.
DOGS = (
    "Maltese dog, Blenheim spaniel, basset, Norwegian elkhound, giant schnauzer, golden retriever, "
    "Brittany spaniel, clumber, Welsh springer spaniel, groenendael, kelpie, Shetland sheepdog, Doberman, "
    "pug, chow"
)
TEN = (
    "king penguin, Maltese dog, snow leopard, airliner, airship, container ship, soccer ball, sports car, "
    "trailer truck, orange"
)


def test_lists_have_their_published_sizes_and_hold_classes_of_wordnet():
    assert set(SIZES) == set(CLASS_LISTS)
    wordnet, small = load_wordnet(), set(class_list("imagenet1k"))
    for name, size in SIZES.items():
        ids = class_list(name)
        assert len(ids) == len(set(ids)) == size
        assert all(one in wordnet for one in ids)
        assert name == "imagenet21k" or set(ids) <= small


def test_the_small_sets_are_the_classes_they_are_known_for():
    wordnet, small = load_wordnet(), set(class_list("imagenet1k"))
    for name, words in (("imagenet-dogs", DOGS), ("imagenet-10", TEN)):
        meant = [{one for one in wordnet.synsets(word) if one in small} for word in words.split(", ")]
        assert all(len(ids) >= 1 for ids in meant)
        assert set(class_list(name)) <= set().union(*meant)
        assert all(len(ids & set(class_list(name))) == 1 for ids in meant)
    assert set(class_list("imagenet-50")) < set(class_list("imagenet-100")) < set(class_list("imagenet-200"))


@pytest.mark.parametrize(
    ("name", "file"),
    [("imagenet1k", "imagenet_synsets.txt"), ("imagenet21k", "imagenet21k_miil_w21_synsets.txt")],
)
def test_ids_are_those_of_timm(name, file):
    found = importlib.util.find_spec("timm")
    if found is None:
        pytest.skip("the class ids to compare with are in timm, which isn't installed")
    ids = (Path(found.submodule_search_locations[0]) / "data" / "_info" / file).read_text("utf-8").split()
    assert class_list(name) == tuple(ids)


def test_the_published_tree_has_the_published_leaves():
    tree, ids = published_tree(), class_list("imagenet21k")
    assert tree.ids == ids
    assert class_leaves(ids, tree).n_labels == 8153
    assert int(tree.parent_links.counts.max()) == 1


def test_the_published_tree_is_that_of_datadings():
    found = importlib.util.find_spec("datadings")
    if found is None:
        pytest.skip("the published tree to compare with is in datadings, which isn't installed")
    path = Path(found.submodule_search_locations[0]) / "sets" / "ImageNet21k_synsets.json.xz"
    ways = json.loads(lzma.decompress(path.read_bytes()))["class_tree_list"]
    tree = published_tree()
    assert [[tree.ids[number] for number in way] for way in ways] == [
        list(tree.path_to_root(one)) for one in tree.ids
    ]


def test_the_published_tree_goes_by_wordnet_up_to_a_few_classes():
    """Its parents are ancestors in WordNet, nearly all nearest ones."""
    tree, wordnet = published_tree(), load_wordnet()
    children = [child for child in tree.ids if tree.parents(child)]
    parents = [tree.parents(child)[0] for child in children]
    assert wordnet.is_ancestor(parents, children).mean() > 0.99
    nearest = ClassTree.from_wordnet(tree.ids)
    same = sum(parent in nearest.parents(child) for child, parent in zip(children, parents, strict=True))
    assert same / len(children) > 0.99


def test_unknown_lists_are_named():
    with pytest.raises(InputError, match="did you mean 'imagenet-dogs'"):
        class_list("imagenet-dog")


def test_list_files_may_have_names_and_comments(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# made up\nn01 first one\n\nn02\n", "utf-8")
    assert read_class_list(path) == ("n01", "n02")
    for content, message in (("", "is empty"), ("a\nb\na\n", "'a' twice")):
        path.write_text(content, "utf-8")
        with pytest.raises(InputError, match=message):
            read_class_list(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="can't be read"):
        read_class_list(path)


IDS = ["n00000001", "n00000002", "n00000003", "n00000004"]
WAYS = [[0], [1, 0], [2, 1, 0], [3]]


def tree_content(numbers=int, names=list):
    """Return what the published file holds, for four classes."""
    return {
        "class_list": names(IDS),
        "class_tree_list": [[numbers(number) for number in way] for way in WAYS],
        "class_description": {one: f"class {one}" for one in IDS},
        "child_2_parent": {IDS[1]: IDS[0], IDS[2]: IDS[1]},
    }


@pytest.mark.parametrize("numbers", [int, np.int64, np.int32])
@pytest.mark.parametrize("names", [list, np.array, lambda ids: np.array(ids, dtype=object)])
@pytest.mark.parametrize("zipped", [True, False])
def test_tree_files_are_read_as_published(tmp_path, numbers, names, zipped):
    path = tmp_path / "tree.pth"
    torch.save(tree_content(numbers, names), path, _use_new_zipfile_serialization=zipped)
    tree = read_tree_file(path)
    assert tree.ids == tuple(IDS)
    assert [tree.parents(one) for one in IDS] == [(), (IDS[0],), (IDS[1],), ()]


def test_a_tree_file_of_full_size_is_the_tree_it_was_made_from(tmp_path):
    tree = published_tree()
    main = tree.main_parents()
    ways = [[np.int64(number)] for number in range(len(tree))]
    for number in tree.topological_order:
        if main[number] >= 0:
            ways[number] += ways[main[number]]
    names = dict.fromkeys(tree.ids, "a class")
    content = {"class_list": np.array(tree.ids), "class_tree_list": ways, "class_description": names}
    torch.save(content, tmp_path / "imagenet21k_miil_tree.pth")
    assert read_tree_file(tmp_path / "imagenet21k_miil_tree.pth").fingerprint() == tree.fingerprint()


def test_tree_files_of_old_numpy_are_read(tmp_path):
    path = tmp_path / "tree.pth"
    torch.save(tree_content(np.int64), path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    assert read_tree_file(path).ids == tuple(IDS)


class Harm:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_would_run_code_are_refused_before_they_do(tmp_path, zipped):
    path, target = tmp_path / "tree.pth", tmp_path / "harmed"
    torch.save({**tree_content(), "class_list": Harm(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="holds code that would run"):
        read_tree_file(path)
    assert not target.exists()
    path.write_bytes(pickle.dumps(Harm(target)))
    with pytest.raises(InputError, match="was not read"):
        read_tree_file(path)
    assert not target.exists()


def test_what_is_let_in_for_a_tree_is_not_let_in_afterwards(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(tree_content(np.int64), tmp_path / "tree.pth")
    read_tree_file(tmp_path / "tree.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_tree_list": [[0], [1, 2], [2, 1, 0], [3]]}, "contradict one another"),
        ({"class_tree_list": [[0], [1, 0], [2, 1, 0], [3, 9]]}, "doesn't go from class 3"),
        ({"class_tree_list": [[0], [1, 0]]}, "2 paths for 4 classes"),
        ({"class_tree_list": 7}, "no list of lists"),
        ({"class_list": IDS[::-1]}, "contradicts itself"),
    ],
)
def test_trees_that_are_none_are_refused(tmp_path, change, message):
    torch.save({**tree_content(), **change}, tmp_path / "tree.pth")
    with pytest.raises(InputError, match=message):
        read_tree_file(tmp_path / "tree.pth")


def test_other_files_are_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="is no published class tree"):
        read_tree_file(tmp_path / "weights.pth")
    (tmp_path / "text.pth").write_text("no tree", "utf-8")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("text.pth", "empty.pth", "missing.pth"):
        with pytest.raises(InputError):
            read_tree_file(tmp_path / name)


def test_trees_are_opened_by_what_they_are(tmp_path):
    torch.save(tree_content(), tmp_path / "tree.pth")
    (tmp_path / "tree.csv").write_text("child,parent\na,\nb,a\n", "utf-8")
    ids = class_list("imagenet21k")[:50]
    assert open_tree("published", ids).kind == "published"
    assert open_tree("wordnet", ids, rule="direct").rule == "direct"
    assert open_tree(tmp_path / "tree.pth", IDS[:2]).kind == "tree file"
    assert open_tree(tmp_path / "tree.csv", ["b"]).tree.parents("b") == ("a",)
    with pytest.raises(
        InputError, match=r"1 of 2 classes are not in the tree .*'bb' first; did you mean 'b'"
    ):
        open_tree(tmp_path / "tree.csv", ["a", "bb"])
    with pytest.raises(InputError, match="rule must be one of"):
        open_tree("wordnet", ids, rule="any")
