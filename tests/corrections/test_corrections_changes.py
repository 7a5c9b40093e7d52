from __future__ import annotations

import numpy as np
import pytest

from kinfold import Run
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
    changed_groups,
    corrected_table,
    first_state,
    names_of,
    read_edit,
)
from kinfold.errors import InputError


def rows_of(run, state, group):
    return run.assignments["row"].to_numpy()[state.labels == group]


def test_nothing_is_written_before_the_first_edit_nor_by_one_that_is_refused(path, corrections):
    before = sorted(path.iterdir())
    assert corrections.state.version == 0
    assert corrections.history() == []
    with pytest.raises(InputError):
        corrections.apply(Rename(99, "cats"))
    assert sorted(path.iterdir()) == before
    corrections.apply(Rename(0, "cats"))
    with pytest.raises(InputError):
        corrections.apply(Move([7], 1))  # the skipped row
    assert corrections.state.version == 1


def test_states_are_snapshots_that_never_change(run, corrections):
    before = corrections.state
    rows = rows_of(run, before, 0)[:3]
    after = corrections.apply(Move(rows, 1))
    assert (before.labels == run.labels).all()
    assert (after.labels != before.labels).sum() == 3
    for array in (after.labels, after.marks, after.by_hand):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        after.groups[0] = None


def test_names_are_the_corrections_else_the_runs_else_none(run, corrections):
    corrections.apply(Rename(0, "  big \n cats "))
    assert names_of(run, corrections.state) == {0: "big cats", 1: "", 2: "", 3: ""}
    corrections.apply(Rename(0, ""))
    assert names_of(run, corrections.state)[0] == ""


@pytest.mark.parametrize("name", ["a" * 201, "bell\a", "\ud800", 5])
def test_names_that_cant_be_written_are_refused(corrections, name):
    with pytest.raises(InputError, match="name"):
        corrections.apply(Rename(0, name))


def test_a_merge_moves_all_images_and_ends_the_other_groups(run, corrections):
    state = corrections.apply(Merge([1, 2, 3], 2))
    assert state.alive == (0, 2)
    assert set(np.unique(state.labels)) == {0, 2}
    for edit in (Rename(1, "x"), Move(rows_of(run, state, 0)[:1], 1), Merge([0], 3), Lock([1])):
        with pytest.raises(InputError, match="is gone"):
            corrections.apply(edit)
    with pytest.raises(InputError, match="further group"):
        corrections.apply(Merge([2], 2))


def test_moving_by_hand_places_images_and_takes_marks_off(run, corrections):
    rows = rows_of(run, corrections.state, 0)[:4]
    corrections.apply(Mark(rows[:2], "wrong"))
    state = corrections.apply(Move([*rows, rows[0]], 3))
    places = np.flatnonzero(np.isin(run.assignments["row"].to_numpy(), rows))
    assert (state.labels[places] == 3).all()
    assert (state.marks[places] == 0).all()
    assert np.flatnonzero(state.by_hand).tolist() == places.tolist()


def test_new_groups_get_numbers_that_are_never_used_twice(run, corrections):
    rows = rows_of(run, corrections.state, 0)
    assert corrections.apply(Move(rows[:2], None, "new")).groups[4].name == "new"
    corrections.undo()
    state = corrections.apply(Move(rows[2:4], None))
    assert 4 not in state.groups
    assert state.groups[5].alive
    with Corrections.open(run) as again:
        assert set(again.apply(Move(rows[4:6], None)).groups) == {0, 1, 2, 3, 5, 6}


def test_marks_and_confirmations(run, corrections):
    rows = rows_of(run, corrections.state, 0)
    place = int(np.flatnonzero(corrections.state.labels == 0)[0])
    corrections.apply(Confirm(rows[:1]))
    assert corrections.state.by_hand[place]
    assert corrections.apply(Mark(rows[:1], "wrong")).marks[place] == 1
    assert not corrections.state.by_hand[place]
    assert corrections.apply(Mark(rows[:1], "noise")).marks[place] == 2
    assert corrections.state.counts()[0] == len(rows) - 1
    assert corrections.apply(Mark(rows[:1], None)).marks[place] == 0
    assert corrections.state.labels[place] == 0


def test_a_locked_group_takes_no_image_and_loses_none(run, corrections):
    inside, outside = rows_of(run, corrections.state, 0), rows_of(run, corrections.state, 1)
    corrections.apply(Mark(inside[:1], "wrong"))
    locked = corrections.apply(Lock([0]))
    refused = [
        Move(inside[1:2], 1),
        Move(outside[:1], 0),
        Move(inside[1:2], None),
        Merge([0, 1], 1),
        Merge([1], 0),
        Split(0, 2),
        Mark(inside[1:2], "noise"),
        Mark(inside[:1], None),
        Confirm(inside[:1]),
        Accept(inside[1:2], [1]),
        Accept(outside[:1], [0]),
    ]
    for edit in refused:
        with pytest.raises(InputError):
            corrections.apply(edit)
    assert corrections.state is locked
    corrections.apply(Confirm(inside[1:2]))  # it stays where it is
    corrections.apply(Move(inside[1:3], 0))
    corrections.apply(Rename(0, "sure"))
    corrections.apply(Lock([0], False))
    corrections.apply(Move(inside[1:2], 1))


def test_accepting_passes_over_what_a_person_decided_since(run, corrections):
    rows = rows_of(run, corrections.state, 0)[:6]
    corrections.apply(Confirm(rows[:1]))
    corrections.apply(Mark(rows[1:2], "noise"))
    corrections.apply(Mark(rows[2:3], "wrong"))
    corrections.apply(Lock([2]))
    state = corrections.apply(Accept(rows[::-1], [2, 1, 1, 1, 1, 1]))
    places = np.searchsorted(run.assignments["row"].to_numpy(), rows)
    assert state.labels[places].tolist() == [0, 0, 1, 1, 1, 0]
    assert state.marks[places].tolist() == [0, 2, 0, 0, 0, 0]
    assert state.by_hand[places].tolist() == [True] + 5 * [False]
    assert corrections.entry(state.version).n_rows == 3
    with pytest.raises(InputError, match="twice"):
        corrections.apply(Accept([rows[0], rows[0]], [1, 1]))
    with pytest.raises(InputError, match="any more"):
        corrections.apply(Accept(rows[:1], [1]))


def test_a_split_group_keeps_its_largest_part(run, corrections):
    corrections.apply(Merge([0, 1, 2], 0))
    extra = rows_of(run, corrections.state, 0)[:5]
    corrections.apply(Move(extra, 3))
    before = corrections.state
    state = corrections.apply(Split(0, 3))
    new = [number for number in state.alive if number > 3]
    assert len(new) == 2
    assert all(state.groups[number].origin == 0 for number in new)
    sizes = state.counts()
    assert sizes[0] == 30
    assert sizes[0] >= sizes[new[0]] >= sizes[new[1]] == 25
    assert (state.labels[before.labels == 3] == 3).all()
    for number in (0, *new):  # the merged kinds are found again
        members = run.labels[state.labels == number]
        assert len(np.unique(members)) == 1


def test_replaying_a_split_needs_no_features(clustered, path, corrections):
    state = corrections.apply(Split(0, 2))
    run = Run.open(path)
    run.manifest["features"]["path"] = str(path / "gone.npy")
    with Corrections.open(run) as again:
        assert (again.state.labels == state.labels).all()
        with pytest.raises(InputError, match="moved"):
            again.apply(Split(1, 2))
        again.undo()
        assert (again.redo().labels == state.labels).all()
    with Corrections.open(run, source=clustered.parent / "features.npy") as again:
        again.apply(Split(1, 2))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Split(0, 1), "from 2 to 1000"),
        (Split(0, 1000), "has .* images, too few"),
        (Split(9, 2), "no group"),
        (Split(0, 2.5), "from 2 to 1000"),
        (Move([], 1), "no image"),
        (Move([0.5], 1), "list of integers"),
        (Move([[1, 2]], 1), "list of integers"),
        (Move(["a"], 1), "list of integers"),
        (Move([True], 1), "list of integers"),
        (Move([[1], 2], 1), "list of integers"),
        (Move([-1], 1), "row -1"),
        (Move([2**63 - 1], 1), "isn't among"),
        (Move([1], 99), "no group 99"),
        (Move([1], "1"), "group must be an integer"),
        (Move([1], True), "group must be an integer"),
        (Move([1], 1, "name"), "rename"),
        (Mark([1], "bad"), "one of 'wrong', 'noise'"),
        (Mark([1], ["wrong"]), "one of 'wrong', 'noise'"),
        (Merge("12", 1), "list of integers"),
        (Merge([], 1), "no group"),
        (Lock([1], "yes"), "True or False"),
        (Accept([1, 2], [1]), "one group"),
        (Accept([1], [-1]), "from 0 to"),
        ("rename", "no edit"),
    ],
)
def test_impossible_edits_are_refused_in_plain_words(path, corrections, edit, words):
    with pytest.raises(InputError, match=words):
        corrections.apply(edit)
    assert not (path / "corrections.sqlite").exists()


def test_edits_are_read_from_plain_data():
    assert read_edit({"kind": "move", "rows": [1], "group": None}) == Move([1], None)
    assert read_edit({"kind": "lock", "groups": [1], "locked": False}) == Lock([1], False)
    for content, words in (
        ({}, "no edit"),
        ({"kind": "mvoe"}, "did you mean 'move'"),
        ({"kind": ["move"]}, "no edit"),
        ({"kind": "move", "rows": [1]}, "needs the field 'group'"),
        ({"kind": "confirm", "rows": [1], "x": 1}, "no field 'x'"),
    ):
        with pytest.raises(InputError, match=words):
            read_edit(content)


def test_the_corrected_table_says_what_holds_and_what_was(run, corrections):
    rows = rows_of(run, corrections.state, 0)
    corrections.apply(Move(rows[:1], None, "late"))
    corrections.apply(Mark(rows[1:2], "wrong"))
    corrections.apply(Mark(rows[2:3], "noise"))
    table = corrected_table(run, corrections.state)
    assert table["row"].to_pylist() == run.assignments["row"].to_pylist()
    assert table["key"].to_pylist() == run.assignments["key"].to_pylist()
    assert table["original_cluster"].to_pylist() == run.labels.tolist()
    by_row = {line["row"]: line for line in table.to_pylist()}
    facts = [
        [by_row[row][name] for name in ("cluster", "name", "mark", "by_hand")] for row in rows[:4].tolist()
    ]
    assert facts == [
        [4, "late", None, True],
        [-1, None, "wrong", False],
        [-1, None, "noise", False],
        [0, None, None, False],
    ]


def test_changed_groups_are_those_that_look_different(run, corrections):
    first = first_state(run)
    rows = rows_of(run, first, 0)
    moved = corrections.apply(Move(rows[:1], 2))
    assert changed_groups(first, moved) == (0, 2)
    assert changed_groups(moved, corrections.apply(Rename(3, "x"))) == (3,)
    assert changed_groups(moved, moved) == ()
    merged = corrections.apply(Merge([1], 3))
    assert changed_groups(moved, merged) == (1, 3)
