from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_images

from kinfold.run import Run

STAGES = ("embed", "neighbors", "fit", "assign", "report")
FILES = ("assignments.parquet", "skipped.parquet", "model.json", "model.safetensors")

# Clusters argv[1] into argv[2]; says on its standard output which stage starts and when work advances.
DRIVER = """
import logging, sys
from contextlib import contextmanager
import kinfold.heads.checkpoint
from kinfold.pipeline import cluster

kinfold.heads.checkpoint.SECONDS_BETWEEN = 0.0

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

logger = logging.getLogger("kinfold.pipeline")
logger.setLevel(logging.INFO)
logger.addHandler(Listener())
cluster(
    sys.argv[1], 3, out=sys.argv[2], method="temi", backbone="pixels", n_workers=int(sys.argv[3]),
    n_neighbors=20, random_state=3, progress=Talker(),
    method_parameters={"n_heads": 1, "n_epochs": 5},
)
say("finished")
"""


class Child:
    """A process that clusters, and can be killed."""

    def __init__(self, source: Path, out: Path, n_workers: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(source), str(out), str(n_workers)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )

    def wait_for(self, stage: str) -> bool:
        """Read on until the stage starts; False if the process ends without it."""
        return any(line == f"stage {stage}\n" for line in self.process.stdout)

    def kill(self, rng: random.Random) -> None:
        """Kill it after some more events and a moment."""
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            line = self.process.stdout.readline()
            if not line.startswith("advance"):
                break
        time.sleep(rng.choice([0.0, 0.001, 0.01, 0.05]))
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def finish(self) -> None:
        """Let it end, which must be well."""
        out, errors = self.process.communicate(timeout=200)
        assert self.process.returncode == 0, errors
        assert out.endswith("finished\n")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


def kill_and_compare(
    tmp_path: Path, stages: tuple[str, ...], *, n_kills: int, n_images: int, n_workers: int
) -> None:
    """Kill runs in each of ``stages`` in turn until ``n_kills`` have hit, finish them, and compare."""
    source = tmp_path / "photos"
    write_images(source, n_images)
    (source / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Child(source, tmp_path / "undisturbed", n_workers).finish()
    expected = contents(tmp_path / "undisturbed")
    rng = random.Random(0)
    hits: list[str] = []
    for attempt in range(3 * n_kills):
        out = tmp_path / f"attempt {attempt}"
        for stage in stages:
            child = Child(source, out, n_workers)
            if len(hits) < n_kills and child.wait_for(stage):
                child.kill(rng)
                hits.append(stage)
            else:
                child.finish()
        Child(source, out, n_workers).finish()
        assert contents(out) == expected
        assert not list(out.glob("checkpoint-*"))
        assert not list(out.glob(".partial-*"))
        assert Run.open(out).skipped["key"].to_pylist() == ["red/broken.png"]
        if len(hits) >= n_kills:
            break
    assert len(hits) == n_kills
    assert set(hits) == set(stages)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_run_killed_three_times_ends_in_the_same_bytes(tmp_path):
    kill_and_compare(tmp_path, ("embed", "fit", "assign"), n_kills=3, n_images=60, n_workers=0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_runs_killed_twenty_times_over_all_stages_end_in_the_same_bytes(tmp_path):
    kill_and_compare(tmp_path, STAGES, n_kills=20, n_images=2100, n_workers=2)
