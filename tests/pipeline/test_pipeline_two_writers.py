"""Two writers at one place: one wins or both succeed in turn, the other is told, and nothing is half."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

import kinfold
from kinfold.pipeline import check
from support import writer
from support.image_folders import write_images

N_IMAGES = 45
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROUNDS = [pytest.param(3, id="three"), pytest.param(60, id="sixty", marks=SLOW)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    keys = write_images(home / "photos", N_IMAGES)
    kinfold.cluster(home / "photos", 3, method="kmeans", backbone="pixels", out=home / "run", n_workers=1)
    lines = "".join(f"{key},{key.split('/')[0]}\n" for key in keys)
    (home / "labels.csv").write_text(f"key,label\n{lines}")
    return home


@pytest.fixture(scope="module")
def writers():
    """Two processes that write what they are told."""
    processes = [
        subprocess.Popen(
            [sys.executable, writer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(2)
    ]
    yield processes
    for process in processes:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def write_at_once(writers, verbs, home, out, gap):
    """Let both write, the second by ``gap`` seconds later, and return what they answer."""
    for process, verb, seconds in zip(writers, verbs, (0, gap), strict=True):
        order = {"verb": verb, "home": str(home), "out": str(out), "seconds": seconds}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
    return sorted(process.stdout.readline().strip() for process in writers)


def is_whole(verb, out):
    if verb == "csv":
        return len(out.read_text().splitlines()) == N_IMAGES + 1
    if verb == "predict":
        return pq.read_table(out).num_rows == N_IMAGES
    if verb == "folders" and len(list(out.rglob("*.png"))) != N_IMAGES:
        return False
    return check(out).is_whole


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("verb", ["embed", "cluster", "folders", "csv", "predict"])
def test_one_whole_result_is_left_and_the_loser_is_told(writers, home, tmp_path, verb, rounds):
    drawn = random.Random(0)
    name = {"csv": "out.csv", "predict": "out.parquet"}.get(verb, "out")
    for number in range(rounds):
        place = tmp_path / f"{number}"
        place.mkdir()
        gap = 0.1 * drawn.random() if number else 0.0  # the first round at once, others at any distance
        answers = write_at_once(writers, (verb, verb), home, place / name, gap)
        assert answers in (["won", "won"], ["told", "won"])
        assert is_whole(verb, place / name)
        assert sorted(os.listdir(place)) == [name]
        shutil.rmtree(place)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("verbs", [("report", "evaluate"), ("refine", "report"), ("evaluate", "refine")])
def test_verbs_on_one_run_leave_it_whole(writers, home, tmp_path, verbs, rounds):
    drawn = random.Random(0)
    run = shutil.copytree(home / "run", tmp_path / "run")
    for number in range(rounds):
        answers = write_at_once(writers, verbs, home, run, 0.1 * drawn.random() if number else 0.0)
        assert answers in (["won", "won"], ["told", "won"])
        assert check(run).is_whole
        assert not [name for name in os.listdir(run) if name.startswith(".")]
