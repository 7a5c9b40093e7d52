"""Claims about the draws that judge how many groups there are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from studies import levels
from studies.levels import Draw, draws, is_right, load_draw, run, show


@pytest.mark.parametrize(
    ("n_classes", "found", "right"),
    [
        (10, 9, True),
        (10, 12, True),
        (10, 13, False),
        (3, 2, True),
        (2, 4, False),
        (50, 41, True),
        (5, None, False),
    ],
)
def test_a_number_is_right_within_a_fifth_or_one(n_classes, found, right):
    assert is_right(n_classes, found) is right


def test_the_halves_share_no_draw():
    halves = [{(draw.source, draw.seed) for draw in draws(half)} for half in ("developed", "judged")]
    assert not halves[0] & halves[1]


def test_a_draw_has_its_classes_and_falls_as_it_says():
    X, y = load_draw(Draw("digits", 5, 850, 10.0, 3, "judged"), Path())
    counts = np.sort(np.bincount(y)[np.bincount(y) > 0])
    assert len(X) == len(y)
    assert len(counts) == 5
    assert counts[-1] / counts[0] == pytest.approx(10, rel=0.1)


def test_draws_that_are_done_are_not_repeated(tmp_path, monkeypatch):
    calls = []

    def rule(X, seed):
        calls.append(seed)
        return 3, {}

    drawn = [Draw("digits", 3, 300, 1.0, seed, "judged") for seed in (0, 1)]
    monkeypatch.setattr(levels, "RESULTS", tmp_path / "levels.jsonl")
    monkeypatch.setattr(levels, "RULES", {"ours": rule})
    monkeypatch.setattr(levels, "draws", lambda half: iter(drawn))
    for _ in range(2):
        run("judged", Path(), ["ours"])
    assert calls == [0, 1]
    lines = [json.loads(line) for line in (tmp_path / "levels.jsonl").read_text().splitlines()]
    assert [line["found"] for line in lines] == [3, 3]
    assert "| ours | 2 of 2 |" in show()
