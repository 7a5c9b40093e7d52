"""Claims about making benchmarks, writing them, and describing them."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.benchmark import (
    BUILDERS,
    CATALOGUE,
    Benchmark,
    ClassCounts,
    LabelTable,
    build_benchmark,
    class_list,
    describe_benchmark,
    is_benchmark,
    read_accuracies,
    read_counts,
    read_folder_labels,
    read_label_table,
)
from kinfold.errors import FormatError, InputError, NewerFormatError

TREE = "child,parent\nanimal,\ndog,animal\npoodle,dog\ncat,animal\ntool,\nhammer,tool\n"
SIZES = {"animal": 2, "cat": 5, "dog": 6, "hammer": 9, "poodle": 3, "tool": 4}


def made_labels(sizes=SIZES, n_val=1):
    rows = [(f"train/{name}/{i}.png", name, "train") for name, size in sizes.items() for i in range(size)]
    rows += [(f"val/{name}/{i}.png", name, "val") for name in sizes for i in range(n_val)]
    return LabelTable.from_columns(*zip(*rows, strict=True))


@pytest.fixture
def tree(tmp_path):
    path = tmp_path / "tree.csv"
    path.write_text(TREE, "utf-8")
    return path


def labels_of(found):
    return dict(zip(found.labels["key"].to_pylist(), found.labels["label"].to_pylist(), strict=True))


def test_own_classes_become_coarse_in_all_splits(tree):
    found = build_benchmark("coarse", made_labels(), tree=tree, parameters={"depth": 0})
    above = {"dog": "animal", "poodle": "animal", "cat": "animal", "hammer": "tool"}
    assert labels_of(found) == {
        key: above.get(key.split("/")[1], key.split("/")[1]) for key in made_labels().keys.to_pylist()
    }
    assert found.n_classes == 2
    assert found.facts["tree"]["kind"] == "table"
    assert found.facts["result"]["splits"]["val"] == {"n_samples": 6, "n_classes": 2, "least": 2, "most": 4}


def test_windows_go_by_training_images_and_keep_the_validation_images_of_what_stays():
    table = made_labels()
    found = build_benchmark("window", table, parameters={"spread": 25})
    low, high = np.percentile(list(SIZES.values()), [25, 75])
    stay = {name for name, size in SIZES.items() if low <= size <= high}
    keys = [key for key in table.keys.to_pylist() if key.split("/")[1] in stay]
    assert list(labels_of(found)) == keys
    assert found.facts["result"]["n_training_samples"] == sum(SIZES[name] for name in stay)


def test_odd_leaves_validation_images_as_they_are():
    found = build_benchmark("odd", made_labels(n_val=3))
    left = Counter(key.rsplit("/", 1)[0] for key in labels_of(found))
    expected = {name: size - (size // 2 if i % 2 else 0) for i, (name, size) in enumerate(SIZES.items())}
    assert left == Counter(
        {f"train/{name}": size for name, size in expected.items()} | {f"val/{name}": 3 for name in SIZES}
    )
    assert found.facts["result"]["n_training_samples"] == sum(expected.values())
    counts_alone = build_benchmark("odd", made_labels().counts())
    assert counts_alone.facts["result"]["n_training_samples"] == sum(expected.values())
    assert counts_alone.labels is None


def test_the_index_of_a_class_is_its_place_in_the_published_list():
    ids = class_list("imagenet1k")
    table = made_labels({ids[3]: 10, ids[8]: 10, "n99999999": 5}, n_val=0)
    found = build_benchmark("imagenet1k-odd", table)
    left = Counter(key.split("/")[1] for key in labels_of(found))
    assert left == {ids[3]: 5, ids[8]: 10}
    assert found.facts["labels"]["n_of_other_classes"] == 5


def test_ancestors_give_several_labels_the_own_one_first(tree):
    found = build_benchmark("ancestors", made_labels({"poodle": 1, "tool": 1}, 0), tree=tree)
    assert found.labels.schema.names == ["key", "label", "split", "labels"]
    assert found.labels["labels"].to_pylist() == [["poodle", "dog", "animal"], ["tool"]]


def test_relabelled_classes_that_a_split_lacks_go():
    keys = ["train/1", "train/2", "train/3", "val/1", "val/2"]
    table = LabelTable.from_columns(keys, list("abcab"), [key.split("/")[0] for key in keys])
    found = build_benchmark("relabelled", table)
    assert set(labels_of(found)) == {"train/1", "train/2", "val/1", "val/2"}
    assert found.facts["left_out"] == {"n_classes": 1, "not_in_every_split": ["c"]}


def test_models_choose_classes():
    accuracies = [
        {name: place for place, name in enumerate(SIZES)},
        {name: -place for place, name in enumerate(SIZES)},
    ]
    best = build_benchmark("top", made_labels(), accuracies=accuracies[:1], parameters={"n_classes": 2})
    both = build_benchmark("union", made_labels(), accuracies=accuracies, parameters={"n_classes": 2})
    assert set(labels_of(best).values()) == {"poodle", "tool"}
    assert set(labels_of(both).values()) == {"poodle", "tool", "animal", "cat"}
    for name, given in (("top", accuracies), ("top", ()), ("union", ())):
        with pytest.raises(InputError, match="accuracies"):
            build_benchmark(name, made_labels(), accuracies=given)


def test_the_same_labels_in_another_order_give_the_same_bytes(tmp_path, tree):
    table = made_labels()
    rows = list(
        zip(
            *(a.to_pylist() for a in (table.keys,)),
            [table.classes[i] for i in table.labels],
            [table.splits[i] for i in table.split_codes],
            strict=True,
        )
    )
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    for name, content in (("one", rows), ("two", shuffled)):
        build_benchmark("odd", LabelTable.from_columns(*zip(*content, strict=True))).save(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["benchmark.json", "classes.parquet", "labels.parquet"]
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files
    )


def test_benchmarks_are_read_back_and_damage_is_seen(tmp_path):
    found = build_benchmark("all", made_labels())
    found.save(tmp_path / "b")
    again = Benchmark.open(tmp_path / "b")
    assert again.labels.equals(found.labels)
    assert again.classes.equals(found.classes)
    assert again.n_classes == 6
    found.save(tmp_path / "b")  # over its own
    (tmp_path / "b" / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="not the file that was written"):
        Benchmark.open(tmp_path / "b")
    facts = json.loads((tmp_path / "b" / "benchmark.json").read_text("utf-8"))
    (tmp_path / "b" / "benchmark.json").write_text(json.dumps({**facts, "format_version": 99}), "utf-8")
    with pytest.raises(NewerFormatError):
        Benchmark.open(tmp_path / "b")
    with pytest.raises(InputError, match="no benchmark at"):
        Benchmark.open(tmp_path)


def test_nothing_else_is_written_over(tmp_path):
    found = build_benchmark("all", made_labels())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep", "utf-8")
    (tmp_path / "file").write_text("keep", "utf-8")
    found.save(tmp_path / "own")
    (tmp_path / "own" / "mine.txt").write_text("keep", "utf-8")
    for name in ("notes", "file", "own"):
        with pytest.raises(InputError, match="left as it is"):
            found.save(tmp_path / name)
    assert (tmp_path / "own" / "mine.txt").read_text("utf-8") == "keep"


def test_labels_are_those_of_folders_with_splits(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (8, 8))
    for place in ("train/a/1.png", "train/b/images/2.png", "validation/a/1.png", "train/lost.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / place)
    table = read_folder_labels(tmp_path)
    named = [table.classes[label] for label in table.labels]
    assert dict(zip(table.keys.to_pylist(), named, strict=True)) == {
        "train/a/1.png": "a",
        "train/b/images/2.png": "b",
        "validation/a/1.png": "a",
    }
    assert table.split_counts() == {"train": 2, "val": 1}
    assert table.n_without_label == 1
    assert table.counts().counts.tolist() == [1, 1]
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "validation")
    image.save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"no image of .* lies in a folder"):
        read_folder_labels(tmp_path)


def test_tables_may_be_csv_or_parquet_and_their_numbers_are_labels(tmp_path):
    (tmp_path / "t.csv").write_text("key,label,split\nb,007,training\na,1,\nc,,val\na,1,\n", "utf-8")
    pq.write_table(pa.table({"key": ["b", "a"], "label": [7, 1]}), tmp_path / "t.parquet")
    table = read_label_table(tmp_path / "t.csv")
    assert table.keys.to_pylist() == ["a", "b"]
    assert [table.classes[label] for label in table.labels] == ["1", "007"]
    assert table.split_counts() == {"": 1, "train": 1}
    assert table.n_without_label == 1
    assert read_label_table(tmp_path / "t.parquet").classes == ("1", "7")


def test_relabelled_folders_give_their_new_classes(tmp_path):
    rows = {"row": [0, 1], "key": ["train/x", "val/y"], "before": ["a", "a"], "after": ["b", None]}
    pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    table = read_label_table(tmp_path)
    assert (table.keys.to_pylist(), table.classes, table.splits) == (["train/x"], ("b",), ("train",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key,label\na,1\na,2\n", "give 'a' two labels, '1' and '2'"),
        ("key,label,split\na,1,val\na,1,train\n", "two splits"),
        ("key,label\na,\n", "hold no label"),
        ("key,label\n", "hold no label"),
        ("", "can't be read"),
        ("key,lable\na,1\n", "no column 'label'; did you mean 'lable'"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, content, message):
    (tmp_path / "t.csv").write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        read_label_table(tmp_path / "t.csv")


def test_wrong_files_are_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"no table")
    (tmp_path / "t.txt").write_text("key,label\n", "utf-8")
    pq.write_table(pa.table({"key": ["a"], "label": [0.5]}), tmp_path / "half.parquet")
    for name in ("t.parquet", "t.txt", "half.parquet", "missing.csv"):
        with pytest.raises(InputError):
            read_label_table(tmp_path / name)
    for content in (
        "class,count\na,1.5\n",
        "class,count\na,-1\n",
        "class,count\na,x\n",
        "class,count\na,1\na,2\n",
        "class,count\n,2\n",
        "class,count\n",
    ):
        (tmp_path / "c.csv").write_text(content, "utf-8")
        with pytest.raises(InputError):
            read_counts(tmp_path / "c.csv")
    for content in ("class,accuracy\na,\n", "class,accuracy\na,1\na,2\n"):
        (tmp_path / "c.csv").write_text(content, "utf-8")
        with pytest.raises(InputError):
            read_accuracies(tmp_path / "c.csv")


def test_names_and_parameters_that_are_none_are_refused(tree):
    data = made_labels()
    for name, given, message in (
        ("imagenet21k-tinny", {}, "did you mean 'imagenet21k-tiny'"),
        ("window", {"sprea": 5}, "did you mean 'spread'"),
        ("coarse", {}, "needs a value for depth"),
        ("all", {"seed": 1}, "takes none"),
        ("odd", {"seed": -1}, "seed must be"),
        ("random", {"n_classes": 7}, "there are 6"),
        ("list", {}, "--classes"),
        ("imagenet21k", {}, "none of 6 labels"),
    ):
        with pytest.raises(InputError, match=message):
            build_benchmark(name, data, tree=tree if name == "coarse" else None, parameters=given)
    with pytest.raises(InputError, match="labels by key"):
        build_benchmark("relabelled", data.counts())
    with pytest.raises(InputError, match="none of the counted classes"):
        build_benchmark("imagenet21k", data.counts())


def test_every_entry_names_a_builder_its_parameters_and_its_classes():
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert set(entry.parameters) <= set(BUILDERS[entry.builder].parameters)
        assert entry.where
        if entry.classes:
            assert len(class_list(entry.classes)) == entry.published["n_classes"]


def test_data_on_disk_are_compared_with_what_was_published():
    sizes = {f"class {i}": 500 for i in range(10)}
    good = made_labels(sizes, n_val=0)
    test = LabelTable.from_columns(
        [f"test/{name}/{i}" for name in sizes for i in range(800)],
        [name for name in sizes for _ in range(800)],
        ["test"] * 8000,
    )
    both = joined(good, test)
    assert describe_benchmark("stl10", data=both)["on_disk"]["differences"] == []
    short = both.take(np.arange(len(both)) != len(both) - 1)
    assert describe_benchmark("stl10", data=short)["on_disk"]["differences"] == [
        "train: 5,000 images published, 4,999 here",
        "train: 500 images per class published, 499 to 500 here",
    ]
    assert describe_benchmark("stl10", data=good)["on_disk"]["differences"] == [
        "test: 8,000 images published, 0 here",
        "test: 800 images per class published, 0 to 0 here",
    ]
    assert "classes: 47 published, 10 here" in describe_benchmark("dtd", data=both)["on_disk"]["differences"]


def joined(*tables):
    columns = ([], [], [])
    for table in tables:
        columns[0].extend(table.keys.to_pylist())
        columns[1].extend(table.classes[label] for label in table.labels)
        columns[2].extend(table.splits[code] for code in table.split_codes)
    return LabelTable.from_columns(*columns)


def test_imagenet_21k_is_described_beside_what_was_published():
    found = describe_benchmark("imagenet21k")
    assert found["n_classes"] == 10_450
    assert abs(found["wordnet_leaf"] - 7353) <= 73
    assert found["class_leaf"] == found["published"]["class_leaf"] == 8153
    assert found["coarse"]["11"] == 10_450
    trees = found["trees"]
    assert set(trees) == {"published", "nearest-ancestor", "direct"}
    for name, one in trees.items():
        assert abs(one["class_leaf"] - 8153) <= 81
        counts = list(one["coarse"].values())
        assert list(one["coarse"]) == [str(depth) for depth in range(len(counts))]
        assert counts == sorted(counts)
        assert counts[0] == one["n_roots"]
        assert counts[-1] == 10_450
        assert len(counts) == (11 if name == "direct" else 12)


def test_one_step_up_in_wordnet_gives_the_published_counts():
    """All but that of Coarse(1), which is one class off."""
    found = describe_benchmark("imagenet21k")
    counts, published = found["coarse_one_step"], found["published"]["coarse"]
    assert len(published) == 9
    assert {d: counts[d] - n for d, n in published.items() if counts[d] != n} == {"1": 1}
    for depth in (2, 8):
        built = build_benchmark("imagenet21k-coarse", miniature(), parameters={"depth": depth})
        assert built.n_classes == counts[str(depth)]
        assert built.facts["differences"] == []
        assert built.facts["published"]["n_classes"] == built.n_classes


def test_builders_of_own_classes_are_described_without_a_comparison():
    for name in set(BUILDERS) - set(CATALOGUE):
        found = describe_benchmark(name, data=made_labels())
        assert "on_disk" not in found
        assert found["frequencies"]["n_samples"] == sum(SIZES.values())
        assert describe_benchmark(name)["builder"] == name


def test_own_trees_and_counts_are_described(tree):
    counts = ClassCounts(tuple(SIZES), np.array(list(SIZES.values())))
    found = describe_benchmark(data=counts, tree=tree)
    assert (found["n_classes"], found["class_leaf"]) == (6, 3)
    assert found["coarse"] == {"0": 2, "1": 5, "2": 6}
    assert found["frequencies"]["sets"]["huge"]["n_classes"] == 4
    assert describe_benchmark(tree=tree)["n_classes"] == 6
    with pytest.raises(InputError, match="counts or a tree"):
        describe_benchmark()
    json.dumps(found)


def miniature():
    """ImageNet-21K with at most 20 and 1 validation image per class, the tail of counts long."""
    ids = class_list("imagenet21k")
    sizes = np.minimum(1 + np.random.default_rng(0).pareto(1.0, len(ids)) * 2, 20).astype(int)
    rows = [f"train/{one}/{i}" for one, size in zip(ids, sizes.tolist(), strict=True) for i in range(size)]
    rows += [f"val/{one}/0" for one in ids]
    return LabelTable.from_columns(
        rows, [row.split("/")[1] for row in rows], [row.split("/")[0] for row in rows]
    )


@pytest.mark.slow
def test_every_benchmark_of_imagenet_21k_is_made_in_miniature(tmp_path):
    table, ids = miniature(), class_list("imagenet21k")
    rng = np.random.default_rng(1)
    models = [dict(zip(ids, rng.random(len(ids)).tolist(), strict=True)) for _ in range(3)]
    for name, entry in CATALOGUE.items():
        if entry.universe != "imagenet21k":
            continue
        given = {"top": models[:1], "union": models}.get(entry.builder, ())
        parameters = {"depth": 3} if entry.builder == "coarse" else {}
        found = build_benchmark(name, table, accuracies=given, parameters=parameters)
        found.save(tmp_path / name)
        assert is_benchmark(tmp_path / name)
        assert len(found.classes) == 10_450
        sizes = {name: one["n_samples"] for name, one in found.facts["result"]["splits"].items()}
        assert sum(sizes.values()) == found.labels.num_rows
        assert found.n_classes == len(set(found.labels["label"].to_pylist()))
        if entry.builder in ("all", "coarse", "ancestors"):
            assert found.labels.num_rows == len(table)
        if "n_classes" in entry.published and entry.builder in ("all", "class-leaf", "random", "top"):
            assert found.facts["differences"] == []
