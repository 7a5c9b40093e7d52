from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kinfold.errors import FormatError, InputError, NewerFormatError
from kinfold.language import (
    PLAIN,
    TEMPLATES,
    NounCache,
    cache_folder,
    embed_nouns,
    embed_words,
    load_text_encoder,
    nouns,
    open_nouns,
    prepare_nouns,
    read_words,
)
from kinfold.locks import lock_directory

WORDS = [f"{kind} {thing}" for kind in ("cat", "dog", "fox", "ship", "truck") for thing in "abcdef"]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(nouns, "_CHUNK", 4)


@pytest.fixture
def counted(encoder, monkeypatch):
    """Count the texts that the encoder reads."""
    read: list[int] = []
    encode = type(encoder).encode

    def count(self, texts, **options):
        read.append(len(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(type(encoder), "encode", count)
    return read


def test_a_word_is_the_unit_length_mean_of_its_prompts(encoder):
    got = embed_words(encoder, ["cat", "dog", "cat"])
    assert got.dtype == np.float32
    for row, word in zip(got, ["cat", "dog", "cat"], strict=True):
        raw = np.concatenate([encoder.encode([t.format(word)]) for t in TEMPLATES]).astype(np.float64)
        mean = raw.mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, rtol=1e-6)


def test_long_words_are_cut_as_the_tokenizer_does(encoder):
    long = "cat " * 50
    np.testing.assert_allclose(
        embed_words(encoder, [long], prompts=PLAIN),
        embed_words(encoder, [long + "dog"], prompts=PLAIN),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("words", [[], ["cat", ""], ["cat", " \n"], ["cat", None], "cat"])
def test_words_that_are_none_are_refused(encoder, words, cache):
    with pytest.raises(InputError):
        embed_words(encoder, words)
    with pytest.raises(InputError):
        embed_nouns(encoder, words, cache=cache)
    assert cache.list() == []


def test_features_without_direction_are_refused_and_not_kept(encoder, cache, monkeypatch):
    monkeypatch.setattr(
        type(encoder), "encode", lambda self, texts, **_: np.full((len(texts), self.dim), np.nan, np.float32)
    )
    with pytest.raises(InputError, match="no direction"):
        embed_nouns(encoder, ["cat"], cache=cache)
    assert not cache.list()[0].complete


def test_nouns_are_made_once_and_mapped_from_disk(encoder, cache, counted, small_chunks):
    first = embed_nouns(encoder, [*WORDS, *WORDS[:3]], cache=cache)
    assert first.nouns == tuple(WORDS)
    assert sum(counted) == len(WORDS) * len(TEMPLATES)
    assert isinstance(first.features, np.memmap)
    assert not first.features.flags.writeable
    np.testing.assert_allclose(first.features, embed_words(encoder, WORDS), rtol=1e-4, atol=1e-6)
    counted.clear()
    again = embed_nouns(encoder, WORDS, cache=cache)
    assert counted == []
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.features, first.features)
    assert sorted(file.name for file in first.path.iterdir()) == [
        "features.npy",
        "manifest.json",
        "words.json",
    ]
    assert json.loads((first.path / "words.json").read_text("utf-8")) == WORDS


def test_other_words_prompts_and_models_are_other_entries(models, encoder, cache):
    other = load_text_encoder(models["bert"][0], device="cpu", precision="float32")
    paths = {
        embed_nouns(encoder, WORDS[:3], cache=cache).path,
        embed_nouns(encoder, WORDS[:4], cache=cache).path,
        embed_nouns(encoder, WORDS[2::-1], cache=cache).path,
        embed_nouns(encoder, WORDS[:3], prompts=PLAIN, cache=cache).path,
        embed_nouns(other, WORDS[:3], cache=cache).path,
    }
    assert len(paths) == 5 == len(cache.list())


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from kinfold.language import NounCache, embed_nouns, load_text_encoder, nouns
nouns._CHUNK = 4
save, done = np.save, []
def save_and_die(stream, array, **options):
    if len(done) == 3:
        stream.write(b"half a part")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(1)
    save(stream, array, **options)
np.save = save_and_die
encoder = load_text_encoder(sys.argv[1], device="cpu", precision="float32")
embed_nouns(encoder, sys.argv[3].split(","), cache=NounCache(sys.argv[2]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_after_a_kill_only_what_is_missing_is_made(models, encoder, cache, counted, small_chunks, tmp_path):
    command = [sys.executable, "-c", CHILD, str(models["clip"][0]), str(cache.path), ",".join(WORDS)]
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    (entry,) = cache.list()
    assert (entry.n_done, entry.n_words, entry.complete) == (12, len(WORDS), False)
    assert list(entry.path.rglob(".partial-*"))
    resumed = embed_nouns(encoder, WORDS, cache=cache)
    assert resumed.path == entry.path
    assert sum(counted) == (len(WORDS) - 12) * len(TEMPLATES)
    whole = embed_nouns(encoder, WORDS, cache=NounCache(tmp_path / "other"))
    assert (resumed.path / "features.npy").read_bytes() == (whole.path / "features.npy").read_bytes()
    assert not list(entry.path.rglob(".partial-*"))
    assert cache.list()[0].complete


def test_damaged_parts_and_features_are_made_anew(encoder, cache, counted, small_chunks):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    whole = (path / "features.npy").read_bytes()
    (path / "features.npy").write_bytes(whole[:-5])
    counted.clear()
    embed_nouns(encoder, WORDS, cache=cache)
    assert (path / "features.npy").read_bytes() == whole
    assert sum(counted) == len(WORDS) * len(TEMPLATES)
    (path / "manifest.json").write_text("{")
    embed_nouns(encoder, WORDS, cache=cache)
    assert (path / "features.npy").read_bytes() == whole


def test_an_entry_of_a_newer_version_is_left_alone(encoder, cache):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["format_version"] = 99
    (path / "manifest.json").write_text(json.dumps(manifest))
    before = (path / "features.npy").stat().st_mtime_ns
    with pytest.raises(NewerFormatError):
        embed_nouns(encoder, WORDS, cache=cache)
    assert (path / "features.npy").stat().st_mtime_ns == before


def test_two_who_want_the_same_wait_for_each_other(encoder, cache, counted, small_chunks):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(embed_nouns(encoder, WORDS, cache=cache)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({features.fingerprint for features in found}) == 1
    assert sum(counted) == len(WORDS) * len(TEMPLATES)


def test_the_cache_is_listed_measured_and_cleared(models, encoder, cache):
    assert (cache.list(), cache.size, cache.clear()) == ([], 0, 0)
    other = load_text_encoder(models["bert"][0], device="cpu", precision="float32")
    embed_nouns(encoder, WORDS, cache=cache)
    embed_nouns(encoder, WORDS[:2], prompts=PLAIN, cache=cache)
    embed_nouns(other, WORDS[:5], cache=cache)
    mine = cache.path / "my own folder"
    mine.mkdir()
    (mine / "file").write_text("kept")
    entries = cache.list()
    assert [(e.model, e.n_words, e.n_prompts) for e in entries if e.model == "bert"] == [("bert", 5, 7)]
    assert {(e.n_words, e.n_prompts, e.complete) for e in entries if e.model == "clip"} == {
        (len(WORDS), 7, True),
        (2, 1, True),
    }
    on_disk = sum(f.stat().st_size for f in cache.path.rglob("*") if f.is_file() and f.parent != mine)
    assert cache.size == on_disk
    assert cache.clear(model="bert") == next(e.bytes for e in entries if e.model == "bert")
    assert {e.model for e in cache.list()} == {"clip"}
    with pytest.raises(InputError, match="no entry of 'bert'"):
        cache.clear(model="bert")
    one = cache.list()[0]
    assert cache.clear(one.name) == one.bytes
    assert len(cache.list()) == 1
    assert cache.clear(unfinished=True) == 0
    cache.clear()
    assert [path.name for path in cache.path.iterdir()] == ["my own folder"]
    assert (mine / "file").read_text() == "kept"


def test_damaged_entries_can_be_seen_and_cleared(encoder, cache):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    (path / "manifest.json").write_text("[]")
    (entry,) = cache.list()
    assert (entry.complete, entry.n_words, entry.bytes > 0) == (False, 0, True)
    assert cache.clear(unfinished=True) == entry.bytes
    assert not path.exists()


def test_an_entry_that_is_being_written_is_not_cleared(encoder, cache):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    with lock_directory(path), pytest.raises(InputError, match="being written"):
        cache.clear()
    assert cache.list()[0].complete


def test_the_user_says_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    assert NounCache().path == tmp_path / "here" / "nouns"
    monkeypatch.delenv("KINFOLD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "xdg" / "kinfold"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "kinfold"
    assert not (tmp_path / "here").exists()


def test_a_cache_that_can_not_be_written_says_so(encoder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match="KINFOLD_CACHE"):
        embed_nouns(encoder, WORDS, cache=NounCache(tmp_path / "file"))


def test_progress_counts_every_text_also_of_nouns_that_were_there(encoder, cache, small_chunks):
    moved = []

    class Bar:
        def task(self, description, total, unit=""):
            moved.append(("total", total))
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, n=1, **figures):
            moved.append(n)

    embed_nouns(encoder, WORDS, cache=cache, progress=Bar())
    (path,) = cache.path.iterdir()
    (path / "parts").mkdir()
    np.save(path / "parts" / "00000.npy", np.load(path / "features.npy")[:4])
    (path / "features.npy").unlink()
    embed_nouns(encoder, WORDS, cache=cache, progress=Bar())
    starts = [place for place, entry in enumerate(moved) if isinstance(entry, tuple)]
    for run in (moved[starts[0] : starts[1]], moved[starts[1] :]):
        assert run[0] == ("total", len(WORDS) * len(TEMPLATES)) == ("total", sum(run[1:]))
        assert len(run) > 5


def test_without_a_list_the_nouns_are_those_of_wordnet(encoder, cache, monkeypatch):
    from kinfold.hierarchy import load_wordnet

    strings = load_wordnet().nouns().strings
    assert nouns._wordnet_nouns() == strings
    assert len(strings) == 119_034
    monkeypatch.setattr(nouns, "_wordnet_nouns", lambda: strings[::10_000])
    assert embed_nouns(encoder, cache=cache).nouns == strings[::10_000]


def test_prepared_nouns_know_what_is_missing_before_and_after(encoder, cache, small_chunks):
    prepared = prepare_nouns(encoder, [*WORDS, WORDS[0]], cache=cache)
    assert prepared.words == tuple(WORDS)
    assert prepared.count_texts() == len(WORDS) * len(TEMPLATES)
    assert cache.list() == []  # nothing was written by asking
    found = prepared.embed()
    assert prepared.count_texts() == 0
    assert (found.path, found.nouns) == (prepared.path, prepared.words)
    assert prepare_nouns(encoder, WORDS, cache=cache).fingerprint == prepared.fingerprint
    assert prepare_nouns(encoder, WORDS, prompts=PLAIN, cache=cache).fingerprint != prepared.fingerprint


def test_an_entry_opens_by_its_folder_alone(encoder, cache):
    made = embed_nouns(encoder, WORDS, cache=cache)
    opened = open_nouns(made.path)
    assert (opened.nouns, opened.fingerprint) == (made.nouns, made.fingerprint)
    np.testing.assert_array_equal(opened.features, made.features)


def test_one_changed_byte_is_noticed_and_made_anew(encoder, cache):
    made = embed_nouns(encoder, WORDS, cache=cache)
    expected, file = np.array(made.features), made.path / "features.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError, match=r"features\.npy is damaged"):
        open_nouns(made.path)
    np.testing.assert_array_equal(embed_nouns(encoder, WORDS, cache=cache).features, expected)
    np.testing.assert_array_equal(open_nouns(made.path).features, expected)


@pytest.mark.parametrize("damage", ["no folder", "words", "unfinished"])
def test_an_entry_that_is_not_whole_does_not_open(encoder, cache, damage):
    path = embed_nouns(encoder, WORDS, cache=cache).path
    if damage == "no folder":
        path = path.with_name("0" * 32)
    elif damage == "words":
        (path / "words.json").write_text('["other"]')
    else:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "features_sha256": None}))
    with pytest.raises(FormatError):
        open_nouns(path)


@pytest.mark.parametrize("content", [None, '["other"]', '["half', ""])
def test_lost_or_damaged_words_are_written_anew_and_no_text_is_read_again(encoder, cache, counted, content):
    made = embed_nouns(encoder, WORDS, cache=cache)
    file, n_read = made.path / "words.json", sum(counted)
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_text(content)
    again = embed_nouns(encoder, WORDS, cache=cache)
    assert file.read_bytes() == whole
    assert sum(counted) == n_read
    np.testing.assert_array_equal(open_nouns(again.path).features, made.features)


def test_words_are_lines_without_the_space_around_them(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffdog\r\n\n  sea urchin \n\t\nÉclair\ndog".encode())
    assert read_words(file) == ("dog", "sea urchin", "Éclair", "dog")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00", b"a\0b\n"])
def test_what_is_no_list_of_words_is_refused_by_name(tmp_path, content):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"words\.txt"):
        read_words(file)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        read_words(tmp_path / "none.txt")
