"""``kinfold relabel`` from the outside."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinfold.cli import _app
from kinfold.cli import relabel as command
from kinfold.language.relabel import RELABEL_RULES
from kinfold.pipeline import _classes, _relabel
from support import text_models


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """Features in the space of a small model, labels, and a tree of one's own."""
    home = tmp_path_factory.mktemp("ready")
    text_models.make_clip(home / "clip")
    np.save(home / "vectors.npy", np.random.default_rng(0).normal(size=(30, text_models.DIM)))
    rows = "".join(f"{row},{'animal' if row % 2 else 'dog'}\n" for row in range(28))
    (home / "labels.csv").write_text(f"key,label\n{rows}99,dog\n", encoding="utf-8")
    (home / "tree.csv").write_text("child,parent\nanimal,\ncat,animal\ndog,animal\n", encoding="utf-8")
    return home


def asked(home, out, *more):
    return (
        "relabel",
        home / "vectors.npy",
        "--labels",
        home / "labels.csv",
        "--tree",
        home / "tree.csv",
        "--text-model",
        home / "clip",
        "--out",
        out,
        *more,
    )


def test_relabel_prints_what_moved(ready, kinfold, tmp_path):
    result = kinfold(*asked(ready, tmp_path / "finer"))
    assert result.exit_code == 0, result.output
    assert "14 (100.0 % of these)" in result.stdout
    assert "siblings" in result.stdout
    found = kinfold(*asked(ready, tmp_path / "finer", "--json", "--rule", "parent", "--check-rows", 0))
    content = json.loads(found.stdout)
    assert content["relabeling"]["n_inner"] == 14
    assert content["labels"]["n_without_label"] == 2
    assert content["labels"]["labels_without_image"] == ["99"]
    assert content["checks"] == {"n_rows": 0}
    assert content["folder"] == str(tmp_path / "finer")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--rule", "leafs"), "did you mean 'leaf'"),
        (("--lemmas", "votes"), "did you mean 'vote'"),
        (("--names", "gone.csv"), "gone.csv"),
    ],
)
def test_mistakes_are_told_in_one_message(ready, kinfold, tmp_path, more, message):
    result = kinfold(*asked(ready, tmp_path / "finer", "--json", *more))
    assert result.exit_code == 2
    assert message in json.loads(result.stdout)["error"]
    assert not (tmp_path / "finer").exists()


def test_what_the_command_says_of_the_library_is_so():
    assert command.RULES == RELABEL_RULES
    assert set(command.LEMMAS) == set(_classes.LEMMA_RULES)
    assert _app.DEFAULT_JOINT_BACKBONE == _relabel.DEFAULT_JOINT_BACKBONE
    assert command.DEFAULT_CHECK_ROWS == _relabel.DEFAULT_CHECK_ROWS
