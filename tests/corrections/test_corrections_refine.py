"""Learning the corrections: what is proposed, and what never is."""

from __future__ import annotations

import functools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold import Run
from kinfold.corrections import (
    Accept,
    Confirm,
    Lock,
    Mark,
    Merge,
    Move,
    Split,
    first_state,
    read_proposals,
    write_proposals,
)
from kinfold.corrections import refine as refine_guided
from kinfold.corrections._held_out import FoldClassifiers, TrainingSet, draw_members
from kinfold.errors import FormatError, InputError, NewerFormatError

# What is tried here is the classifier; most of these runs have nothing that was placed by hand.
refine = functools.partial(refine_guided, unguided=True)


def rows_of(run, labels, group):
    return run.assignments["row"].to_numpy()[labels == group]


def misplace(run, corrections, n=4):
    """Put images of group 0 into group 1 as the model would have done: not by hand."""
    rows = rows_of(run, run.labels, 0)[:n]
    corrections.apply(Accept(rows, np.full(n, 1)))
    return rows


def test_misplaced_images_are_proposed_for_where_they_belong(run, corrections):
    rows = misplace(run, corrections)
    found = refine(run, corrections.state)
    assert found.rows.tolist() == rows.tolist()
    assert set(found.groups.tolist()) == {0}
    assert set(found.from_groups.tolist()) == {1}
    assert (found.confidences > 0.5).all()
    assert (found.confidences <= 1).all()
    assert found.facts["version"] == corrections.state.version
    state = corrections.apply(found.select())
    assert (state.labels == run.labels).all()
    assert not state.by_hand.any()


def test_what_a_person_decided_is_never_proposed(run, corrections):
    rows = misplace(run, corrections, n=6)
    assert refine(run, corrections.state).rows.tolist() == rows.tolist()
    corrections.apply(Confirm(rows[:1]))
    corrections.apply(Mark(rows[1:2], "noise"))
    found = refine(run, corrections.state)
    assert len(found)
    assert not np.isin(found.rows, rows[:2]).any()
    corrections.apply(Lock([1]))
    found = refine(run, corrections.state)
    assert 1 not in found.from_groups
    assert 1 not in found.groups
    corrections.apply(Lock([1], False))
    corrections.apply(Lock([0]))
    assert 0 not in refine(run, corrections.state).groups


def test_an_image_marked_wrong_is_proposed_for_the_best_other_group(run, corrections):
    rows = misplace(run, corrections, n=2)
    right = rows_of(run, run.labels, 2)[:1]
    corrections.apply(Mark([*rows, *right], "wrong"))
    found = refine(run, corrections.state)
    groups = dict(zip(found.rows.tolist(), found.groups.tolist(), strict=True))
    assert {row: groups[row] for row in rows.tolist()} == dict.fromkeys(rows.tolist(), 0)
    assert groups[right[0]] != 2
    state = corrections.apply(found.select(rows))
    assert (state.marks != 0).sum() == 1


def test_groups_made_by_hand_draw_what_is_like_them(clustered, run, corrections):
    corrections.apply(Merge([0, 1], 0))
    few = rows_of(run, run.labels, 1)[:3]
    state = corrections.apply(Move(few, None, "mine"))
    found = refine(run, state)
    drawn = found.rows[found.groups == 4]
    others = rows_of(run, run.labels, 1)[3:]
    assert len(np.intersect1d(drawn, others)) > 0.4 * len(others)
    assert len(np.intersect1d(drawn, rows_of(run, run.labels, 0))) < 3


def test_split_groups_are_classes_like_others(run, corrections):
    corrections.apply(Merge([0, 1], 0))
    state = corrections.apply(Split(0, 2))
    moved = rows_of(run, state.labels, 4)[:2]
    corrections.apply(Accept(moved, [0, 0]))
    found = refine(run, corrections.state)
    assert found.rows.tolist() == moved.tolist()
    assert set(found.groups.tolist()) == {4}


def test_the_only_image_of_a_group_stays_for_nobody_else_knows_that_group(run, corrections):
    rows = rows_of(run, run.labels, 3)
    corrections.apply(Accept(rows[1:], np.full(len(rows) - 1, 2)))
    assert rows[0] not in refine(run, corrections.state).rows
    corrections.apply(Mark(rows[:1], "wrong"))
    assert rows[0] in refine(run, corrections.state).rows


def test_the_same_seed_gives_the_same_proposals(run, corrections):
    misplace(run, corrections)
    one, two = (refine(run, corrections.state, random_state=3) for _ in range(2))
    assert one.rows.tolist() == two.rows.tolist()
    assert one.confidences.tobytes() == two.confidences.tobytes()


def test_certain_images_count_together_as_a_class_of_average_size():
    classes = np.array([0] * 40 + [1] * 60)
    learned = np.ones(100, bool)
    learned[99] = False
    certain = np.zeros(100, bool)
    certain[[0, 1]] = certain[40:99] = True
    drawn = np.bincount(draw_members(TrainingSet(2, learned, certain, ~learned), classes), minlength=100)
    assert drawn[:2].tolist() == [25, 25]  # 99 images in 2 classes, dealt to 2 of them
    assert set(drawn[2:99]) == {1}
    assert drawn[99] == 0


def test_a_part_of_the_proposals_is_taken_over(run, corrections):
    misplace(run, corrections)
    found = refine(run, corrections.state)
    assert found.select(found.rows[:1].tolist()).rows.tolist() == found.rows[:1].tolist()
    bar = float(np.sort(found.confidences)[-2])
    assert len(found.select(min_confidence=bar).rows) == 2
    with pytest.raises(InputError, match="no proposal"):
        found.select([], min_confidence=1)
    for wrong in (-0.1, 1.1, float("nan"), True, "0.5"):
        with pytest.raises(InputError, match=r"min_confidence must be a number in \[0, 1\]"):
            found.select(min_confidence=wrong)


def test_what_cant_be_refined_is_refused(run, corrections):
    for seed in (-1, 0.5, True):
        with pytest.raises(InputError, match="random_state"):
            refine(run, corrections.state, random_state=seed)
    corrections.apply(Merge([0, 1, 2, 3], 0))
    with pytest.raises(InputError, match="two groups"):
        refine(run, corrections.state)


def test_proposals_come_back_from_their_file(path, run, corrections):
    assert read_proposals(run) is None
    misplace(run, corrections)
    found = refine(run, corrections.state)
    file = write_proposals(run, found)
    assert file == path / "proposals.parquet"
    again = read_proposals(Run.open(path))
    for name in ("rows", "groups", "confidences", "from_groups"):
        assert getattr(again, name).tolist() == getattr(found, name).tolist()
    assert again.facts == found.facts
    table = pq.read_table(file)
    keys = dict(zip(run.assignments["row"].to_pylist(), run.assignments["key"].to_pylist(), strict=True))
    assert table["key"].to_pylist() == [keys[row] for row in found.rows.tolist()]
    corrections.apply(again.select())
    assert len(refine(run, corrections.state)) == 0
    write_proposals(run, refine(run, corrections.state))
    assert len(read_proposals(run)) == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"base": "other"}, FormatError, "other groups"),
        ({"format_version": 2}, NewerFormatError, "update Kinfold"),
        ({"format": "other"}, FormatError, "isn't a file of Kinfold's"),
        (None, FormatError, "kinfold refine"),
    ],
)
def test_a_file_that_isnt_of_this_run_is_refused(path, run, corrections, change, error, words):
    misplace(run, corrections)
    file = write_proposals(run, refine(run, corrections.state))
    if change is None:
        file.write_bytes(file.read_bytes()[:-20])
    else:
        table = pq.read_table(file)
        head = json.loads(table.schema.metadata[b"kinfold"]) | change
        pq.write_table(table.replace_schema_metadata({b"kinfold": json.dumps(head)}), file)
    with pytest.raises(error, match=words):
        read_proposals(run)


@pytest.mark.parametrize("noise", [0.02, 30.0])
def test_features_that_tell_groups_badly_apart_are_warned_of(tmp_path, caplog, noise):
    random = np.random.default_rng(0)
    features = np.repeat(np.eye(4, 400), 40, axis=0) + random.normal(0, noise, (160, 400))
    np.save(tmp_path / "features.npy", features.astype(np.float32))
    run = kinfold.cluster(
        tmp_path / "features.npy", 4, method="kmeans", out=tmp_path / "run", random_state=0, report=False
    )
    proposals = refine(run, first_state(run))
    assert (proposals.facts["agreement"] < 0.7) == (noise > 1)
    assert ("the proposals mean little" in caplog.text) == (noise > 1)


def test_images_placed_by_hand_are_tried_too_once_they_are_enough(run, corrections):
    rows = np.concatenate([rows_of(run, run.labels, group)[:3] for group in range(4)])
    corrections.apply(Confirm(rows[:9]))
    assert refine(run, corrections.state).facts["found_by_hand"] is None
    corrections.apply(Confirm(rows))
    assert refine(run, corrections.state).facts["found_by_hand"] == 1
    for row, group in zip(rows.tolist(), np.roll(np.repeat(range(4), 3), 3).tolist(), strict=True):
        corrections.apply(Move([row], group))  # where nothing is like them
    assert refine(run, corrections.state).facts["found_by_hand"] < 0.5


def test_without_anything_by_hand_nothing_is_proposed_and_it_says_why(run, corrections, caplog):
    rows = misplace(run, corrections)
    corrections.apply(Mark(rows[-1:], "noise"))  # of no group: nothing can be learned from it
    found = refine_guided(run, corrections.state)
    assert len(found) == 0
    assert (found.facts["n_learned"], found.facts["agreement"]) == (0, None)
    assert "as often wrong as right" in caplog.text
    write_proposals(run, found)
    assert len(read_proposals(run)) == 0
    with pytest.raises(InputError, match="no proposal"):
        found.select()
    caplog.clear()
    corrections.apply(Mark(rows[:1], "wrong"))
    assert len(refine_guided(run, corrections.state))
    assert caplog.text == ""


def test_the_confidence_of_a_proposal_is_the_mean_of_the_first_round_and_the_last(run, corrections):
    state = corrections.apply(Confirm(rows_of(run, run.labels, 2)[:2]))
    state = corrections.apply(Accept(rows_of(run, run.labels, 0)[:4], np.full(4, 1)))
    found = refine(run, state, random_state=5)
    everything = np.ones(len(state.labels), bool)
    classifiers = FoldClassifiers(
        run.features().matrix(run.manifest["features"]["variant"]),
        TrainingSet(4, everything, state.by_hand.copy(), ~everything),
    )
    places = np.searchsorted(run.assignments["row"].to_numpy(), found.rows)
    labels, sure = state.labels.astype(np.int64), []
    for number in range(3):
        held_out = classifiers.predict(labels, 5 + number)
        labels = np.where(state.by_hand, state.labels, held_out.classes).astype(np.int64)
        sure.append(held_out.probabilities(places, found.groups.astype(np.int64)))
    assert len(found)
    assert found.groups.tolist() == labels[places].tolist()
    np.testing.assert_allclose(found.confidences, (sure[0] + sure[2]) / 2, rtol=1e-6)
