from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from kinfold.run import Run
from support.image_folders import write_images

STAGES = ("embed", "neighbors", "fit", "assign", "levels", "typicality", "report")
FILES = (
    "assignments.parquet",
    "skipped.parquet",
    "model.json",
    "model.safetensors",
    "levels.json",
    "levels.parquet",
    "levels.safetensors",
    "typicality.parquet",
    "typicality.safetensors",
)

# Loads everything once, then forks a process for each line that it reads: source, out and number of workers.
# That process clusters, and says which stage starts and when work advances.
SERVER = """
import logging, os, sys, traceback
from contextlib import contextmanager
import torch._dynamo  # which the optimiser would load in each process
import kinfold.heads.trainer
from kinfold.pipeline import cluster

kinfold.heads.trainer.SECONDS_BETWEEN = 0.0

def say(*words):
    print(*words, flush=True)

class Talker:
    @contextmanager
    def task(self, description, total, unit=""):
        yield self
    def advance(self, n=1, **figures):
        say("advance", n)

class Listener(logging.Handler):
    def emit(self, record):
        if record.msg == "stage %s: starts":
            say("stage", record.args[0])

logger = logging.getLogger("kinfold.run")
logger.setLevel(logging.INFO)
logger.addHandler(Listener())

def work(source, out, n_workers):
    cluster(
        source, 3, out=out, method="temi", backbone="pixels", n_workers=int(n_workers),
        n_neighbors=20, random_state=3, progress=Talker(),
        method_parameters={"n_heads": 1, "n_epochs": 5},
    )

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            work(*line.rstrip("\\n").split("\\t"))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    say("process", pid)
    say("ended", os.waitpid(pid, 0)[1])
"""


class Server:
    """Starts processes that cluster one source, one at a time."""

    def __init__(self, source: Path, n_workers: int) -> None:
        self.source, self.n_workers = source, n_workers
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def start(self, out: Path) -> Child:
        """Start a process that writes the run ``out``, or goes on with it."""
        self.process.stdin.write(f"{self.source}\t{out}\t{self.n_workers}\n")
        return Child(self.process.stdout)


class Child:
    """A process that clusters, and can be killed."""

    def __init__(self, lines: IO[str]) -> None:
        self.lines = lines
        self.pid: int | None = None

    def read(self) -> list[str]:
        """Read the next line that it says, in words."""
        words = self.lines.readline().split()
        if words[0] == "process":
            self.pid = int(words[1])
            return self.read()
        return words

    def reaches(self, stage: str) -> bool:
        """Read on until the stage starts; False if the process ends well without it."""
        while (words := self.read()) != ["stage", stage]:
            if words[0] == "ended":
                assert words == ["ended", "0"]
                return False
        return True

    def kill(self, rng: random.Random) -> bool:
        """Kill it after some more events and a moment; False if it ended by itself before."""
        words = ["advance"]
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            if words[0] == "advance":
                words = self.read()
        time.sleep(rng.choice([0.0, 0.001, 0.01, 0.05]))
        if words[0] != "ended":
            while self.pid is None:
                words = self.read()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        while words[0] != "ended":
            words = self.read()
        return words == ["ended", "9"]

    def finish(self) -> None:
        """Let it end, which must be well."""
        assert not self.reaches("no such stage")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


def kill_and_compare(
    tmp_path: Path, stages: tuple[str, ...], *, n_kills: int, n_images: int, n_workers: int
) -> None:
    """Kill runs in each of ``stages`` in turn until ``n_kills`` have hit, finish them, and compare."""
    source = tmp_path / "photos"
    write_images(source, n_images)
    (source / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rng = random.Random(0)
    hits: list[str] = []
    with Server(source, n_workers) as server:
        server.start(tmp_path / "undisturbed").finish()
        expected = contents(tmp_path / "undisturbed")
        for attempt in range(3 * n_kills):
            out = tmp_path / f"attempt {attempt}"
            for stage in sorted(stages, key=hits.count)[: n_kills - len(hits)]:
                child = server.start(out)
                if child.reaches(stage) and child.kill(rng):
                    hits.append(stage)
            server.start(out).finish()
            assert contents(out) == expected
            assert not list(out.glob("checkpoint-*"))
            assert not list(out.glob(".partial-*"))
            assert Run.open(out).skipped["key"].to_pylist() == ["red/broken.png"]
            if len(hits) == n_kills:
                break
    assert len(hits) == n_kills
    assert set(hits) == set(stages)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_three_times_ends_in_the_same_bytes(tmp_path):
    kill_and_compare(tmp_path, ("embed", "fit", "assign"), n_kills=3, n_images=60, n_workers=0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_runs_killed_twenty_times_over_all_stages_end_in_the_same_bytes(tmp_path):
    kill_and_compare(tmp_path, STAGES, n_kills=20, n_images=2100, n_workers=2)
