"""Claims about the sheet of refined labels: what it shows, and that names can't break out of it."""

from __future__ import annotations

import base64
import hashlib
import re

import numpy as np
import pytest

from kinfold.gallery import Moves, write_sheet
from kinfold.gallery.sheet import arrange_moves

NAMES = ("animal", "dog", "cat", '<script>alert("x")</script>')


def random_moves(seed, n=400, n_classes=9):
    rng = np.random.default_rng(seed)
    before, after = rng.integers(-1, n_classes, n), rng.integers(0, n_classes, n)
    sure = rng.uniform(size=n).round(1)  # many alike
    sure[rng.uniform(size=n) < 0.2] = np.nan
    return before, after, sure


@pytest.mark.parametrize("seed", range(5))
def test_a_sheet_counts_those_that_had_a_choice(seed):
    before, after, sure = random_moves(seed)
    chose = (before >= 0) & np.isfinite(sure)
    sections = arrange_moves(before, after, sure, n_sections=4, n_columns=3, n_images=5)
    left = [int((chose & (before == node) & (after != node)).sum()) for node in range(9)]
    assert [section.n_moved for section in sections] == sorted(left, reverse=True)[:4]
    for section in sections:
        own = chose & (before == section.before)
        assert section.size == own.sum()
        assert section.n_moved == left[section.before]
        sizes = sorted(
            (int((own & (after == node)).sum()) for node in set(after[own].tolist())), reverse=True
        )
        assert [column.size for column in section.destinations] == sizes[:3]
        assert section.n_more == len(sizes) - 3
        for column in section.destinations:
            members = np.flatnonzero(own & (after == column.after))
            assert len(column.shown) == len(set(column.shown)) == min(5, column.size)
            assert set(column.shown) <= set(members.tolist())
            shown = sure[column.shown]
            assert (np.diff(shown) <= 0).all()
            assert shown[0] == sure[members].max()
            assert shown[-1] == sure[members].min() or column.size == 1


def test_where_nothing_moved_there_is_nothing_to_arrange():
    same = np.array([0, 1, 1])
    assert arrange_moves(same, same, np.ones(3)) == []
    assert arrange_moves(same, same + 1, np.full(3, np.nan)) == []
    assert arrange_moves(np.array([-1]), np.array([-1]), np.array([np.nan])) == []


def moves(n=12, **more):
    before = np.zeros(n, np.int32)
    after = np.array([1, 2, 3, 0] * (n // 4), np.int32)
    known = {
        "rows": np.arange(n) + 5,
        "keys": [f"{number}<i>.png" for number in range(n)],
        "before": before,
        "after": after,
        "confidences": np.linspace(0.1, 1, n),
        "names": NAMES,
        "ids": ("n1", "n2", "cat", "n4"),
        "title": "<b>9</b> of 12 labels refined",
        "words": ("<u>photos</u>",),
        "figures": {"could move": "12"},
    }
    return Moves(**{**known, **more})


def test_the_page_is_closed_to_the_network_and_to_what_names_hold(tmp_path, make_images):
    images = make_images()
    page = write_sheet(moves(), images, tmp_path / "sheet.html").read_text("utf-8")
    assert sorted(set(images.read_rows)) == list(range(5, 17))
    assert page.count('src="data:image/') == 12
    for wrong in ("<script", "<b>9", "<u>", "<i>"):
        assert wrong not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy.replace("&#39;", "'")
    assert "default-src 'none'" in policy.replace("&#39;", "'")
    assert "stayed, 3" in page
    assert "75.0 % moved" in page
    again = write_sheet(moves(), make_images(), tmp_path / "again.html").read_text("utf-8")
    assert again == page


def test_without_images_and_without_moves_the_page_says_so(tmp_path, make_images):
    page = write_sheet(moves(), None, tmp_path / "sheet.html").read_text("utf-8")
    assert "The images were not found" in page
    assert "0&lt;i&gt;.png" in page
    still = moves(after=np.zeros(12, np.int32))
    assert "No label moved." in write_sheet(still, make_images(), tmp_path / "still.html").read_text("utf-8")


def test_an_image_that_is_gone_leaves_its_reason(tmp_path, make_images):
    page = write_sheet(moves(), make_images(gone=frozenset({5})), tmp_path / "sheet.html").read_text("utf-8")
    assert "the file is gone" in page


def test_large_sheets_keep_within_their_budget(tmp_path, make_images):
    n = 24 * 36 * 2
    before = np.arange(n) % 24
    after = 24 + np.arange(n) // 24 % 6
    big = moves(
        n=n,
        before=before,
        after=after,
        names=[f"c{i}" for i in range(30)],
        ids=[f"c{i}" for i in range(30)],
    )
    path = write_sheet(big, make_images(noisy=True), tmp_path / "sheet.html")
    assert path.stat().st_size < 18_000_000
    assert path.read_text("utf-8").count("<section") == 24
