"""Damaged files of all formats are refused or read as before; nothing hangs, nothing is written outside."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import selectors
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.damage import damage_bytes, damage_json
from support.fuzz_worker import KINDS

SECONDS = 20.0  # for one file: sound ones take a fraction of one
MOST_MEMORY = 1 << 30  # beyond what the process takes for sound files
# Formats with checksums of all they hold; what people bring has none, so that damage can be other content.
GUARDED = ("run", "store", "graph", "nouns", "npz")
SEED = 14


class Opener:
    """The process that opens files; a new one takes the place of one that hangs or dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, kind: str, path: Path, seconds: float = SECONDS) -> dict[str, object]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.fuzz_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(seconds) else None
        if not line:
            self.close()
            return {"bug": "it hung" if line is None else "the process died", "peak": 0}
        answer: dict[str, object] = json.loads(line)
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A folder with sound files of all formats."""
    home = tmp_path_factory.mktemp("fuzz") / "sound"
    command = [sys.executable, "-m", "support.fuzz_worker", "make", str(home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment, timeout=200)
    return home


def snapshot(folder: Path) -> str:
    """Return a hash of all names and contents below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape"))
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def damage_one(folder: Path, everything: list[Path], rng: random.Random) -> Path:
    """Damage one file of a folder, whichever; return it."""
    victim = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = victim.read_bytes()
    if rng.random() < 0.05:
        data = rng.choice(everything).read_bytes()
    elif victim.suffix == ".json" and rng.random() < 0.6:
        data = damage_json(data, rng)
    else:
        data = damage_bytes(data, rng)
    victim.write_bytes(data)
    return victim


def fuzz(
    sound: Path, place: Path, n_files: int, seed: int
) -> tuple[collections.Counter[str], list[str], list[str]]:
    """Open damaged files; return counts, what is wrong, and the files whose damage made a difference."""
    rng = random.Random(seed)
    everything = sorted(path for path in sound.rglob("*") if path.is_file() and "images" not in path.parts)
    outside = place / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    before = snapshot(outside), snapshot(sound / "images")
    opener, counts, wrong, different = Opener(), collections.Counter(), [], []
    right, base = {}, 0
    try:
        for kind in KINDS:
            work = shutil.copytree(sound / kind, place / "a/b/work")
            answer = opener.ask(kind, work, 200.0)
            assert "digest" in answer, (kind, answer)
            right[kind], base = answer["digest"], max(base, int(str(answer["peak"])))
            shutil.rmtree(work)
        weights = [12 if kind == "run" else 1 + 2 * (kind == "store") for kind in KINDS]
        for number in range(n_files):
            # Each kind once at first, so that short tests cover them all.
            kind = list(KINDS)[number] if number < len(KINDS) else rng.choices(list(KINDS), weights)[0]
            work = shutil.copytree(sound / kind, place / "a/b/work")
            victim = damage_one(work, everything, rng).relative_to(work).as_posix()
            answer = opener.ask(kind, work)
            result = next(name for name in ("bug", "refused", "digest") if name in answer)
            if result == "digest":
                result = "same" if answer["digest"] == right[kind] else "different"
            counts[result] += 1
            if result == "bug":
                wrong.append(f"{number}: {kind}/{victim}: {answer['bug']}")
            if result == "different":
                different.append(f"{kind}/{victim}")
            if int(str(answer["peak"])) > base + MOST_MEMORY:
                wrong.append(f"{number}: {kind}/{victim}: {answer['peak']} bytes of memory")
                opener.close()
            shutil.rmtree(work)
    finally:
        opener.close()
    if (snapshot(outside), snapshot(sound / "images")) != before:
        wrong.append("something was written outside")
    if left := sorted(path.name for path in place.iterdir() if path.name not in ("a", "outside")):
        wrong.append(f"written outside: {left}")
    return counts, wrong, different


def check(sound, place, n_files, seed):
    counts, wrong, different = fuzz(sound, place, n_files, seed)
    summary = f"{dict(counts)}, different: {dict(collections.Counter(different))}"
    assert not wrong, "\n\n".join([summary, *wrong[:20]])
    assert not [name for name in different if name.partition("/")[0] in GUARDED], summary


def test_sixty_damaged_files_are_refused_in_words_or_read_as_before(sound, tmp_path):
    check(sound, tmp_path, 60, SEED)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_damaged_files_are_refused_in_words_or_read_as_before(sound, tmp_path):
    check(sound, tmp_path, 2_400, SEED + 1)
