from __future__ import annotations

import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinfold.images import KeyList, decode_key, encode_key, natural_key
from kinfold.images._keys import unique_keys

percents = st.lists(
    st.sampled_from([b"%", b"%2", b"%25", b"%4", b"1", b"fF", b"\xff", b"\xc3", "é".encode()])
).map(b"".join)


@given(st.one_of(st.binary(), percents))
def test_every_name_comes_back_from_its_key(raw):
    key = encode_key(raw)
    assert decode_key(key) == raw
    assert key.encode("utf-8").decode("utf-8") == key


@given(st.one_of(st.binary(), percents))
def test_text_and_bytes_of_a_name_have_the_same_key(raw):
    assert encode_key(raw.decode("utf-8", "surrogateescape")) == encode_key(raw)


@given(st.lists(st.one_of(st.binary(max_size=4), percents), max_size=8))
def test_different_names_have_different_keys(names):
    assert len({encode_key(name) for name in names}) == len(set(names))


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b"plain.jpg", "plain.jpg"),
        (b"100%.jpg", "100%.jpg"),
        (b"50%of.jpg", "50%of.jpg"),
        (b"a%20b", "a%2520b"),
        (b"a%2Fb", "a%252Fb"),
        (b"a%zz", "a%zz"),
        ("ж 图 🐈\n".encode(), "ж 图 🐈\n"),
        (b"caf\xe9/\xff.png", "caf%E9/%FF.png"),
    ],
)
def test_keys_stay_readable(raw, key):
    assert encode_key(raw) == key


def test_lone_surrogates_of_windows_make_a_key():
    assert encode_key("a\ud800b").encode("utf-8")


def test_numbers_count_as_numbers_and_folders_stay_together():
    ordered = [
        "a/b.jpg",
        "a/c/1.jpg",
        "a b.jpg",
        "A1.jpg",
        "a1.jpg",
        "a02.jpg",
        "a2.jpg",
        "a10.jpg",
        "a010b/1.jpg",
        "b/99999999999999999999999999999999.jpg",
        "b/100000000000000000000000000000000.jpg",
        "B.jpg",
    ]
    mixed = ordered[::-1]
    assert sorted(mixed, key=natural_key) == ordered


@given(st.lists(st.text(max_size=8), max_size=10))
def test_the_natural_order_depends_on_the_keys_alone(keys):
    assert sorted(set(keys), key=natural_key) == sorted(sorted(set(keys)), key=natural_key)
    assert len({natural_key(key) for key in keys if "\x01" not in key}) == len(
        {k for k in keys if "\x01" not in k}
    )


@given(st.lists(st.text(), max_size=20))
def test_a_key_list_is_the_list(keys):
    packed = KeyList(keys)
    assert len(packed) == len(keys)
    assert list(packed) == keys
    assert packed == keys
    assert packed[:] == keys
    assert packed[::-2] == keys[::-2]
    assert [packed[-1 - i] for i in range(len(keys))] == keys[::-1]
    assert pickle.loads(pickle.dumps(packed)) == packed
    assert packed.to_arrow().to_pylist() == keys


def test_a_key_list_knows_its_end():
    packed = KeyList(["a", "b"])
    with pytest.raises(IndexError):
        packed[2]
    with pytest.raises(IndexError):
        packed[-3]
    assert packed != ["a"]
    assert packed != "ab"


def test_a_key_list_needs_little_more_than_the_text():
    keys = KeyList(f"class {i % 100}/image {i}.jpg" for i in range(100_000))
    assert len(pickle.dumps(keys)) < 100_000 * (24 + 8) + 1000


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2"])))
def test_repeated_names_become_different_and_the_first_keeps_its_own(names):
    unique = list(unique_keys(names))
    assert len(set(unique)) == len(names)
    assert all(new == old or new.startswith(f"{old}#") for new, old in zip(unique, names, strict=True))
    assert set(names) <= set(unique)


def test_repeats_are_counted():
    assert list(unique_keys(["a", "a", "b", "a"])) == ["a", "a#2", "b", "a#3"]


def test_a_name_that_the_system_gives_as_text_has_its_bytes_key():
    assert encode_key(os.fsdecode(b"caf\xe9")) == "caf%E9"
