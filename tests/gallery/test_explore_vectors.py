"""Claims about what is like an image: the same as a plain search finds, and plain words where it can't be."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.galleries import HOST, make_gallery_run, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_gallery_run(tmp_path_factory.mktemp("nearest"), n=60)


@pytest.fixture(scope="module")
def tab(run):
    with opened(run) as tab:
        yield tab


def plain_search(run, query, n):
    vectors = np.array(run.features().matrix(), np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ (query / np.linalg.norm(query))
    best = np.argsort(-similarities, kind="stable")[:n]
    return run.assignments["row"].to_numpy()[best].tolist(), similarities[best]


def post(tab, data, kind="image/png", n=5):
    return tab.client.post(
        f"/api/similar?n={n}", content=data, headers={"Origin": HOST, "Content-Type": kind}
    )


@pytest.mark.parametrize("n", [5, 10, 40])  # the graph has ten; more are searched for
def test_neighbours_are_those_of_a_plain_search(tab, run, n):
    rows = run.assignments["row"].to_numpy()
    for place in (0, 7, 30):
        query = np.array(run.features().matrix()[np.array([place])])[0].astype(np.float64)
        expected, similarities = plain_search(run, query, n + 1)
        found = tab.get(f"/api/images/{rows[place]}/neighbors", n=n)["images"]
        assert [one["row"] for one in found] == expected[1:]
        assert [one["similarity"] for one in found] == pytest.approx(similarities[1:], abs=2e-4)
        assert expected[0] == rows[place]


def test_a_run_without_a_graph_is_searched(tmp_path):
    run = make_gallery_run(tmp_path, n=30, graph=False)
    query = np.array(run.features().matrix()[:1])[0].astype(np.float64)
    with opened(run) as tab:
        found = tab.get("/api/images/0/neighbors", n=4)["images"]
        everything = tab.get("/api/images/0/neighbors", n=500)["images"]
    assert [one["row"] for one in found] == plain_search(run, query, 5)[0][1:]
    assert len(everything) == 26


def test_the_graph_is_enough_where_features_are_gone(tmp_path):
    run = make_gallery_run(tmp_path, n=30)
    (run.path / "features.npy").unlink()
    with opened(run) as tab:
        assert not tab.get("/api/run")["has_features"]
        assert len(tab.get("/api/images/0/neighbors", n=24)["images"]) == 10
        assert tab.client.get("/api/images?group=0&sort=distance").status_code == 503
        assert tab.get("/api/groups", sort="similarity")["total"] == 3
        answer = post(tab, b"anything")
        assert answer.status_code == 503
        assert "features" in answer.json()["error"]


def test_other_features_in_their_place_are_not_believed(tmp_path):
    run = make_gallery_run(tmp_path, n=30)
    vectors = np.load(run.path / "features.npy")
    np.save(run.path / "features.npy", vectors[::-1])
    with opened(run) as tab:
        answer = tab.client.get("/api/images?group=0&sort=distance")
        assert answer.status_code == 503
        assert "aren't those" in answer.json()["error"]
        assert not tab.get("/api/run")["has_features"]


def test_a_dropped_image_of_the_run_finds_itself_and_its_group(tab, run):
    for row in (0, 1, 50):
        data = (Path(run.manifest["source"]["images"]) / f"{row:03d}.png").read_bytes()
        answer = post(tab, data).json()
        assert answer["images"][0]["row"] == row
        assert answer["images"][0]["similarity"] == pytest.approx(1, abs=1e-3)
        known = tab.get(f"/api/images/{row}")
        assert [one["group"] for one in answer["top"]] == [one["group"] for one in known["top"]]
        assert answer["top"][0]["probability"] == pytest.approx(known["confidence"], abs=2e-3)


def test_what_is_no_image_or_too_large_is_refused(tab):
    for data in (b"", b"<svg></svg>", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\0" * 1000):
        answer = post(tab, data)
        assert answer.status_code == 400, data
        assert answer.json()["error"]
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    answer = post(tab, bomb.getvalue())
    assert answer.status_code == 400
    assert "pixel limit" in answer.json()["error"]


def test_a_run_of_ready_features_cannot_be_searched_by_image(tmp_path):
    run = make_gallery_run(tmp_path, n=30, backbone=None)
    with opened(run) as tab:
        assert not tab.get("/api/run")["can_search_by_image"]
        answer = post(tab, (tmp_path / "images" / "000.png").read_bytes())
        assert answer.status_code == 503
        assert "ready features" in answer.json()["error"]


def test_features_that_were_moved_are_used_from_where_they_are(tmp_path):
    run = make_gallery_run(tmp_path, n=30, graph=False)
    moved = tmp_path / "elsewhere.npy"
    shutil.move(run.path / "features.npy", moved)
    with opened(run, features=moved) as tab:
        assert len(tab.get("/api/images/0/neighbors", n=3)["images"]) == 3
        assert tab.edit("split", group=0, n_clusters=2)["groups"]


def test_features_that_come_back_are_used_without_starting_anew(tmp_path):
    run = make_gallery_run(tmp_path, graph=False)
    kept = shutil.move(run.path / "features.npy", tmp_path / "elsewhere.npy")
    with opened(run) as tab:
        assert tab.client.get("/api/images/0/neighbors").status_code == 503
        shutil.move(kept, run.path / "features.npy")
        assert tab.get("/api/run")["has_features"]
        assert len(tab.get("/api/images/0/neighbors", n=3)["images"]) == 3
