"""Claims about corrections through the page: none is lost, none is half made, each tab undoes its own."""

from __future__ import annotations

import http.client
import json
import sqlite3
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from kinfold.corrections import Corrections
from kinfold.run import Run
from support.galleries import make_gallery_run, opened, served


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("edits"), n=80, k=4)


@pytest.fixture
def run(made):
    yield made
    for left in made.path.glob("corrections.sqlite*"):
        left.unlink()


@pytest.fixture
def tab(run):
    with opened(run) as tab:
        yield tab


def groups_of(tab):
    return {one["id"]: one for one in tab.get("/api/groups")["groups"]}


def test_every_kind_of_edit_goes_through_and_is_in_the_history(tab, run):
    rows = {group: tab.get("/api/rows", group=group)["rows"] for group in range(4)}
    renamed = tab.edit("rename", group=0, name="reds")
    assert (renamed["version"], renamed["groups"]) == (1, [0])
    assert "reds" in renamed["text"]
    assert tab.edit("move", rows=rows[0][:2], group=1)["groups"] == [0, 1]
    assert tab.edit("move", rows=rows[0][2:4], group=None, name="odd ones")["groups"] == [0, 4]
    tab.edit("mark", rows=rows[1][:1], mark="wrong")
    tab.edit("mark", rows=rows[1][1:3], mark="noise")
    tab.edit("confirm", rows=rows[2][:1])
    assert tab.edit("merge", groups=[3], into=2)["groups"] == [2, 3]
    split = tab.edit("split", group=2, n_clusters=2)
    tab.edit("lock", groups=[0], locked=True)
    found = groups_of(tab)
    assert set(found) == {0, 1, 2, 4, *split["groups"]}
    assert found[0]["locked"]
    assert found[4]["name"] == "odd ones"
    assert (found[1]["n_wrong"], found[1]["n_noise"]) == (1, 2)
    assert found[1]["size"] == len(rows[1]) + 2 - 3
    assert found[split["groups"][1]]["origin"] == 2
    history = tab.get("/api/history")
    kinds = ["lock", "split", "merge", "confirm", "mark", "mark", "move", "move", "rename"]
    assert [one["kind"] for one in history["edits"]] == kinds
    assert all(one["mine"] and not one["undone"] for one in history["edits"])
    moved = tab.get(f"/api/images/{rows[0][0]}")
    assert (moved["group"], moved["original_group"], moved["by_hand"]) == (1, 0, True)


def test_what_is_impossible_now_is_a_conflict_and_changes_nothing(tab):
    tab.edit("lock", groups=[0])
    tab.edit("merge", groups=[3], into=2)
    row = tab.get("/api/rows", group=0)["rows"][0]
    for edit in (
        {"kind": "move", "rows": [row], "group": 1},
        {"kind": "merge", "groups": [0], "into": 1},
        {"kind": "split", "group": 0},
        {"kind": "rename", "group": 3, "name": "gone"},
        {"kind": "move", "rows": [row], "group": 3},
        {"kind": "move", "rows": [row], "group": 77},
        {"kind": "mark", "rows": [4], "mark": "noise"},  # a skipped row
    ):
        answer = tab.send("/api/edits", edit)
        assert answer.status_code == 409, edit
        assert answer.json()["error"]
    assert tab.get("/api/version")["version"] == 2
    assert tab.client.get("/api/groups/3").status_code == 404
    assert tab.client.get("/api/images?group=3").status_code == 404


def test_a_file_that_another_program_holds_is_no_conflict_but_a_matter_of_trying_again(tab, run, monkeypatch):
    monkeypatch.setattr("kinfold.corrections._store._WAIT_SECONDS", 0.05)
    tab.edit("rename", group=0, name="made the file")
    with opened(run) as other, closing(sqlite3.connect(run.path / "corrections.sqlite")) as program:
        program.execute("BEGIN IMMEDIATE")
        answer = other.send("/api/edits", {"kind": "rename", "group": 1, "name": "too early"})
        assert answer.status_code == 503
        assert "held by another program" in answer.json()["error"]
        program.rollback()
        other.edit("rename", group=1, name="in time")


def test_each_tab_undoes_and_redoes_its_own(tab):
    other = tab.called("other")
    tab.edit("rename", group=0, name="mine")
    other.edit("rename", group=1, name="theirs")
    assert tab.send("/api/undo").json()["groups"] == [0]
    assert groups_of(tab)[1]["name"] == "theirs"
    assert tab.send("/api/undo").status_code == 409
    assert not tab.called("third").get("/api/history")["can_redo"]
    answer = tab.get("/api/history")
    assert (answer["can_undo"], answer["can_redo"]) == (False, True)
    assert [(one["mine"], one["undone"]) for one in answer["edits"]] == [(False, False), (True, True)]
    assert tab.send("/api/redo").json()["text"].startswith("did again")
    assert groups_of(tab)[0]["name"] == "mine"


def test_an_edit_of_another_process_is_seen(tab, run):
    before = tab.get("/api/version")["version"]
    with Corrections.open(Run.open(run.path)) as corrections:
        from kinfold.corrections import Rename

        corrections.apply(Rename(2, "from outside"))
    assert tab.get("/api/version")["version"] == before + 1
    assert groups_of(tab)[2]["name"] == "from outside"


def test_a_hundred_clients_at_once_lose_nothing(tab, run):
    rows = run.assignments["row"].to_pylist()
    lost = []

    def work(number):
        mine = tab.called(f"client-{number}")
        row = rows[number % len(rows)]
        for edit in (
            {"kind": "move", "rows": [row], "group": number % 4},
            {"kind": "confirm", "rows": [row]},
        ):
            answer = mine.send("/api/edits", edit)
            if answer.status_code != 200:
                lost.append(answer.text)
        if number % 10 == 0:
            assert mine.send("/api/undo").status_code == 200
        mine.get("/api/groups", limit=3)

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(work, range(100)))
    assert not lost
    history = tab.get("/api/history", limit=1000)["edits"]
    assert len(history) == 200
    assert sum(one["undone"] for one in history) == 10
    assert len({one["id"] for one in history}) == 200
    shown = {one["row"]: one["group"] for one in tab.get("/api/images", limit=500)["images"]}
    with Corrections.open(Run.open(run.path), write=False) as corrections:
        state = corrections.state
    assert shown == dict(zip(rows, state.labels.tolist(), strict=True))
    assert state.version == tab.get("/api/version")["version"] == 210


def test_read_only_refuses_and_writes_nothing(run):
    before = sorted(path.name for path in run.path.iterdir())
    with opened(run, read_only=True) as tab:
        assert tab.get("/api/run")["read_only"]
        for path, content in (
            ("/api/edits", {"kind": "rename", "group": 0, "name": "x"}),
            ("/api/undo", {}),
            ("/api/redo", {}),
            ("/api/refine", {}),
        ):
            assert tab.send(path, content).status_code == 403
        assert tab.client.get("/thumb/0").status_code == 200
        assert tab.send("/api/map").status_code < 500
    assert sorted(path.name for path in run.path.iterdir()) == before


def test_refinement_proposes_and_what_is_accepted_is_proposed_no_more(tab, run):
    rows = tab.get("/api/rows", group=0)["rows"]
    tab.edit("move", rows=rows[: len(rows) // 2], group=1)
    assert tab.get("/api/refine")["proposals"] is None
    assert tab.send("/api/refine").status_code == 200
    while (answer := tab.get("/api/refine"))["state"] == "running":
        time.sleep(0.05)
    assert answer["state"] == "ready", answer["text"]
    found = answer["proposals"]
    assert found["total"] == len(found["images"]) == sum(one["n"] for one in found["by_change"])
    assert found["total"] > 0
    sure = [one["confidence"] for one in found["images"]]
    assert sure == sorted(sure, reverse=True)
    first = found["images"][0]
    listed = {one["row"]: one for one in tab.get("/api/images", limit=500)["images"]}
    assert listed[first["row"]]["proposed"] == first["to"]
    tab.edit("accept", rows=[first["row"]], groups=[first["to"]])
    left = tab.get("/api/refine")["proposals"]
    assert left["total"] == found["total"] - 1
    assert first["row"] not in {one["row"] for one in left["images"]}
    (run.path / "proposals.parquet").unlink()


def test_acknowledged_edits_survive_kill_9(run):
    rows = run.assignments["row"].to_pylist()
    acknowledged = []
    with served(str(run.path)) as (address, process):

        def send(number):
            edit = {"kind": "move", "rows": [rows[number]], "group": None, "name": f"group {number}"}
            request = urllib.request.Request(
                f"{address}api/edits",
                json.dumps(edit).encode(),
                {"Content-Type": "application/json", "Origin": address.rstrip("/"), "X-Client": "t"},
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    acknowledged.append((number, json.load(answer)["version"]))
            except (urllib.error.URLError, http.client.HTTPException, OSError):
                return
            if len(acknowledged) >= 15:
                process.kill()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(send, range(60)))
    assert 15 <= len(acknowledged) < 60
    with opened(Run.open(run.path)) as tab:
        names = {one["name"] for one in tab.get("/api/groups", limit=500)["groups"]}
        assert {f"group {number}" for number, _ in acknowledged} <= names
        history = {one["id"] for one in tab.get("/api/history", limit=500)["edits"]}
        assert {version for _, version in acknowledged} <= history
        tab.edit("rename", group=0, name="and it goes on")


def test_after_an_edit_lists_show_the_new_state_at_once(tab):
    before = tab.get("/api/images", group=1, sort="doubt")
    row = before["images"][0]["row"]
    version = tab.edit("move", rows=[row], group=2)["version"]
    after = tab.get("/api/images", group=1, sort="doubt")
    assert after["version"] == version
    assert after["total"] == before["total"] - 1
    assert row not in [one["row"] for one in after["images"]]
    points = tab.client.get("/api/map/groups")
    labels = np.frombuffer(points.content, "<i4")
    rows = tab.get("/api/rows")["rows"]
    assert labels[rows.index(row)] == 2
