"""Claims about ``kinfold benchmark run``."""

from __future__ import annotations

import json

import pytest

from kinfold.benchmark import _suite_running
from support.suites import SUITE, Inside, write_suite


@pytest.fixture
def inside(monkeypatch):
    stand_in = Inside()
    stand_in.real = False
    monkeypatch.setattr(_suite_running, "run_in_process", stand_in)
    return stand_in


def test_a_suite_is_run_and_gone_on_with(kinfold, inside, tmp_path):
    words = ("benchmark", "run", write_suite(tmp_path), "--out", tmp_path / "out", "--no-figures", "--json")
    first = json.loads(kinfold(*words, "--seeds", "0").stdout)
    assert first["cells"] == {"run": 1, "done": 1, "failed": 0, "left": 0}
    second = json.loads(kinfold(*words).stdout)
    assert second["cells"]["run"] == 1
    assert second["table"][0]["metrics"]["acc"]["mean"] == pytest.approx(0.805)
    shown = kinfold(*words[:-1]).stdout
    assert "80.50 ± 0.71" in shown
    assert "98.5" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "a"), "integers with commas"),
        (("--seeds", "1,1"), "different integers"),
        (("--only", "kmeens"), "did you mean 'kmeans'"),
    ],
)
def test_what_cannot_be_done_is_said(kinfold, inside, tmp_path, words, message):
    result = kinfold("benchmark", "run", write_suite(tmp_path, SUITE), "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert message in result.output
    assert not inside.orders
