"""Claims about the file of a suite: what is wrong is said with its line and the nearest right word."""

from __future__ import annotations

import pytest

from kinfold.benchmark import list_suites, read_suite
from kinfold.benchmark._suite_results import check_methods, resolve_paths, select
from kinfold.errors import InputError
from support.suites import SUITE, write_suite


def reading(tmp_path, old, new):
    assert old in SUITE
    return read_suite(write_suite(tmp_path, SUITE.replace(old, new)))


def test_a_suite_says_what_its_file_says(tmp_path):
    suite = read_suite(write_suite(tmp_path))
    assert (suite.name, suite.title, suite.seeds, suite.metrics) == (
        "tiny",
        "Tiny",
        (0, 1),
        ("acc", "nmi", "ari"),
    )
    assert suite.methods["kmeans"].method == "kmeans"
    assert suite.benchmarks["four"].k is None
    assert suite.published[0].values == {"kmeans": 98.5}


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("seeds =", "seedz =", 4, "did you mean 'seeds'"),
        ("seeds = [0, 1]", "seeds = [0, 0]", 4, "twice"),
        ("seeds = [0, 1]", "seeds = 3", 4, "seeds must be a list of integers"),
        ('path = "made.npy"', 'paht = "made.npy"', 7, "did you mean 'path'"),
        ('path = "made.npy"', "", 6, "one of path, images and builtin"),
        ('path = "made.npy"', "path = 3", 7, "must be a string"),
        ('path = "made.npy"', 'builtin = "digitz"', 7, "digits"),
        ('path = "made.npy"', 'images = "photos"', 6, "belong together"),
        ("[methods.kmeans]", "[methods.kmeens]", 9, "did you mean 'kmeans'"),
        ('title = "k-means"', 'preset = ["a"]', 10, "must be a string"),
        ('title = "k-means"', 'benchmarks = ["fours"]', 10, "did you mean 'four'"),
        ('labels = "labels.csv"', "", 12, "labels is missing"),
        ('labels = "labels.csv"', 'labels = "x"\nk = 0', 14, "an integer of at least 1"),
        ('labels = "labels.csv"', 'labels = "x"\nk = [3, "all"]', 14, "an integer of at least 1"),
        ('labels = "labels.csv"', 'labels = "x"\nrows = 0', 14, "1 or more"),
        ('benchmark = "four"', 'benchmark = "for"', 17, "did you mean 'four'"),
        ('metric = "acc"', 'metric = "acd"', 18, "did you mean 'acc'"),
        ("kmeans = 98.5", "kmean = 98.5", 19, "did you mean 'kmeans'"),
        ("kmeans = 98.5", 'kmeans = "98.5"', 19, "must be a number"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(tmp_path, old, new, line, word):
    with pytest.raises(InputError) as caught:
        reading(tmp_path, old, new)
    assert f"tiny.toml, line {line}" in str(caught.value)
    assert word in str(caught.value)


def test_no_toml_no_text_and_no_file_are_told_apart(tmp_path):
    (tmp_path / "a.toml").write_text("name = ", encoding="utf-8")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"a\.toml is no valid TOML"):
        read_suite(tmp_path / "a.toml")
    with pytest.raises(InputError, match="UTF-8"):
        read_suite(tmp_path / "b.toml")
    with pytest.raises(InputError, match="did you mean 'digits'"):
        read_suite("digitz")


@pytest.mark.parametrize(
    ("method", "word"),
    [
        ('method = "temi"\nparameters = { n_haeds = 3 }', "did you mean 'n_heads'"),
        ('method = "temi"\nparameters = { beta = 5.0 }', "beta"),
        ('method = "temi"\npreset = "papper"', "did you mean 'paper'"),
        ('method = "temi"\nparameters = { n_clusters = 3 }', "no parameter 'n_clusters'"),
        ('method = "probe"\npreset = "paper"', "no preset"),
        ('method = "tac"', "text_model is missing"),
    ],
)
def test_parameters_are_checked_before_anything_is_read(tmp_path, method, word):
    with pytest.raises(InputError, match=word) as caught:
        check_methods(reading(tmp_path, 'title = "k-means"', method))
    assert "tiny.toml" in str(caught.value)


def test_only_keeps_a_kind_whole_of_which_nothing_is_named(tmp_path):
    suite = reading(
        tmp_path, "[benchmarks.four]", '[methods.temi]\n[benchmarks.five]\nlabels = "x"\n[benchmarks.four]'
    )
    chosen = select(suite, ["temi", "five"], [7])
    assert list(chosen.features) == ["made"]
    assert list(chosen.methods) == ["temi"]
    assert list(chosen.benchmarks) == ["five"]
    assert chosen.seeds == (7,)
    with pytest.raises(InputError, match="did you mean 'temi'"):
        select(suite, ["tem"], None)


def test_placeholders_are_filled_or_asked_for_with_the_note(tmp_path):
    suite = reading(tmp_path, 'path = "made.npy"', 'path = "${THERE}/made.npy"')
    filled = resolve_paths(suite, {"THERE": str(tmp_path)})
    assert filled.features["made"].path == str(tmp_path / "made.npy")
    assert filled.benchmarks["four"].labels == str(tmp_path / "labels.csv")
    with pytest.raises(InputError, match=r"\[features.made\] path needs the environment variable THERE"):
        resolve_paths(suite, {})


def test_every_shipped_suite_is_sound_and_says_what_it_needs():
    suites = list_suites()
    assert {"scaling", "icce", "tac", "wrong-k", "digits", "cifar10-mobilenetv2"} <= set(suites)
    for name in suites:
        suite = read_suite(name)
        check_methods(suite)
        assert suite.name == name
        assert suite.note


def test_published_figures_stand_where_the_papers_print_them():
    scaling = read_suite("scaling")
    found = {
        (one.source.rsplit(", ", 1)[1], one.benchmark, one.metric): one.values for one in scaling.published
    }
    assert found["Table 1", "imagenet1k", "acc"] == {
        "probe": 82.9,
        "kmeans": 62.72,
        "temi-1k": 66.4,
        "scan-1k": 69.79,
    }
    assert found["Table 5", "imagenet21k-coarse-1", "acc"]["kmeans"] == 19.44
    tac = {(one.benchmark, one.metric): one.values for one in read_suite("tac").published}
    assert tac["imagenet-dogs", "ari"] == {
        "kmeans": 20.1,
        "tac-no-train": 63.6,
        "tac": 72.2,
        "zero-shot": 58.2,
    }
    icce = {(one.benchmark, one.metric): one.values for one in read_suite("icce").published}
    assert icce["imagenet1k", "acc"]["icce"] == 70.36
    wrong = [(one.benchmark, one.k, dict(one.values)) for one in read_suite("wrong-k").published]
    assert ("imagenet-100", 120, {"icce": 92.26}) in wrong
