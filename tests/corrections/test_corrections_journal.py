"""Undo, redo and replay, beside a naive account of what the rules say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kinfold import Run
from kinfold.corrections import Accept, Confirm, Corrections, Lock, Mark, Merge, Move, Rename, Split, State
from kinfold.errors import InputError


class Naive:
    """The rules once more, in sets and loops: every state is replayed from the very beginning."""

    def __init__(self, run):
        self.rows = run.assignments["row"].to_pylist()
        self.first = dict(zip(self.rows, run.labels.tolist(), strict=True))
        self.n_groups = run.n_clusters
        self.edits = []  # [client, edit, id of its new group, undone at, may be redone]
        self.made = run.n_clusters
        self.clock = 0

    def state(self):
        labels, marks, hand = dict(self.first), dict.fromkeys(self.rows), set()
        groups = {number: [None, False, True] for number in range(self.n_groups)}  # name, locked, alive
        held = []
        for _, edit, new, undone, _ in self.edits:
            held.append(undone is None and self.run(edit, new, labels, marks, hand, groups))
        return labels, marks, hand, groups, held

    def run(self, edit, new, labels, marks, hand, groups):
        def usable(group):
            return group in groups and groups[group][2]

        def is_open(group):
            return usable(group) and not groups[group][1]

        match edit:
            case Rename(group, name):
                if not usable(group):
                    return False
                groups[group][0] = name
            case Lock(numbers, locked):
                if not all(map(usable, numbers)):
                    return False
                for group in numbers:
                    groups[group][1] = locked
            case Merge(numbers, into):
                others = set(numbers) - {into}
                if not others or not all(map(is_open, [into, *others])):
                    return False
                for row in labels:
                    labels[row] = into if labels[row] in others else labels[row]
                for group in others:
                    groups[group][2] = False
            case Move(rows, target):
                group = new if target is None else target
                if target is not None and not usable(target):
                    return False
                moving = [row for row in rows if labels[row] != group or marks[row]]
                if any(groups[labels[row]][1] for row in moving) or (
                    target is not None and moving and groups[target][1]
                ):
                    return False
                if target is None:
                    groups[group] = [edit.name, False, True]
                for row in rows:
                    labels[row], marks[row] = group, None
                    hand.add(row)
            case Mark(rows, mark):
                changed = [row for row in rows if marks[row] != mark]
                if any(groups[labels[row]][1] for row in changed):
                    return False
                for row in changed:
                    marks[row] = mark
                    hand.discard(row)
            case Confirm(rows):
                if any(groups[labels[row]][1] for row in rows if marks[row]):
                    return False
                for row in rows:
                    marks[row] = None
                    hand.add(row)
            case Accept(rows, numbers):
                taken = [
                    (row, group)
                    for row, group in zip(rows, numbers, strict=True)
                    if is_open(group) and is_open(labels[row]) and row not in hand and marks[row] != "noise"
                ]
                if not taken:
                    return False
                for row, group in taken:
                    labels[row], marks[row] = group, None
        return True

    def apply(self, edit, client):
        new = self.made if isinstance(edit, Move) and edit.group is None else None
        if not self.run(edit, new, *self.state()[:4]):
            return False
        self.clock += 1
        self.made += new is not None
        for one in self.edits:
            one[4] = one[4] and one[0] != client
        self.edits.append([client, edit, new, None, False])
        return True

    def undo(self, client):
        held = self.state()[4]
        mine = [i for i, one in enumerate(self.edits) if held[i] and client in (None, one[0])]
        if not mine:
            return False
        self.clock += 1
        self.edits[mine[-1]][3:] = [self.clock, True]
        return True

    def redo(self, client):
        mine = [one for one in self.edits if one[4] and client in (None, one[0])]
        if not mine:
            return False
        self.clock += 1
        max(mine, key=lambda one: one[3])[3:] = [None, False]
        return True


def same(state: State, naive: Naive) -> None:
    labels, marks, hand, groups, _ = naive.state()
    codes = {None: 0, "wrong": 1, "noise": 2}
    assert state.version == naive.clock
    assert state.labels.tolist() == [labels[row] for row in naive.rows]
    assert state.marks.tolist() == [codes[marks[row]] for row in naive.rows]
    assert state.by_hand.tolist() == [row in hand for row in naive.rows]
    found = {number: [group.name, group.locked, group.alive] for number, group in state.groups.items()}
    assert found == groups


def draw(random, naive):
    rows = sorted(random.choice(naive.rows, random.integers(1, 12), replace=False).tolist())
    groups = random.integers(0, naive.made + 1, 3).tolist()
    return [
        lambda: Rename(groups[0], [None, "a", "b"][groups[1] % 3]),
        lambda: Merge(groups, groups[0]),
        lambda: Move(rows, groups[0]),
        lambda: Move(rows, None, "new"),
        lambda: Mark(rows, [None, "wrong", "noise"][groups[1] % 3]),
        lambda: Lock(groups[:1], bool(groups[1] % 4 == 0)),
        lambda: Confirm(rows),
        lambda: Accept(rows, random.integers(0, naive.made, len(rows)).tolist()),
    ][random.choice(8, p=[0.1, 0.04, 0.3, 0.1, 0.15, 0.1, 0.06, 0.15])]()


@pytest.mark.parametrize("seed", range(6))
def test_any_course_of_edits_undos_and_redos_is_as_a_naive_replay_has_it(clustered, tmp_path, seed):
    run = Run.open(shutil.copytree(clustered, tmp_path / "run"))
    random, naive = np.random.default_rng(seed), Naive(run)
    with Corrections.open(run) as one, Corrections.open(run) as two:
        for step in range(150):
            corrections = (one, two)[step % 2]
            client = ["a", "b", "c", None][random.integers(4)]
            action = random.choice(["edit", "edit", "undo", "redo"])
            edit = draw(random, naive)
            try:
                if action == "edit":
                    corrections.apply(edit, client=client or "")
                else:
                    getattr(corrections, action)(client)
                done = True
            except InputError:
                done = False
            expected = naive.apply(edit, client or "") if action == "edit" else getattr(naive, action)(client)
            assert done == expected, (step, action, edit)
            same(corrections.state, naive)
        held = naive.state()[4]
        entries = one.history(limit=1000)[::-1]
        assert [not entry.undone and entry.problem is None for entry in entries] == held
    with Corrections.open(run) as again:
        same(again.state, naive)


def test_each_client_undoes_its_own_edits_also_below_those_of_others(run, corrections):
    rows = run.assignments["row"].to_numpy()
    corrections.apply(Move(rows[:5], 1), client="a")
    corrections.apply(Rename(2, "cats"), client="b")
    corrections.apply(Move(rows[3:8], 2), client="b")
    state = corrections.undo("a")
    assert state.labels[:3].tolist() == run.labels[:3].tolist()
    assert (state.labels[3:8] == 2).all()
    assert state.groups[2].name == "cats"
    assert not corrections.can_undo("a")
    with pytest.raises(InputError, match="nothing to undo"):
        corrections.undo("a")
    assert (corrections.redo("a").labels[:3] == 1).all()
    assert corrections.state.labels[3] == 2  # b's edit came later, and still does


def test_a_new_edit_ends_redo_for_its_client_alone(run, corrections):
    corrections.apply(Rename(0, "a"), client="a")
    corrections.apply(Rename(1, "b"), client="b")
    corrections.undo("a")
    corrections.undo("b")
    corrections.apply(Rename(2, "c"), client="b")
    assert not corrections.can_redo("b")
    with pytest.raises(InputError, match="nothing to redo"):
        corrections.redo("b")
    assert corrections.redo("a").groups[0].name == "a"


def test_an_edit_that_lost_its_ground_is_shown_as_such_and_comes_back(run, corrections):
    rows = run.assignments["row"].to_numpy()
    corrections.apply(Move(rows[:2], None, "late"), client="a")
    corrections.apply(Move(rows[5:9], 4), client="b")
    corrections.apply(Rename(0, "cats"), client="b")
    state = corrections.undo("a")
    assert 4 not in state.groups
    newest, lost, undone = corrections.history()
    assert (newest.undone, newest.problem) == (False, None)
    assert lost.problem == "there is no group 4"
    assert undone.undone
    assert undone.problem is None
    assert corrections.undo("b").groups[0].name is None  # what has an effect, not what has none
    assert not corrections.can_undo("b")
    state = corrections.redo("a")
    assert (state.labels[5:9] == 4).all()
    assert corrections.history()[1].problem is None


def test_the_history_is_in_plain_words_and_pages(run, corrections):
    rows = run.assignments["row"].to_numpy()
    corrections.apply(Rename(0, "cats"), client="a")
    corrections.apply(Rename(1, None))
    corrections.apply(Move(rows[:12], 0))
    corrections.apply(Mark(rows[:1], "noise"))
    corrections.apply(Mark(rows[:1], None))
    corrections.apply(Merge([1, 2], 0))
    corrections.apply(Lock([0, 3]))
    corrections.apply(Lock([3], False))
    corrections.apply(Confirm(rows[:2]))
    corrections.apply(Split(3, 3))
    corrections.apply(Move(rows[40:42], 3))
    corrections.undo()
    corrections.redo()
    texts = [entry.text for entry in corrections.history()][::-1]
    assert texts == [
        "called group 0 “cats”",
        "took the name of group 1 back",
        "moved 12 images to group 0 “cats”",
        "marked 1 image as noise",
        "took the mark off 1 image",
        "merged group 1 and group 2 into group 0 “cats”",
        "locked group 0 “cats” and group 3",
        "unlocked group 3",
        "confirmed 2 images",
        "split group 3 into 3, new: group 4 and group 5",
        "moved 2 images to group 3",
    ]
    assert [entry.id for entry in corrections.history(limit=2)] == [11, 10]
    assert [entry.id for entry in corrections.history(limit=2, before=10)] == [9, 8]
    assert corrections.history(limit=0) == []
    first = corrections.history()[-1]
    assert (first.client, first.kind, first.n_rows) == ("a", "rename", 0)
    assert first.time.endswith("+00:00")
    assert corrections.entry(13).text == "did again: moved 2 images to group 3"
    assert corrections.entry(12).kind == "undo"
    with pytest.raises(InputError, match="no version 14"):
        corrections.entry(14)


@pytest.mark.parametrize("client", ["a\nb", "x" * 201, 5])
def test_clients_are_short_printable_texts(corrections, client):
    with pytest.raises(InputError, match="client"):
        corrections.apply(Rename(0, "a"), client=client)


def test_edits_of_another_process_are_there_at_the_next_look(run, corrections):
    with Corrections.open(Run.open(Path(run.path))) as other:
        other.apply(Rename(0, "cats"))
        assert corrections.state.groups[0].name == "cats"
        corrections.apply(Rename(1, "dogs"))
        assert other.state.groups[1].name == "dogs"
