"""Claims about lists of groups and images: the same as plain Python says, before and after corrections."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from kinfold.corrections import Corrections, Mark, Merge, Move, Rename, Split
from kinfold.errors import FormatError, InputError
from kinfold.gallery.explore._columns import Choices, Columns
from kinfold.gallery.explore._lists import GroupSummaries, ImageLists, ImageQuery
from kinfold.gallery.explore._vectors import Vectors, order_by_similarity
from support.galleries import BROKEN, make_gallery_run, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("lists"), n=80, k=4)


@pytest.fixture
def tab(run):
    with opened(run) as tab:
        yield tab
    (run.path / "corrections.sqlite").unlink(missing_ok=True)


def made_typicality(state, places):
    """A typicality that isn't the order of rows; none of marked images."""
    return np.where(state.marks[places] == 0, (places * 37 % 80 + 0.5) / 80, np.nan).astype(np.float32)


def lists_of(run):
    columns = Columns.read(run)
    choices = Choices(columns, run.labels)
    vectors = Vectors(run)
    listing = ImageLists(
        columns, lambda state, places: choices.second(state, places)[0], vectors.distances, made_typicality
    )
    return columns, choices, listing


@pytest.fixture
def corrected(run):
    """A state after one edit of most kinds, and the one before."""
    with Corrections.open(run) as corrections:
        before = corrections.state
        rows = run.assignments["row"].to_numpy()
        members = rows[run.labels == 0]
        corrections.apply(Mark(members[:2], "wrong"))
        corrections.apply(Mark(members[2:3], "noise"))
        corrections.apply(Move(rows[run.labels == 1][:5], 2))
        corrections.apply(Merge([3], 0))
        after = corrections.apply(Split(2, 2))
        yield before, after
    (run.path / "corrections.sqlite").unlink()


@pytest.mark.parametrize("sort", ["confidence", "doubt", "key", "row", "group", "distance", "typicality"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_every_sort_is_that_of_plain_python(run, corrected, sort, order):
    columns, _, listing = lists_of(run)
    state = corrected[1]
    margin = columns.probabilities[:, 0] - columns.probabilities[:, 1]
    distance = plain_distances(run, state)
    typicality = made_typicality(state, np.arange(len(columns)))
    value = {
        "confidence": lambda p: float(columns.confidence[p]),
        "doubt": lambda p: -float(margin[p]),
        "key": lambda p: columns.keys[p].as_py(),
        "row": lambda p: p,
        "group": lambda p: int(state.labels[p]),
        "distance": lambda p: float(distance[p]),
        "typicality": lambda p: float(typicality[p]),
    }[sort]
    for group in (None, 0, 2):
        places = listing.places(state, ImageQuery(group=group, sort=sort, order=order)).tolist()
        assert sorted(places) == [p for p in range(len(columns)) if group is None or state.labels[p] == group]
        values = [value(p) for p in places]
        if sort == "typicality":  # those of none come last
            values = [one for one in values if one == one]
            assert all(state.marks[places[len(values) :]])
        if sort == "distance":
            assert np.all(np.diff(values) * (1 if order == "asc" else -1) > -1e-5)
        else:
            assert values == sorted(values, reverse=order == "desc")


def plain_distances(run, state):
    """Distances by the definition, row after row, in float64."""
    vectors = np.array(run.features().matrix(), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = np.zeros(len(vectors))
    for group in np.unique(state.labels):
        centre = vectors[(state.labels == group) & (state.marks == 0)].sum(axis=0)
        found[state.labels == group] = 1 - vectors[state.labels == group] @ centre / np.linalg.norm(centre)
    return found


def test_filters_take_what_they_say(run, corrected):
    columns, choices, listing = lists_of(run)
    state = corrected[1]
    keys = columns.keys.to_pylist()
    everything = np.arange(len(columns))

    def found(**asked):
        return set(listing.places(state, ImageQuery(**asked)).tolist())

    assert found(text="02") == {p for p, key in enumerate(keys) if "02" in key}
    assert found(text=".PNG") == set(range(len(columns)))
    assert found(text="02", group=0) == {
        p for p, key in enumerate(keys) if "02" in key and state.labels[p] == 0
    }
    assert found(mark="wrong") == set(np.flatnonzero(state.marks == 1).tolist())
    assert found(mark="noise", group=0) == set(np.flatnonzero(state.marks == 2).tolist())
    assert found(mark="none") == set(np.flatnonzero(state.marks == 0).tolist())
    assert found(mark="any") == set(np.flatnonzero(state.marks != 0).tolist())
    second = choices.second(state, everything)[0]
    assert found(second=1) == set(np.flatnonzero(second == 1).tolist())
    assert found(text="nothing is called this") == set()
    assert found(mark="stray") == set(
        np.flatnonzero((made_typicality(state, everything) < 0.01) & ~state.by_hand).tolist()
    )


def test_words_that_mean_nothing_are_refused(run, corrected):
    _, _, listing = lists_of(run)
    for wrong in ({"sort": "size"}, {"order": "up"}, {"mark": "good"}):
        with pytest.raises(InputError):
            listing.places(corrected[1], ImageQuery(**wrong))


def test_second_choices_follow_merges_and_are_never_the_own_group(run, corrected):
    columns, choices, _ = lists_of(run)
    state = corrected[1]
    groups, shares = choices.second(state, np.arange(len(columns)))
    for place in range(len(columns)):
        heirs = [0 if group == 3 else group for group in columns.top[place].tolist()]  # 3 was merged into 0
        others = [
            (group, share)
            for group, share in zip(heirs, columns.probabilities[place].tolist(), strict=True)
            if group != state.labels[place]
        ]
        assert (groups[place], pytest.approx(float(shares[place]))) == others[0]


def test_summaries_after_edits_are_those_of_a_fresh_count(run, corrected):
    columns, _, _ = lists_of(run)
    before, after = corrected
    kept = GroupSummaries(columns)
    kept.of(before)
    updated = kept.of(after)  # only what changed is counted again
    fresh = GroupSummaries(columns).of(after)
    assert updated == fresh
    assert set(updated) == {group.id for group in after.groups.values() if group.alive}
    for group, one in updated.items():
        members = np.flatnonzero((after.labels == group) & (after.marks == 0))
        assert one.size == len(members)
        assert one.mean_confidence == pytest.approx(columns.confidence[members].mean(), abs=1e-6)
        assert sum(one.histogram) == len(members)
        best = sorted(members, key=lambda p: (-columns.confidence[p], p))[:8]
        assert list(one.representatives) == best
    assert sum(one.n_wrong for one in updated.values()) == 2
    assert sum(one.n_noise for one in updated.values()) == 1


def test_borders_count_second_choices(run):
    columns, choices, _ = lists_of(run)
    with Corrections.open(run, write=False) as corrections:
        state = corrections.state
    members = np.flatnonzero(run.labels == 1)
    expected = Counter(columns.top[members, 1].tolist())
    found = choices.borders(state, 1)
    assert {one.group: one.n for one in found} == dict(expected)
    assert [one.n for one in found] == sorted(expected.values(), reverse=True)
    for one in found:
        assert one.share == pytest.approx(one.n / len(members))
        assert all(columns.top[place, 1] == one.group for place in one.places)


def test_alike_groups_are_beside_each_other():
    rng = np.random.default_rng(0)
    angles = rng.permutation(np.linspace(0, np.pi / 2, 40))
    centres = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    order = order_by_similarity(np.concatenate([centres, np.zeros((1, 2), np.float32)]))
    assert order[-1] == 40  # of which nothing is known
    steps = np.diff(angles[order[:-1]])
    assert np.all(steps > 0) or np.all(steps < 0)


def test_thousands_of_groups_are_ordered_too():
    rng = np.random.default_rng(0)
    angles = rng.permutation(np.linspace(0, np.pi / 2, 4500))
    order = order_by_similarity(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))
    assert sorted(order.tolist()) == list(range(4500))
    random_step = np.abs(np.diff(angles)).mean()
    assert np.abs(np.diff(angles[order])).mean() < random_step / 20


def test_the_page_speaks_of_rows_not_of_places(tab, run):
    rows = run.assignments["row"].to_pylist()
    listed = tab.get("/api/images", sort="row", limit=500)
    assert [one["row"] for one in listed["images"]] == rows
    assert not set(BROKEN) & set(rows)
    assert tab.get("/api/rows", sort="row")["rows"] == rows
    for one in listed["images"][:30]:
        assert one["key"] == f"{one['row']:03d}.png"
        assert tab.get(f"/api/images/{one['row']}")["key"] == one["key"]
    assert tab.client.get(f"/api/images/{BROKEN[0]}").status_code == 404


def test_pages_join_to_the_whole_list(tab):
    whole = tab.get("/api/images", sort="doubt", limit=500)
    pages = [tab.get("/api/images", sort="doubt", offset=k, limit=7)["images"] for k in range(0, 80, 7)]
    assert [one for page in pages for one in page] == whole["images"]
    assert whole["total"] == len(whole["images"]) == 77
    assert tab.get("/api/images", offset=10**9)["images"] == []


def test_groups_are_sorted_and_found_by_name_and_number(tab):
    tab.edit("rename", group=2, name="Äpfel and pears")
    tab.edit("rename", group=0, name="beans")
    by = {
        sort: tab.get("/api/groups", sort=sort)["groups"] for sort in ("size", "confidence", "name", "number")
    }
    assert [one["size"] for one in by["size"]] == sorted((one["size"] for one in by["size"]), reverse=True)
    means = [one["mean_confidence"] for one in by["confidence"]]
    assert means == sorted(means, reverse=True)
    assert [one["id"] for one in by["name"]] == [0, 2, 1, 3]
    assert [one["id"] for one in by["number"]] == [0, 1, 2, 3]
    assert sorted(one["id"] for one in tab.get("/api/groups", sort="similarity")["groups"]) == [0, 1, 2, 3]
    assert [one["id"] for one in tab.get("/api/groups", q="äPFEL")["groups"]] == [2]
    assert [one["id"] for one in tab.get("/api/groups", q="group 3")["groups"]] == [3]
    assert tab.get("/api/groups", q="no such name")["total"] == 0


def test_the_run_says_what_it_is(tab, run):
    facts = tab.get("/api/run")
    assert (facts["n_images"], facts["n_groups"], facts["n_skipped"]) == (77, 4, 3)
    assert facts["has_images"]
    assert facts["has_features"]
    assert facts["can_search_by_image"]
    assert not facts["read_only"]
    assert (facts["backbone"], facts["method"], facts["seed"]) == ("pixels", "kmeans", 0)
    skipped = tab.get("/api/skipped")
    assert skipped["total"] == 3
    assert skipped["kinds"] == [{"reason": "not an image", "n": 3}]
    assert [one["row"] for one in skipped["images"]] == list(BROKEN)
    charts = tab.get("/api/charts")
    assert sum(one["size"] for one in charts["sizes"]) == sum(charts["histogram"]) == 77


def test_a_downloaded_table_is_the_corrected_one(tab, run):
    import io

    import pyarrow.csv
    import pyarrow.parquet as pq

    row = run.assignments["row"].to_pylist()[3]
    tab.edit("move", rows=[row], group=None, name='new, "quoted"')
    tab.edit("mark", rows=[run.assignments["row"].to_pylist()[4]], mark="noise")
    answer = tab.client.get("/api/export/parquet")
    assert 'filename="run.parquet"' in answer.headers["content-disposition"]
    table = pq.read_table(io.BytesIO(answer.content))
    assert table["row"].to_pylist() == run.assignments["row"].to_pylist()
    assert table["name"].to_pylist()[3] == 'new, "quoted"'
    assert table["cluster"].to_pylist()[3:5] == [4, -1]
    written = pyarrow.csv.read_csv(io.BytesIO(tab.client.get("/api/export/csv").content))
    assert written["cluster"].to_pylist() == table["cluster"].to_pylist()
    assert written["name"].to_pylist()[3] == 'new, "quoted"'


def test_a_run_of_one_group_and_few_images_is_shown(tmp_path):
    run = make_gallery_run(tmp_path, n=5, k=1, graph=False)
    with opened(run) as tab:
        assert tab.get("/api/groups")["total"] == 1
        assert tab.get("/api/groups/0")["borders"] == []
        first = tab.get("/api/images", sort="doubt")["images"][0]
        assert first["second"] is None
        assert tab.get("/api/groups", sort="similarity")["total"] == 1


def test_damaged_assignments_are_named(make_run):
    run = make_run(n=10)
    run.labels  # noqa: B018 - read before the table is swapped
    table = run.assignments
    run.__dict__["assignments"] = table.take([1, 0, *range(2, 10)])
    with pytest.raises(FormatError, match="don't rise"):
        Columns.read(run)


def test_names_of_the_run_are_found_and_a_correction_hides_them(run, tab):
    assert tab.get("/api/groups/1")["name"] is None
    tab.edit("rename", group=1, name="ours")
    assert tab.get("/api/groups/1")["name"] == "ours"
    tab.edit("rename", group=1, name=None)
    assert tab.get("/api/groups/1")["name"] is None


def test_renaming_changes_no_count(run):
    columns, _, _ = lists_of(run)
    summaries = GroupSummaries(columns)
    with Corrections.open(run) as corrections:
        before = summaries.of(corrections.state)
        after = summaries.of(corrections.apply(Rename(1, "x")))
    (run.path / "corrections.sqlite").unlink()
    assert before == after
