"""``kinfold benchmark`` from the outside."""

from __future__ import annotations

import json

import pytest

from kinfold.benchmark import BUILDERS, CATALOGUE, list_suites
from kinfold.cli import benchmark as command
from kinfold.hierarchy._class_tree import RULES


def found(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def home(tmp_path):
    rows = [
        f"{split}/{name}/{i}.png,{name}"
        for split, n in (("train", 4), ("val", 2))
        for name in "abc"
        for i in range(n)
    ]
    (tmp_path / "labels.csv").write_text("key,label\n" + "\n".join(rows) + "\n", "utf-8")
    (tmp_path / "tree.csv").write_text("child,parent\na,\nb,a\nc,a\n", "utf-8")
    (tmp_path / "counts.csv").write_text("class,count\na,5\nb,7\nc,70\n", "utf-8")
    return tmp_path


def test_the_options_are_those_of_the_library():
    assert set(command.RULES) == set(RULES)


def test_all_benchmarks_and_builders_are_listed(kinfold):
    listed = found(kinfold("benchmark", "list", "--json"))
    assert [one["name"] for one in listed["benchmarks"]] == list(CATALOGUE)
    assert [one["name"] for one in listed["builders"]] == list(BUILDERS)
    assert [one["name"] for one in listed["suites"]] == list(list_suites())
    shown = kinfold("benchmark", "list").stdout
    assert all(name in shown for name in (*CATALOGUE, *BUILDERS, *list_suites()))


def test_imagenet_21k_is_described_with_the_promised_names(kinfold):
    told = found(kinfold("benchmark", "describe", "imagenet21k", "--json"))
    assert told["n_classes"] == 10_450
    assert abs(told["wordnet_leaf"] - 7353) <= 73
    assert abs(told["class_leaf"] - 8153) <= 81
    assert told["coarse"][str(len(told["coarse"]) - 1)] == 10_450
    shown = kinfold("benchmark", "describe", "imagenet21k").stdout
    assert "8,153 (published 8,153)" in shown
    assert "nearest-ancestor" in shown
    direct = found(
        kinfold("benchmark", "describe", "imagenet21k", "--tree", "wordnet", "--rule", "direct", "--json")
    )
    assert direct["coarse"] == told["trees"]["direct"]["coarse"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CATALOGUE))
def test_every_benchmark_can_be_described(kinfold, name):
    assert kinfold("benchmark", "describe", name).stdout.startswith("name")


def test_a_benchmark_of_own_classes_is_built_and_described(kinfold, home):
    out = home / "coarse"
    words = ("--labels", home / "labels.csv", "--tree", home / "tree.csv", "--set", "depth=0", "--out", out)
    built = found(kinfold("benchmark", "build", "coarse", *words, "--json"))
    assert built["result"]["n_classes"] == 1
    assert built["result"]["splits"]["val"]["n_samples"] == 6
    assert found(kinfold("benchmark", "describe", out, "--json"))["result"] == built["result"]
    assert "1 of 3" in kinfold("benchmark", "describe", out).stdout
    told = found(
        kinfold(
            "benchmark", "describe", "--tree", home / "tree.csv", "--counts", home / "counts.csv", "--json"
        )
    )
    assert (told["class_leaf"], told["coarse"]) == (2, {"0": 1, "1": 3})
    assert "by frequency" in kinfold("benchmark", "describe", "--counts", home / "counts.csv").stdout


def test_counts_alone_give_the_classes(kinfold, home):
    built = found(
        kinfold("benchmark", "build", "window", "--counts", home / "counts.csv", "-o", home / "w", "--json")
    )
    assert built["result"]["n_classes"] == 1
    assert not (home / "w" / "labels.parquet").exists()


def test_what_was_built_is_what_evaluate_reads(kinfold, run, photos, tmp_path):
    out = tmp_path / "whole"
    kinfold("benchmark", "build", "all", "--labels", photos / "labels.csv", "--out", out, "--quiet")
    figures = [
        found(kinfold("evaluate", run, "--labels", labels, "--json"))
        for labels in (photos / "labels.csv", out / "labels.parquet")
    ]
    assert figures[0]["accuracy"] == figures[1]["accuracy"] == 1
    assert figures[0]["n_matched"] == figures[1]["n_matched"] == 30


def test_groups_of_a_run_are_a_histogram(kinfold, run):
    told = found(kinfold("benchmark", "describe", "--labels", run, "--json"))
    assert (told["n_classes"], told["frequencies"]["n_samples"]) == (3, 30)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "all", "--out", "x"), "--source, --labels"),
        (("build", "imagenet21k-tinny", "--out", "x", "--counts", "c.csv"), "imagenet21k-tiny"),
        (("build", "all", "--out", "x", "--counts", "c.csv"), "there are no counts at c.csv"),
        (("build", "all", "--out", "x", "--counts", "c.csv", "--labels", "l.csv"), "give one of"),
        (("describe",), "--counts, --tree"),
        (("describe", "nothing"), "no benchmark 'nothing'"),
        (("describe", "--tree", "tree.txt"), "must end in"),
    ],
)
def test_what_cannot_be_done_is_said(kinfold, words, message):
    result = kinfold("benchmark", *words)
    assert result.exit_code == 2
    assert message in result.output
