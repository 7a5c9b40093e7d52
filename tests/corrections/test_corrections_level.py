"""Claims about corrections at several levels: what is the same group keeps them, nothing is ever lost."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinfold.corrections import (
    Accept,
    Confirm,
    Corrections,
    Lock,
    Mark,
    Merge,
    Move,
    Rename,
    Split,
    switch_level,
)
from kinfold.errors import FormatError, InputError
from kinfold.levels import match_groups, open_levels
from kinfold.run import Run, read_manifest, write_manifest, write_table
from kinfold.storage import hash_file
from support.leveled import K, correct, make_run, state_of

FINER = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("leveled"))


@pytest.fixture
def run(made, tmp_path):
    shutil.copy(made.path.parent / "digits.npy", tmp_path)
    run = Run.open(shutil.copytree(made.path, tmp_path / "run"))
    file = run.path / "manifest.json"
    file.write_text(file.read_text().replace(str(made.path.parent), str(tmp_path)))
    return Run.open(run.path)


@pytest.fixture(scope="module")
def groups(made):
    """Two groups that are the same at both levels, one that is divided, and the numbers at the finer one."""
    same = match_groups(open_levels(made).levels, K, FINER).same
    kept = sorted(same)
    divided = next(group for group in range(K) if group not in same)
    return kept[0], kept[1], divided, same


def members(run, group):
    return run.assignments["row"].to_numpy()[run.labels == group]


def test_names_of_unchanged_groups_stay_and_the_others_are_there_again(run, groups):
    one, other, divided, same = groups
    correct(run, Rename(one, "one"), Rename(divided, "divided"))
    change = switch_level(run.path, FINER)
    assert (dict(change.carried), dict(change.left)) == ({"names": 1}, {"names": 1})
    names = {group.id: group.name for group in state_of(run).groups.values() if group.name}
    assert names == {same[one]: "one"}
    correct(run, Rename(same[one], "renamed there"), Rename(same[other], "other"))
    back = switch_level(run.path, None)
    assert back.restored
    state = state_of(run)
    assert (state.groups[one].name, state.groups[other].name) == ("renamed there", "other")
    assert state.groups[divided].name == "divided"


def test_going_to_and_fro_makes_no_edits(run, groups):
    one, other, divided, _ = groups
    rows = members(run, one)
    correct(run, Rename(one, "one"), Lock([other]), Mark(rows[:2], "noise"), Confirm(rows[2:4]))
    correct(run, Rename(divided, "divided"))
    switch_level(run.path, FINER)
    before = state_of(run).version
    for _ in range(2):
        assert not switch_level(run.path, None).carried
        assert not switch_level(run.path, FINER).carried
    assert state_of(run).version == before


def test_marks_locks_and_images_placed_by_hand_are_carried(run, groups):
    one, other, divided, same = groups
    first, second, third = (members(run, group) for group in (one, other, divided))
    correct(
        run,
        Mark(first[:2], "wrong"),
        Mark(third[:1], "noise"),
        Mark(third[1:3], "wrong"),
        Move(first[2:4], other),
        Confirm(second[:3]),
        Move(third[3:5], one),
        Accept(first[4:6], [other, other]),
        Move(first[6:7], divided),
        Lock([one]),
    )
    change = switch_level(run.path, FINER)
    assert dict(change.carried) == {"locks": 1, "marks": 3, "moves": 7, "proposals": 2}
    assert dict(change.left) == {"marks": 2, "moves": 1}
    state, rows = state_of(run), run.assignments["row"].to_numpy()
    find = partial(np.isin, rows)
    assert state.marks[find(first[:2])].tolist() == [1, 1]
    assert state.marks[find(third[:1])].tolist() == [2]
    assert not state.marks[find(third[1:3])].any()
    assert set(state.labels[find(first[2:6])].tolist()) == {same[other]}
    assert set(state.labels[find(third[3:5])].tolist()) == {same[one]}
    assert state.by_hand[find(second[:3])].all()
    assert not state.by_hand[find(first[4:6])].any()
    assert state.groups[same[one]].locked


def test_images_placed_into_a_part_are_in_the_whole_at_a_coarser_level(run, groups):
    _, _, divided, same = groups
    whole = run.labels == divided
    switch_level(run.path, FINER)
    fine = Run.open(run.path)
    parts = sorted(set(fine.labels[whole].tolist()))
    strangers = members(fine, same[groups[0]])[:2]
    correct(fine, Move(strangers, parts[0]))
    assert switch_level(run.path, None).carried == {"moves": 2}
    state, rows = state_of(run), run.assignments["row"].to_numpy()
    assert set(state.labels[np.isin(rows, strangers)].tolist()) == {divided}


def test_what_was_undone_or_taken_back_elsewhere_does_not_return(run, groups):
    one, other, _, same = groups
    rows = members(run, one)
    correct(run, Rename(one, "one"), Mark(rows[:2], "noise"), Lock([other]))
    switch_level(run.path, FINER)
    correct(run, Rename(same[one], None), Mark(rows[:1], None), Lock([same[other]], locked=False))
    with Corrections.open(Run.open(run.path)) as corrections:
        corrections.apply(Rename(same[other], "a mistake"), client="somebody")
        corrections.undo("somebody")
    switch_level(run.path, None)
    state = state_of(run)
    assert [state.groups[group].name for group in (one, other)] == [None, None]
    assert not state.groups[other].locked
    assert (state.marks != 0).sum() == 1


def test_merges_splits_and_new_groups_stay_with_their_level(run, groups):
    one, other, divided, same = groups
    rows = members(run, one)
    correct(run, Rename(one, "one"), Merge([other], one), Split(divided, 2), Move(rows[:3], None, name="new"))
    before = state_of(run)
    change = switch_level(run.path, FINER)
    assert dict(change.left) == {"groups": 1, "merges": 1, "moves": 3, "names": 1, "splits": 1}
    assert not change.carried
    assert state_of(run).version == 0
    correct(run, Rename(same[one], "only one"))
    assert switch_level(run.path, K).left == {"names": 1}
    after = state_of(run)
    assert after.version == before.version
    assert after.groups == before.groups
    np.testing.assert_array_equal(after.labels, before.labels)


def test_groups_that_are_locked_at_one_level_alone_are_not_touched(run, groups):
    one, _, divided, same = groups
    rows = members(run, divided)
    switch_level(run.path, FINER)
    fine = Run.open(run.path)
    part = int(fine.labels[run.assignments["row"].to_numpy() == rows[0]][0])
    inside = [row for row in members(fine, part) if row in set(rows.tolist())]
    correct(fine, Lock([part]))
    assert switch_level(run.path, None).left == {"locks": 1}
    correct(run, Move(inside[:2], one), Mark(inside[2:3], "noise"))
    change = switch_level(run.path, FINER)
    assert (dict(change.carried), dict(change.left)) == ({}, {"marks": 1, "moves": 2})
    state = state_of(run)
    assert state.groups[part].locked
    assert not state.marks.any()
    assert not state.groups[same[one]].locked


def test_three_levels_agree_on_the_latest_name(run, groups):
    one, _, _, same = groups
    correct(run, Rename(one, "first"))
    levels = open_levels(run).levels
    switch_level(run.path, FINER)
    matched = match_groups(levels, K, FINER + 1).same
    assert levels.n_parts > FINER
    switch_level(run.path, None)
    correct(run, Rename(one, "second"))
    switch_level(run.path, FINER + 1)  # carried there
    switch_level(run.path, FINER)
    assert state_of(run).groups[same[one]].name == ("second" if one in matched else "first")


def test_a_damaged_file_of_corrections_changes_nothing(run):
    correct(run, Rename(0, "precious"))
    before = {file.name: file.read_bytes() for file in run.path.iterdir() if file.suffix != ".lock"}
    (run.path / f"corrections-level-{FINER}.sqlite").write_bytes(b"precious " * 1000)
    with pytest.raises(FormatError, match=rf"corrections-level-{FINER}\.sqlite"):
        switch_level(run.path, FINER)
    assert Run.open(run.path).level is None
    for name in ("manifest.json", "assignments.parquet", "corrections.sqlite"):
        assert (run.path / name).read_bytes() == before[name]


def test_corrections_of_an_earlier_fit_are_put_aside_and_nothing_is_made_of_them(run, tmp_path, caplog):
    correct(run, Rename(0, "of other groups"))
    place = run.path / f"corrections-level-{FINER}.sqlite"
    (run.path / "corrections.sqlite").rename(place)
    change = switch_level(run.path, FINER)
    assert not change.carried
    assert (run.path / f"corrections-level-{FINER}-1.sqlite").exists()
    assert f"corrections-level-{FINER}-1.sqlite" in caplog.text
    assert state_of(run).version == 0


def test_a_page_that_has_the_run_open_cannot_correct_the_new_groups(run):
    with Corrections.open(run) as opened:
        switch_level(run.path, FINER)
        with pytest.raises(FormatError, match="Open the run again"):
            opened.apply(Rename(0, "cats"))
    assert state_of(run).version == 0


@pytest.mark.parametrize("level", [None, FINER])
def test_the_recorded_group_wins_over_what_this_machine_computes(run, level):
    table = pq.read_table(run.path / "levels.parquet")
    parts = table["part"].to_numpy().copy()
    groups = open_levels(run).labels(FINER)
    strangers = [0, int(np.flatnonzero(groups != groups[0])[0])]
    parts[strangers] = parts[strangers[::-1]]
    write_table(run.path / "levels.parquet", table.set_column(2, "part", pa.array(parts)))
    manifest = read_manifest(run.path)
    manifest.stages["levels"]["outputs"]["levels.parquet"] = hash_file(run.path / "levels.parquet")
    write_manifest(run.path, manifest)
    switch_level(run.path, 1)
    switch_level(run.path, level)
    shown = Run.open(run.path)
    np.testing.assert_array_equal(shown.labels, open_levels(run).labels(level or K))
    assert {len(set(top)) for top in shown.assignments["top_clusters"].to_pylist()} == {5}


@pytest.mark.parametrize("n_groups", [0, -1, 10_000])
def test_there_is_no_such_level(run, n_groups):
    with pytest.raises(InputError, match="this run has levels of 1 to"):
        switch_level(run.path, n_groups)


def test_runs_without_levels_or_features_say_what_to_do(run, tmp_path):
    moved = shutil.move(tmp_path / "digits.npy", tmp_path / "moved.npy")
    with pytest.raises(InputError, match="--features"):
        switch_level(run.path, FINER)
    assert switch_level(run.path, FINER, features=moved).level == FINER
    manifest = Path(run.path / "manifest.json")
    manifest.write_text(manifest.read_text().replace('"levels": {', '"unknown": {'))
    with pytest.raises(InputError, match="has no levels"):
        switch_level(run.path, None)
