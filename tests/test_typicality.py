"""Claims about closeness, typicality, strays and new kinds, beside plain NumPy."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

import kinfold
from kinfold.corrections import Confirm, Mark, Move, corrected_table
from kinfold.errors import FormatError, InputError
from kinfold.metrics import GroupRanks
from kinfold.run import Run
from kinfold.typicality import (
    TYPICALITY_FILES,
    Reference,
    Typicality,
    find_new_kinds,
    find_strays,
    read_reference,
)
from support.leveled import N_ROWS, K, correct, make_run, state_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("typicality"))


@pytest.fixture
def run(made, tmp_path):
    """A run of 600 digits in 8 groups; its features lie beside the original."""
    return Run.open(shutil.copytree(made.path, tmp_path / "run"))


def digits(start=0, stop=N_ROWS):
    return load_digits().data[start:stop].astype(np.float32)


def plain_closeness(X, Y=None):
    """Mean cosine to the five nearest others, in float64."""
    units, others = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (X, X if Y is None else Y))
    similarities = units.astype(np.float64) @ others.T.astype(np.float64)
    if Y is None:
        np.fill_diagonal(similarities, -np.inf)
    return np.sort(similarities, axis=1)[:, -5:].mean(axis=1)


def test_closeness_is_the_mean_cosine_to_the_five_nearest_others(run):
    np.testing.assert_allclose(run.closeness, plain_closeness(digits()), atol=1e-4)


def test_an_image_of_the_run_is_as_close_when_it_comes_again(run):
    known = Typicality.of(run, run.labels)
    np.testing.assert_allclose(known.reference.closeness(digits()), run.closeness, atol=1e-5)
    new = digits(700, 900)
    np.testing.assert_allclose(known.reference.closeness(new), plain_closeness(new, digits()), atol=1e-4)


def test_typicality_is_the_share_of_its_group_that_is_less_close(run):
    groups, closeness = run.labels, run.closeness
    for place in range(0, N_ROWS, 37):
        own = closeness[groups == groups[place]]
        missing = max(0, 100 - len(own))

        def share(others, value=closeness[place]):
            return (np.sum(others < value) + np.sum(others == value) / 2) / len(others)

        expected = (len(own) * share(own) + missing * share(closeness)) / (len(own) + missing)
        assert run.typicality[place] == pytest.approx(expected, abs=1e-6)


def test_the_table_of_the_run_has_the_typicality_of_the_groups_of_the_fit(made, run):
    stored = pq.read_table(run.path / "typicality.parquet")
    assert np.array_equal(stored["typicality"].to_numpy(), run.typicality)
    assert stored["key"].to_pylist() == run.assignments["key"].to_pylist()
    again = made.path.parent / "again"
    if not again.exists():
        again.mkdir()
        make_run(again)
    for name in TYPICALITY_FILES:
        assert (again / "run" / name).read_bytes() == (run.path / name).read_bytes()


def test_groups_of_a_level_are_ranked_among_themselves(run):
    stored, before = (run.path / "typicality.parquet").read_bytes(), run.typicality
    kinfold.level(run, 3)
    shown = Run.open(run.path)
    expected = GroupRanks.of(run.closeness, shown.labels).shares(run.closeness, shown.labels, members=True)
    assert np.array_equal(shown.typicality, expected)
    assert not np.array_equal(shown.typicality, before)
    assert (run.path / "typicality.parquet").read_bytes() == stored


def test_corrected_groups_are_ranked_as_they_are_and_marked_images_in_none(run):
    rows = run.assignments["row"].to_numpy()
    mine = rows[run.labels == 0]
    correct(run, Mark(mine[:3].tolist(), "noise"), Move(mine[3:20].tolist(), 1))
    state = state_of(run)
    table = corrected_table(Run.open(run.path), state)
    groups = np.where(state.marks == 0, state.labels, -1)
    found = table["typicality"].to_numpy()
    np.testing.assert_array_equal(found, run.typicality_in(groups))
    assert np.isnan(found[np.searchsorted(rows, mine[:3])]).all()
    assert table["typicality"].null_count == 3


def test_a_run_of_before_has_none_and_the_same_command_adds_it(made, tmp_path):
    home = tmp_path / "older"
    shutil.copytree(made.path.parent, home)
    run = kinfold.cluster(home / "digits.npy", K, method="kmeans", out=home / "older", report=False)
    whole = {name: (run.path / name).read_bytes() for name in TYPICALITY_FILES}
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["stages"]["typicality"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    for name in TYPICALITY_FILES:
        (run.path / name).unlink()
    correct(run, Confirm(run.assignments["row"].to_pylist()[:4]))
    older = Run.open(run.path)
    assert older.closeness is None
    assert older.typicality is None
    assert Typicality.of(older, older.labels) is None
    out = kinfold.export(older, "csv", tmp_path / "older.csv").path
    assert out.read_text().splitlines()[1].endswith(",")
    table = kinfold.predict(older, digits(700, 720), tmp_path / "older.parquet")
    assert table["typicality"].null_count == 20
    for ask in (
        lambda: kinfold.export(older, "csv", tmp_path / "strays.csv", strays=0.01),
        lambda: kinfold.predict(older, digits(700, 720), tmp_path / "strays.parquet", strays=0.01),
    ):
        with pytest.raises(InputError, match="kinfold cluster"):
            ask()
    kinfold.cluster(home / "digits.npy", K, method="kmeans", out=home / "older", report=False)
    newer = Run.open(run.path)
    assert {name: (run.path / name).read_bytes() for name in TYPICALITY_FILES} == whole
    assert np.array_equal(newer.labels, older.labels)
    assert state_of(newer).by_hand.sum() == 4


@pytest.mark.parametrize("name", TYPICALITY_FILES)
def test_damaged_files_are_told(run, name):
    content = bytearray((run.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / name).write_bytes(content)
    with pytest.raises(FormatError, match=name):
        Typicality.of(run, run.labels)
    (run.path / name).unlink()
    with pytest.raises(FormatError, match="missing"):
        Typicality.of(Run.open(run.path), run.labels)


def test_the_reference_is_bounded_and_every_part_is_in_it(monkeypatch):
    monkeypatch.setattr("kinfold.typicality.MOST_ROWS", 100)
    X = digits()
    parts = np.arange(N_ROWS) // 12 * 3  # numbers that nobody has lie between
    reference = Reference.draw(X, np.arange(N_ROWS) + 7, parts)
    assert len(reference.vectors) <= 100
    assert set(parts[reference.rows - 7]) == set(parts)
    units = X[reference.rows - 7] / np.linalg.norm(X[reference.rows - 7], axis=1, keepdims=True)
    np.testing.assert_allclose(reference.vectors.astype(np.float32), units, atol=1e-3)


@pytest.mark.parametrize("n_rows", [1, 2, 4])
def test_few_images_have_a_typicality_too(tmp_path, n_rows):
    np.save(tmp_path / "few.npy", digits(0, n_rows))
    run = kinfold.cluster(tmp_path / "few.npy", n_rows, method="kmeans", out=tmp_path / "run", report=False)
    assert len(run.typicality) == n_rows
    assert np.all((run.typicality > 0) & (run.typicality < 1))
    assert not find_strays(run.typicality, run.labels, 0.9).any()
    assert np.isfinite(
        kinfold.predict(run, digits(50, 60), tmp_path / "p.parquet")["typicality"].to_numpy()
    ).all()


def test_equal_images_are_equally_typical(tmp_path):
    np.save(tmp_path / "equal.npy", np.ones((150, 8), np.float32))
    run = kinfold.cluster(tmp_path / "equal.npy", 1, method="kmeans", out=tmp_path / "run", report=False)
    np.testing.assert_allclose(run.closeness, 1, atol=1e-6)
    assert np.array_equal(run.typicality, np.full(150, 0.5, np.float32))


def test_strays_are_the_least_typical_share_and_empty_no_group():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, -1], [500, 300, 3, 5])
    typicality = np.concatenate([(np.arange(500) + 0.5) / 500, rng.random(300), [0.001, 0.002, 0.004]])
    typicality = np.append(typicality, [0.0, np.nan, 0.1, 0.2, 0.3]).astype(np.float32)
    found = find_strays(typicality, groups, 0.01)
    assert np.array_equal(np.flatnonzero(found[:500]), np.arange(5))
    assert np.array_equal(found[500:800], typicality[500:800] < 0.01)
    assert not found[800:].any()  # a group that would be empty, and what is in none
    kept = np.zeros(len(groups), bool)
    kept[[0, 800]] = True
    found = find_strays(typicality, groups, 0.01, kept=kept)
    assert np.flatnonzero(found[:500]).tolist() == [1, 2, 3, 4]
    assert found[800:803].tolist() == [False, True, True]


def test_exports_leave_strays_in_no_group_but_for_what_people_placed(run, tmp_path):
    least = np.argsort(run.typicality)[:2]
    rows = run.assignments["row"].to_numpy()
    correct(run, Confirm([int(rows[least[0]])]))
    lines = Run.open(run.path)
    found = kinfold.export(lines, "parquet", tmp_path / "out.parquet", strays=0.02)
    table = pq.read_table(found.path)
    strays = np.array([mark == "stray" for mark in table["mark"].to_pylist()])
    expected = run.typicality < 0.02
    expected[least[0]] = False
    assert np.array_equal(strays, expected)
    assert strays.any()
    assert found.n_unsorted == strays.sum()
    assert np.array_equal(table["cluster"].to_numpy(), np.where(expected, -1, run.labels))
    with pytest.raises(InputError, match="strays"):
        kinfold.export(lines, "onnx", tmp_path / "out.onnx", strays=0.02)
    for wrong in (0, 1, "much"):
        with pytest.raises(InputError, match="strays"):
            kinfold.export(lines, "csv", tmp_path / "out.csv", strays=wrong)


def test_predictions_say_how_typical_new_images_are_and_what_belongs_nowhere(run, tmp_path):
    noise = np.random.default_rng(0).random((50, 64)).astype(np.float32)
    new = np.concatenate([digits(600, 1000), noise])
    table = kinfold.predict(run, new, tmp_path / "all.parquet")
    typicality = table["typicality"].to_numpy()
    assert typicality[400:].max() < 0.01
    assert np.mean(typicality[:400] < 0.01) < 0.1  # these digits have other writers
    closeness = plain_closeness(new, digits())
    inside = table["cluster"].to_numpy() == 3
    order = np.argsort(closeness[inside])
    assert (np.diff(typicality[inside][order]) >= -1e-6).all()
    found = kinfold.predict(run, new, tmp_path / "sure.csv", strays=0.01)
    assert np.array_equal(
        found["cluster"].to_numpy(), np.where(typicality < 0.01, -1, table["cluster"].to_numpy())
    )
    again = kinfold.predict(run, new, tmp_path / "sure.csv")  # replaces its own table
    assert again.equals(table)


def made_kinds(seed=0, n_new=40, dim=24):
    """Six kinds that a run knows, 120 images of each, 40 new ones of each, and one kind that it doesn't."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(7, dim))

    def draw(kind, n):
        return (centers[kind] + 0.45 * rng.normal(size=(n, dim))).astype(np.float32)

    old = np.concatenate([draw(kind, 120) for kind in range(6)])
    labels = np.repeat(np.arange(6), 120)
    new = np.concatenate([*(draw(kind, 40) for kind in range(6)), draw(6, n_new)])
    reference = Reference.draw(old, np.arange(len(old)), labels)
    ranks = GroupRanks.of(reference.closeness(old), labels)
    known = Typicality(reference, labels[reference.rows], ranks)
    nearest = np.argmax(new @ centers[:6].T / np.linalg.norm(centers[:6], axis=1), axis=1)
    return known, new, nearest


def test_a_new_kind_is_found_and_what_is_known_stays_where_it_is():
    known, new, groups = made_kinds()
    found = find_new_kinds(known, new, groups)
    assert len(found.sizes) == 1
    assert found.sizes == (int((found.labels == 0).sum()),)
    assert (found.labels[240:] == 0).mean() > 0.9
    assert (found.labels[:240] == 0).mean() <= 0.01
    again = find_new_kinds(known, new, groups)
    assert np.array_equal(again.labels, found.labels)
    assert np.array_equal(again.p_values, found.p_values)


@pytest.mark.parametrize("which", ["all", "one kind", "few", "none", "copies"])
def test_images_of_known_kinds_make_no_new_kind(which):
    known, new, groups = made_kinds(n_new=5)
    rows = {
        "all": np.arange(240),
        "one kind": np.arange(40),
        "few": np.arange(0, 240, 60),
        "none": np.arange(0),
        "copies": np.repeat([3], 9),
    }[which]
    found = find_new_kinds(known, new[rows], groups[rows])
    assert found.sizes == ()
    assert (found.labels == -1).all()
    assert len(found.p_values) == len(rows)


def test_fewer_than_the_least_size_are_no_kind():
    known, new, groups = made_kinds(n_new=12)
    assert len(find_new_kinds(known, new, groups, min_size=10).sizes) == 1
    assert find_new_kinds(known, new, groups, min_size=20).sizes == ()
    for wrong in ({"false_alarms": 0}, {"min_size": 1}):
        with pytest.raises(InputError):
            find_new_kinds(known, new, groups, **wrong)


def test_reference_rows_of_images_that_are_gone_are_in_no_group(run):
    assert read_reference(run) is not None
    known = Typicality.of(run, run.labels)
    assert np.array_equal(known.groups, run.labels)
    shorter = Run.open(run.path)
    vars(shorter)["assignments"] = run.assignments.slice(10)
    vars(shorter)["labels"] = run.labels[10:]
    assert (Typicality.of(shorter, shorter.labels).groups[:10] == -1).all()
    assert np.array_equal(shorter.closeness, run.closeness[10:])
