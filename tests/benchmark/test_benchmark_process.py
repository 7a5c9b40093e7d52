"""Claims about the process of one fit: whatever becomes of it, its starter learns so."""

from __future__ import annotations

import pytest

from kinfold.benchmark import run_in_process

MODULES = {
    "answers": "import json, os, sys\norder = json.loads(sys.stdin.readline())\n"
    "print('more words')\nprint(json.dumps({**order, 'threads': os.environ['OMP_NUM_THREADS']}))\n",
    "sleeps": "import time\ntime.sleep(600)\n",
    "refuses": "import sys\nsys.exit('first\\nbeta must be in (0, 1]')\n",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
}


@pytest.fixture
def run(tmp_path):
    def start(name, **options):
        (tmp_path / f"that_{name}.py").write_text(MODULES[name])
        return run_in_process(f"that_{name}", {"seed": 3}, threads=2, paths=[tmp_path], **options)

    return start


def test_the_last_line_is_the_answer_to_the_order(run):
    answer = run("answers")
    assert answer.facts == {"seed": 3, "threads": "2"}
    assert answer.failed is None
    assert answer.seconds > 0


def test_what_takes_too_long_is_ended_and_told(run):
    answer = run("sleeps", timeout=0.2)
    assert answer.facts is None
    assert "not done after" in answer.failed
    assert answer.seconds < 300


def test_errors_and_deaths_are_told_in_words(run):
    assert run("refuses").failed == "beta must be in (0, 1]"
    assert run("dies").failed == "ended by signal 9"
