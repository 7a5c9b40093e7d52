"""Claims about levels in the page: a preview holds every image once; taking a level loses nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from kinfold.corrections import Corrections, switch_level
from kinfold.levels import open_levels
from kinfold.locks import lock_directory
from kinfold.run import Run
from support.galleries import ESTIMATE, HOST, make_gallery_run, make_level_run, opened, set_estimate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_level_run(tmp_path_factory.mktemp("levels"))


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def tab(run):
    with opened(run) as tab:
        yield tab


def names_of(tab):
    return {one["id"]: one["name"] for one in tab.get("/api/groups")["groups"]}


def take(tab, n_groups):
    answer = tab.send("/api/levels", {"n_groups": n_groups})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_control_goes_from_two_groups_to_the_parts_by_way_of_what_was_fitted(tab):
    facts = tab.get("/api/levels")
    assert (facts["shown"], facts["fitted"], facts["before"], facts["curve"]) == (6, 6, None, None)
    for numbers in (facts["steps"], facts["suggested"]):
        assert numbers == sorted(set(numbers))
        assert (numbers[0], numbers[-1]) == (2, facts["n_parts"])
        assert 6 in numbers
    assert set(facts["suggested"]) <= set(facts["steps"])


def test_what_was_estimated_is_drawn_and_its_candidates_are_suggested(run):
    with opened(set_estimate(run, ESTIMATE)) as tab:
        facts = tab.get("/api/levels")
        assert {3, 6, 12} <= set(facts["suggested"])
        assert facts["curve"]["reason"] == ESTIMATE["reason"]


def test_a_preview_holds_every_image_once_and_says_where_its_groups_come_from(tab, run):
    levels = open_levels(run).levels
    for n_groups in (2, 6, 9, levels.n_parts):
        found = tab.get(f"/api/levels/{n_groups}", was=6)
        groups = found["groups"]
        assert found["total"] == len(groups) == n_groups
        assert sum(group["size"] for group in groups) == len(run.labels)
        for group in groups:
            parts = levels.groups(n_groups) == group["group"]
            origins = np.unique(levels.part_clusters[parts]).tolist()
            assert group["was"] == origins
            assert [one["id"] for one in group["from"]] == origins
            whole = np.isin(levels.part_clusters, origins)
            kind = "join" if len(origins) > 1 else "same" if (whole == parts).all() else "part"
            assert group["kind"] == kind
            labels = run.labels[np.searchsorted(run.assignments["row"], group["representatives"])]
            assert set(labels.tolist()) <= set(origins)
        counts = found["counts"]
        assert counts["same"] + counts["divided"] + counts["joined"] == 6
    few = tab.get("/api/levels/9", offset=2, limit=3)
    assert few["groups"] == [
        {name: value for name, value in one.items() if name != "was"}
        for one in tab.get("/api/levels/9", was=6)["groups"][2:5]
    ]
    families = [one["from"][0]["id"] for one in tab.get(f"/api/levels/{levels.n_parts}")["groups"]]
    assert families == sorted(families)  # parts of a group are neighbours


def test_marked_images_are_in_no_preview(tab):
    rows = tab.get("/api/rows", group=0)["rows"]
    tab.edit("mark", rows=rows[:2], mark="noise")
    assert sum(one["size"] for one in tab.get("/api/levels/3")["groups"]) == 158


def test_a_preview_counts_images_where_they_will_be(tab):
    rows = {group: tab.get("/api/rows", group=group)["rows"] for group in range(6)}
    tab.edit("move", rows=rows[0][:5] + rows[1][:3], group=2)
    tab.edit("mark", rows=rows[3][:2] + rows[2][:1], mark="wrong")
    tab.edit("mark", rows=rows[3][4:6], mark="noise")
    tab.edit("merge", groups=[5], into=4)
    tab.edit("move", rows=rows[1][5:8], group=4)  # stays with this level, as the merge does
    expected = {
        n_groups: {one["group"]: one["size"] for one in tab.get(f"/api/levels/{n_groups}")["groups"]}
        for n_groups in (2, 3, 4, 5, 9, 20)
    }
    for n_groups, sizes in expected.items():
        take(tab, n_groups)
        assert {one["id"]: one["size"] for one in tab.get("/api/groups")["groups"]} == sizes
        take(tab, 6)


def walk(tab, **node):
    """Return the sizes of the leaves below a node, and those of the groups of now."""
    leaves, now = [], []
    for one in tab.get("/api/tree", limit=1000, **node)["nodes"]:
        if one["kind"] == "same":
            now.append(one["from"][0]["id"])
        if one["n_children"]:
            below = walk(tab, layer=one["layer"], group=one["group"])
            assert sum(below[0]) == one["size"]
            assert len(below[0]) >= one["n_children"] > 1
            leaves += below[0]
            now += below[1]
        else:
            leaves.append(one["size"])
    return leaves, now


def test_the_tree_leads_from_few_groups_through_those_of_now_to_every_part(tab, run):
    tab.edit("rename", group=2, name="reds")
    leaves, now = walk(tab)
    assert sorted(leaves) == sorted(open_levels(run).levels.part_sizes.tolist())
    assert sorted(now) == [0, 1, 2, 3, 4, 5]
    take(tab, 4)
    assert sorted(walk(tab)[1]) == [0, 1, 2, 3]


def test_a_page_of_children_is_a_part_of_all(tab):
    top = tab.get("/api/tree")
    assert tab.get("/api/tree", offset=1, limit=1)["nodes"] == top["nodes"][1:2]


def test_a_level_becomes_the_groups_and_a_name_stays_there_and_back(tab, run):
    tab.edit("rename", group=1, name="blues")
    kept = next(
        one for one in tab.get("/api/levels/4")["groups"] if one["kind"] == "same"
    )  # of six groups in four some stays
    tab.edit("rename", group=kept["from"][0]["id"], name="kept")
    assert tab.get("/api/run")["opening"] == 0
    answer = take(tab, 4)
    assert answer["shown"] == 4
    assert answer["carried"]["names"] >= 1
    assert Run.open(run.path).level == 4
    assert tab.get("/api/run")["n_groups"] == 4
    assert tab.get("/api/version")["opening"] == 1
    assert "kept" in names_of(tab).values()
    facts = tab.get("/api/levels")
    assert (facts["shown"], facts["fitted"], facts["before"]) == (4, 6, 6)
    fresh = next(group for group, name in names_of(tab).items() if name is None)
    tab.edit("rename", group=fresh, name="coarse")
    take(tab, facts["before"])
    assert Run.open(run.path).level is None
    names = names_of(tab)
    assert (names[1], names[kept["from"][0]["id"]]) == ("blues", "kept")
    take(tab, 4)
    assert {"kept", "coarse"} <= set(names_of(tab).values())


def test_an_image_that_is_dropped_is_placed_among_the_groups_that_are_shown(tab, made):
    take(tab, 2)
    data = (made.path.parent / "images" / "000.png").read_bytes()
    headers = {"Origin": HOST, "Content-Type": "image/png"}
    found = tab.client.post("/api/similar", content=data, headers=headers).json()
    row = found["images"][0]
    assert row["key"] == "000.png"
    assert found["top"][0]["group"] == row["group"]
    assert {one["group"] for one in found["top"]} <= {0, 1}


def test_a_level_that_another_process_took_is_shown_at_the_next_request(tab, run):
    tab.edit("rename", group=0, name="before")
    switch_level(run.path, 3)
    assert tab.get("/api/version")["opening"] == 1
    assert len(tab.get("/api/groups")["groups"]) == 3
    assert tab.get("/api/levels")["before"] == 6
    tab.edit("rename", group=0, name="after")
    with Corrections.open(Run.open(run.path), write=False) as corrections:
        assert corrections.state.groups[0].name == "after"


def test_who_serves_the_page_says_how_a_level_is_taken(run):
    asked = []

    def take_level(path, n_groups, *, features):
        asked.append((path, n_groups, features))
        return switch_level(path, n_groups, features=features)

    with opened(run, take_level=take_level) as tab:
        take(tab, 4)
        take(tab, 6)
    assert asked == [(run.path, 4, None), (run.path, None, None)]  # six are those of the fit


@pytest.mark.parametrize("content", [None, {}, [], {"n_groups": "4"}, {"n_groups": True}, {"n_groups": 1.5}])
def test_what_is_no_number_of_groups_is_refused(tab, content):
    assert tab.send("/api/levels", content).status_code == 400
    assert tab.get("/api/version")["opening"] == 0


@pytest.mark.parametrize("n_groups", [0, -3, 10**6])
def test_a_level_that_is_not_there_is_refused(tab, n_groups):
    assert tab.send("/api/levels", {"n_groups": n_groups}).status_code == 409
    assert tab.client.get(f"/api/levels/{n_groups}").status_code in (400, 404)
    for query in ("layer=7", "layer=2&group=9"):
        assert tab.client.get(f"/api/tree?{query}").status_code == 404


def test_pages_of_other_sites_can_not_change_the_level(tab, run):
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = tab.client.post("/api/levels", json={"n_groups": 4}, headers=headers)
        assert answer.status_code == 403
    assert Run.open(run.path).level is None


def test_a_read_only_page_previews_but_takes_no_level(run):
    with opened(run, read_only=True) as tab:
        assert "read-only" in tab.get("/api/levels")["refusal"]
        assert tab.get("/api/levels/4")["total"] == 4
        answer = tab.send("/api/levels", {"n_groups": 4})
    assert answer.status_code == 403
    assert "read-only" in answer.json()["error"]
    assert Run.open(run.path).level is None


def test_a_run_that_another_process_holds_says_so_and_keeps_its_level(tab, run):
    with lock_directory(run.path):
        answer = tab.send("/api/levels", {"n_groups": 4})
    assert answer.status_code == 409
    assert "is being written by" in answer.json()["error"]
    assert Run.open(run.path).level is None
    take(tab, 4)


def test_a_run_without_levels_is_shown_as_before(tmp_path):
    with opened(make_gallery_run(tmp_path, n=30, graph=False)) as tab:
        assert tab.get("/api/run")["has_levels"] is False
        for path in ("/api/levels", "/api/levels/3", "/api/tree"):
            assert tab.client.get(path).status_code == 404
        assert tab.send("/api/levels", {"n_groups": 2}).status_code == 404


def test_damaged_levels_are_said_and_the_groups_are_shown(run):
    (run.path / "levels.json").write_text("{}")
    with opened(run) as tab:
        answer = tab.client.get("/api/levels")
        assert answer.status_code == 503
        assert "levels.json" in answer.json()["error"]
        assert len(tab.get("/api/groups")["groups"]) == 6


def test_images_are_listed_by_typicality_and_its_groups_are_those_of_now(tab, run):
    assert tab.get("/api/run")["has_typicality"]
    rows = run.assignments["row"].to_numpy()
    own = np.flatnonzero(run.labels == 0)
    found = tab.get("/api/images", group=0, sort="typicality")["images"]
    typicality = run.typicality.copy()
    assert [one["typicality"] for one in found] == [
        round(float(value), 4) for value in np.sort(typicality[own], kind="stable")
    ]
    lone = int(rows[own[np.argmin(typicality[own])]])
    assert found[0]["row"] == lone
    assert tab.get(f"/api/images/{lone}")["typicality"] == found[0]["typicality"]
    tab.edit("mark", rows=[lone], mark="noise")
    assert tab.get(f"/api/images/{lone}")["typicality"] is None
    groups = np.where(rows == lone, -1, run.labels)
    expected = np.sort(run.typicality_in(groups)[groups == 0])
    found = tab.get("/api/images", group=0, sort="typicality", mark="none")["images"]
    np.testing.assert_allclose([one["typicality"] for one in found], expected, atol=1e-4)
    strays = tab.get("/api/images", mark="stray")["images"]
    assert all(one["typicality"] < 0.01 for one in strays)


def test_a_run_of_before_shows_no_typicality(tmp_path):
    with opened(make_gallery_run(tmp_path)) as tab:
        assert not tab.get("/api/run")["has_typicality"]
        assert tab.get("/api/images", sort="typicality")["images"][0]["typicality"] is None
        assert tab.get("/api/images", mark="stray")["total"] == 0
