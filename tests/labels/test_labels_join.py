"""Labels joined by columns are those that a dictionary by key would give, whatever the files look like."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.errors import InputError
from kinfold.labels import JoinedLabels, LabelRows, join_truth, read_labels

KEYS = [f"{number}.png" for number in range(8)]
keys = st.sampled_from([*KEYS, "elsewhere.png", "nowhere.png"])
labels = st.sampled_from(["ant", "bee", "cat", "", "  ", None])
images = st.lists(st.sampled_from(KEYS), min_size=1, max_size=8, unique=True)


def arrow(names):
    return pa.array(names, pa.large_string())


def is_label(label):
    return label is not None and bool(label.strip())


def write(folder, rows, name="label"):
    path = folder / "labels.parquet"
    pq.write_table(pa.table({"key": [key for key, _ in rows], name: [one for _, one in rows]}), path)
    return path


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(keys, labels, min_size=1), images, st.randoms())
def test_one_label_each_is_that_of_a_dictionary(tmp_path_factory, known, names, random):
    rows = list(known.items()) * 2  # what is said twice alike is said once
    random.shuffle(rows)
    path = write(tmp_path_factory.mktemp("rows"), rows)
    expected = {key: label for key, label in known.items() if is_label(label)}
    matched = [name for name in names if name in expected]
    if not matched:
        with pytest.raises(InputError, match=r"no label is about|holds no labels"):
            join_truth(path, arrow(names), several=False, where="x")
        return
    truth = join_truth(path, arrow(names), several=False, where="x")
    assert [names[row] for row in truth.rows] == matched
    assert [truth.classes[code] for code in truth.codes] == [expected[name] for name in matched]
    assert truth.classes == tuple(sorted({expected[name] for name in matched}))
    assert truth.n_without_label == len(names) - len(matched)
    assert truth.n_without_image == len(set(expected) - set(names))
    assert set(truth.labels_without_image) <= set(expected) - set(names)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(keys, st.lists(labels, max_size=3)), min_size=1, max_size=12), images)
def test_several_labels_are_those_of_a_dictionary_of_lists(tmp_path_factory, rows, names):
    expected: dict[str, list[str]] = {}
    for key, some in rows:
        if kept := [label for label in some if is_label(label)]:
            expected[key] = list(dict.fromkeys([*expected.get(key, []), *kept]))
    if not set(expected) & set(names):
        return
    path = tmp_path_factory.mktemp("lists") / "labels.parquet"
    column = pa.array([some for _, some in rows], pa.list_(pa.string()))
    pq.write_table(pa.table({"key": [key for key, _ in rows], "label": column}), path, row_group_size=3)
    truth = join_truth(path, arrow(names), several=False, where="x")
    assert truth.codes is None
    matched = [name for name in names if name in expected]
    assert [names[row] for row in truth.rows] == matched
    owners, codes = truth.sets.take(np.arange(len(matched)))
    for place, name in enumerate(matched):
        assert [truth.sets.labels[code] for code in codes[owners == place]] == expected[name]
    assert truth.classes == tuple(sorted({label for name in matched for label in expected[name]}))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([3, 1, None], pa.int16()), {0: 3, 1: 1}),
        (pa.array([2.5, float("nan"), None]), {0: 2.5}),
        (pa.array(["b", None, "a"]).dictionary_encode(), {0: "b", 2: "a"}),
        (pa.array([True, False, None]), {0: True, 1: False}),
        (pa.array(["b", " ", "a"], pa.large_string()), {0: "b", 2: "a"}),
    ],
    ids=["whole numbers", "floats", "dictionary", "truths", "large texts"],
)
def test_labels_of_every_type_keep_their_values(tmp_path, column, expected):
    pq.write_table(pa.table({"key": pa.array([10, 11, 12]), "label": column}), tmp_path / "labels.parquet")
    truth = join_truth(tmp_path / "labels.parquet", arrow(["10", "11", "12"]), several=False, where="x")
    found = dict(zip(truth.rows.tolist(), (truth.classes[code] for code in truth.codes), strict=True))
    assert found == expected


def test_images_of_one_key_all_get_its_label():
    truth = join_truth({"a": 1, "b": 2}, arrow(["a", "b", "a"]), several=False, where="x")
    assert truth.codes.tolist() == [0, 1, 0]


def test_keys_of_a_mapping_that_become_one_text_must_agree():
    assert join_truth({1: "x", "1": "x"}, arrow(["1"]), several=False, where="y").classes == ("x",)
    with pytest.raises(InputError, match="the mapping gives '1' two labels, 'x' and 'y'"):
        join_truth({1: "x", "1": "y"}, arrow(["1"]), several=False, where="y")


def test_labels_that_are_no_label_are_refused():
    with pytest.raises(InputError, match="can't be compared"):
        join_truth({"a": {"b": 1}}, arrow(["a"]), several=False, where="x")
    with pytest.raises(InputError, match="no Unicode string"):
        join_truth({"\ud800": "b"}, arrow(["a"]), several=False, where="x")


def test_short_long_and_blank_lines_of_a_csv_are_read_as_they_are(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('label,key,more\n\nant,1.png,x,y,z\nbee\n"c\nat",2.png\n', encoding="utf-8")
    found = read_labels(path, arrow([]))
    assert found.keys.to_pylist() == ["1.png", "", "2.png"]
    assert [found.values[code] for code in found.codes] == ["ant", "bee", "c\nat"]


def test_folders_are_the_last_part_of_what_lies_above():
    found = read_labels("folder", arrow(["a/b/1.png", "c/2.png", "3.png", "d\ne/4.png"]))
    assert [found.values[code] for code in found.codes] == ["b", "c", "", "d\ne"]


def test_rows_of_joined_labels_are_numbered_as_asked():
    joined = JoinedLabels({"b": 10, "a": "x", "z": "only here", "c": ""}, arrow(["a", "b", "c", "d"]), "y")
    assert joined.distinct == ("10", "only here", "x")
    numbers = np.array([7, 8, 9], dtype=np.int32)
    assert joined.of_rows(np.array([3, 1, 0, 2]), numbers).tolist() == [-1, 7, 9, -1]
    described = joined.describe(np.array([0, 2, 3]))
    assert (described["n_matched"], described["n_without_label"], described["n_without_image"]) == (1, 2, 2)
    assert described["labels_without_image"] == ["b", "z"]


def test_many_keys_find_their_places_in_any_order():
    n = 200_000
    numbers = pa.array(np.arange(n)).cast(pa.large_string())
    rows = LabelRows.from_columns(numbers, np.arange(n, dtype=np.int32) % 7, tuple("abcdefg"))
    assert rows.owners.dtype == np.int32
    np.testing.assert_array_equal(rows.places_of(numbers[::-1]), np.arange(n)[::-1])
    assert rows.one_each("x").tolist()[:8] == [0, 1, 2, 3, 4, 5, 6, 0]
