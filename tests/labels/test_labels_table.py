"""Files of labels, the classes that folders name, and label tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.errors import InputError
from kinfold.labels import JoinedLabels, LabelFile, LabelTable, join_truth, label_by_folder, read_labels

TINY_IMAGENET = [
    "train/n01443537/images/n01443537_0.JPEG",
    "train/n01629819/images/n01629819_7.JPEG",
    "val/n01443537/val_3.JPEG",
    "val/images/val_4.JPEG",
]


def arrow(names):
    return pa.array(names, pa.large_string())


def by_folder(names):
    labels, splits = label_by_folder(arrow(names), "x")
    return labels.to_pylist(), splits.to_pylist()


def test_the_class_in_tiny_imagenet_is_the_folder_above_images_wherever_labels_are_read():
    classes = ["n01443537", "n01629819", "n01443537"]
    assert by_folder(TINY_IMAGENET) == ([*classes, ""], ["train", "train", "val", "val"])
    rows = read_labels("folder", arrow(TINY_IMAGENET))
    assert [rows.values[code] for code in rows.codes] == [*classes, ""]
    truth = join_truth("folder", arrow(TINY_IMAGENET), several=False, where="x")
    assert [truth.classes[code] for code in truth.codes] == classes
    assert truth.n_without_label == 1
    table = LabelTable.from_folders(arrow(TINY_IMAGENET), "x")
    assert dict(
        zip(table.keys.to_pylist(), (table.classes[code] for code in table.labels), strict=True)
    ) == dict(zip(TINY_IMAGENET, classes, strict=False))
    assert table.split_counts() == {"train": 2, "val": 1}


@pytest.mark.parametrize(
    ("keys", "labels", "splits"),
    [
        (["cat/1.jpg", "dog/2.jpg"], ["cat", "dog"], [None, None]),
        (["a/b/1.jpg", "c.jpg", "d\ne/f.jpg"], ["b", "", "d\ne"], [None, None, None]),
        (["images/banded/1.jpg", "images/dotted/2.jpg"], ["banded", "dotted"], [None, None]),
        (["images/1.jpg", "images/2.jpg"], ["images", "images"], [None, None]),
        (["cat/Images/1.jpg"], ["cat"], [None]),
        (["Validation/cat/1.jpg", "train/dog/2.jpg"], ["cat", "dog"], ["val", "train"]),
        (["train/cat/1.jpg", "train/lost.jpg"], ["cat", ""], ["train", "train"]),
        (["train/1.jpg", "car/2.jpg", "train/images/3.jpg"], ["train", "car", "train"], [None, None, None]),
    ],
    ids=["plain", "deep and top", "below images", "only images", "case", "splits", "lost", "trains and cars"],
)
def test_the_class_is_the_nearest_folder_that_is_no_container_and_no_split(keys, labels, splits):
    assert by_folder(keys) == (labels, splits)


@pytest.mark.parametrize("keys", [["1.jpg"], ["train/1.jpg", "val/2.jpg"], ["train/images/1.jpg"], []])
def test_images_without_folders_of_classes_are_refused(keys):
    with pytest.raises(InputError, match="no image of here lies in a folder that names its class"):
        label_by_folder(arrow(keys), "here")


@pytest.mark.parametrize(
    "name", ["t.csv", "T.CSV", "t.tsv", "t.TSV", "t.parquet", "t.PARQUET", "t.pq", "t.txt"]
)
def test_the_suffix_says_the_format_in_upper_and_lower_case(tmp_path, name):
    rows = {"key": ["a", "b"], "label": ["x, y", "z"]}
    path = tmp_path / name
    if name.lower().endswith(("parquet", "pq")):
        pq.write_table(pa.table(rows), path)
    elif name.lower().endswith("tsv"):
        path.write_text("key\tlabel\na\tx, y\nb\tz\n", "utf-8")
    else:
        path.write_text('key,label\na,"x, y"\nb,z\n', "utf-8")
    assert LabelFile(path).table("label", "key").to_pydict() == {"label": rows["label"], "key": rows["key"]}
    assert LabelTable.read(path).classes == ("x, y", "z")
    assert join_truth(path, arrow(["a", "b"]), several=False, where="x").classes == ("x, y", "z")


def test_the_folder_that_relabelling_writes_gives_its_new_classes_everywhere(tmp_path):
    rows = {"key": ["a", "b"], "before": ["dog", "dog"], "after": ["poodle", None]}
    pq.write_table(pa.table(rows), tmp_path / "labels.parquet")
    assert LabelTable.read(tmp_path).classes == ("poodle",)
    assert join_truth(tmp_path, arrow(["a", "b"]), several=False, where="x").classes == ("poodle",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "no labels at"),
        ("t.csv", b"", "is empty and can't be read"),
        ("t.csv", b"\xff\xfe\x00", "no CSV or TSV in UTF-8"),
        ("t.parquet", b"no table", "no Parquet file"),
        ("t.csv", b"key,lable\na,1\n", "no column 'label'; did you mean 'lable'"),
    ],
    ids=["missing", "empty", "binary", "not Parquet", "misspelt"],
)
def test_files_that_hold_no_labels_are_refused_with_the_reason(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in (LabelTable.read, lambda one: read_labels(one, arrow([]))):
        with pytest.raises(InputError, match=message):
            read(path)


@pytest.mark.parametrize(
    "key", ["./a/1.png", "/a/1.png", "a\\1.png", "a//1.png", "x/../a/1.png", "file:///a/1.png"]
)
def test_labels_find_their_images_however_the_key_is_written(tmp_path, key):
    (tmp_path / "labels.csv").write_text(f"key,label\n{key},cat\n")
    images = pa.array(["a/1.png", "b.png"], pa.large_string())
    joined = JoinedLabels(tmp_path / "labels.csv", images, "here")
    assert joined.describe(np.arange(2))["n_matched"] == 1
    turned = JoinedLabels({"a/1.png": "cat"}, pa.array([key, "b.png"], pa.large_string()), "here")
    assert turned.describe(np.arange(2))["n_matched"] == 1


@pytest.mark.parametrize("name", ["l.pq", "L.PARQUET", "L.CSV", "l.tab", "l.TSV", "l.txt"])
@pytest.mark.parametrize("dialect", ["plain", "excel", "bare"])
def test_labels_are_read_as_people_save_them(tmp_path, name, dialect):
    path = tmp_path / name
    rows = [("1.png", "cat"), ("2.png", "dog")]
    if name.lower().endswith(("pq", "parquet")):
        kind = {"plain": pa.string(), "excel": pa.string_view(), "bare": pa.large_string()}[dialect]
        columns = [pa.array(column, kind) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(("key", "label"), columns, strict=True))), path)
    else:
        between = ";" if dialect == "excel" else "\t" if name.lower().endswith(("tab", "tsv")) else ","
        lines = [] if dialect == "bare" else [between.join(("key", "label"))]
        text = "\r\n".join([*lines, *map(between.join, rows)])
        path.write_bytes(text.encode("utf-16" if dialect == "excel" else "utf-8"))
    table = LabelTable.read(path)
    assert table.keys.to_pylist() == ["1.png", "2.png"]
    assert [table.classes[code] for code in table.labels] == ["cat", "dog"]


def test_keys_of_a_file_are_tidied_before_splits_and_repeats_are_looked_for(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("key,label\n./train/a.png,cat\ntrain\\b.png,dog\ntest//c.png,cat\ntrain/a.png,cat\n")
    table = LabelTable.read(file)
    assert table.keys.to_pylist() == ["test/c.png", "train/a.png", "train/b.png"]
    assert table.split_counts() == {"test": 1, "train": 2}
    file.write_text("key,label\n./a.png,cat\na.png,dog\n")
    with pytest.raises(InputError, match="two labels"):
        LabelTable.read(file)
