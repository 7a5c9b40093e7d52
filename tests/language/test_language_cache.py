from __future__ import annotations

import json

import numpy as np
import pytest

from kinfold.errors import InputError
from kinfold.language import embed_nouns
from kinfold.language.cache import NounEntry

WORDS = [f"{kind} {letter}" for kind in ("cat", "dog") for letter in "abc"]


def change(path, **entries):
    """Write a manifest with other entries; those of ``key`` are its own."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["key"].update(entries.pop("key", {}))
    (path / "manifest.json").write_text(json.dumps({**manifest, **entries}))


@pytest.mark.parametrize(
    "entries",
    [
        {"key": {"n_words": "six"}},
        {"key": {"n_words": None}},
        {"key": {"prompts": 3}},
        {"key": {"chunk": []}},
        {"model": None},
        {"features_sha256": 3},
    ],
)
def test_an_entry_whose_manifest_holds_other_types_is_damaged(encoder, cache, entries):
    made = embed_nouns(encoder, WORDS, cache=cache)
    embed_nouns(encoder, WORDS[:2], cache=cache)
    change(made.path, **entries)
    assert sorted(entry.complete for entry in cache.list()) == [False, True]
    assert embed_nouns(encoder, WORDS, cache=cache).fingerprint == made.fingerprint
    assert all(entry.complete for entry in cache.list())


@pytest.mark.parametrize("begin", [b"PK\x03\x04", b"\x80\x04", b""])
def test_features_that_are_another_kind_of_file_are_made_anew(encoder, cache, begin):
    made = embed_nouns(encoder, WORDS, cache=cache)
    values = np.array(made.features)
    (made.path / "features.npy").write_bytes(begin + b"\0" * 100)
    np.testing.assert_array_equal(embed_nouns(encoder, WORDS, cache=cache).features, values)


def test_an_entry_that_is_cleared_while_it_is_read_was_read_whole(encoder, cache, monkeypatch):
    made = embed_nouns(encoder, WORDS, cache=cache)
    read = NounEntry.read

    def read_then_clear(self):
        found = read(self)
        cache.clear()
        return found

    monkeypatch.setattr(NounEntry, "read", read_then_clear)
    again = embed_nouns(encoder, WORDS, cache=cache)
    assert (again.fingerprint, len(again.features)) == (made.fingerprint, len(WORDS))


def test_files_that_go_while_they_are_listed_count_nothing(encoder, cache, monkeypatch):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    gone = path / ".partial-features.npy"
    found = type(path).rglob
    monkeypatch.setattr(type(path), "rglob", lambda self, pattern: [*found(self, pattern), gone])
    (entry,) = cache.list()
    assert entry.bytes == sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize("words", [{"cat", "dog"}, {"cat": 1}, iter(["cat"]), None, 3, ["a \ud800"]])
def test_words_without_order_or_of_half_characters_are_refused_before_any_entry(encoder, cache, words):
    for embed in (encoder.encode, lambda words: embed_nouns(encoder, words, cache=cache)):
        if words is not None or embed == encoder.encode:  # None asks for WordNet's nouns
            with pytest.raises(InputError):
                embed(words)
    assert cache.list() == []


def test_the_beginning_of_a_name_clears_the_one_entry_that_has_it(encoder, cache):
    names = sorted(embed_nouns(encoder, [f"noun {n}"], cache=cache).path.name for n in range(20))
    twice = next(letter for letter in "0123456789abcdef" if sum(n[0] == letter for n in names) > 1)
    with pytest.raises(InputError, match="several entries"):
        cache.clear(twice)
    assert len(cache.list()) == 20
    cache.clear(names[0][:12])
    assert [entry.name for entry in cache.list()] == names[1:]


def test_an_entry_that_is_not_there_is_told_even_where_only_unfinished_ones_are_cleared(encoder, cache):
    name = embed_nouns(encoder, WORDS, cache=cache).path.name
    assert cache.clear(name, unfinished=True) == 0  # it is there, and finished
    for asked in ({"name": "f" * 32}, {"model": "another"}):
        with pytest.raises(InputError, match="has no entry"):
            cache.clear(**asked, unfinished=True)
    assert [entry.name for entry in cache.list()] == [name]
