"""A process for the tests of the store: ``kill RUN SEED N`` or ``edit RUN NAME``.

``kill`` forks N children that edit until they are killed with SIGKILL, and prints each edit that was
acknowledged. ``edit`` lets 25 threads edit, undo and redo, and prints the state that it ends with.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from kinfold.corrections import Corrections, Mark, Move, Rename
from kinfold.errors import InputError
from kinfold.run import Run

N_THREADS = 25


def edit_until_killed(path: str, name: str, pipe: int) -> None:
    corrections = Corrections.open(Run.open(path))
    number = 0
    while True:
        number += 1
        text = f"{name}-{number}"
        version = corrections.apply(Rename(number % 4, text), client=name).version
        os.write(pipe, f"{version} {text}\n".encode())


def kill_children(path: str, seed: int, count: int) -> None:
    Run.open(path).labels  # noqa: B018  imports what reading a run needs
    chance = random.Random(seed)
    for number in range(count):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            edit_until_killed(path, f"child{number}", theirs)
        os.close(theirs)
        first = os.read(ours, 100) if number % 4 else b""  # one in four may die before its first edit
        time.sleep(chance.choice([0.003, 0.01, 0.03]) * chance.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with open(ours, "rb") as pipe:
            sys.stdout.write((first + pipe.read()).decode())


def digest(corrections: Corrections) -> str:
    state = corrections.state
    content = hashlib.sha256(state.labels.tobytes() + state.marks.tobytes() + state.by_hand.tobytes())
    content.update(repr((state.version, sorted(state.groups.items()))).encode())
    return content.hexdigest()


def edit_in_threads(path: str, name: str) -> None:
    run = Run.open(path)
    rows = run.assignments["row"].to_numpy()
    with Corrections.open(run) as corrections:

        def work(number: int) -> list[int]:
            client, chance, done = f"{name}-{number}", random.Random(f"{name}-{number}"), []
            steps = [
                lambda: corrections.apply(Move([chance.choice(rows)], chance.randrange(4)), client=client),
                lambda: corrections.apply(Move([chance.choice(rows)], None, client), client=client),
                lambda: corrections.undo(client),
                lambda: corrections.redo(client),
                lambda: corrections.apply(Mark([chance.choice(rows)], "wrong"), client=client),
            ]
            for step in steps:
                try:
                    done.append(step().version)
                except InputError as error:
                    if "nothing to" not in str(error):
                        raise
            return done

        with ThreadPoolExecutor(N_THREADS) as pool:
            versions = [version for done in pool.map(work, range(N_THREADS)) for version in done]
        sys.stdout.write(" ".join(map(str, versions)) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()  # until all others are done
        sys.stdout.write(digest(corrections) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill_children(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        edit_in_threads(sys.argv[2], sys.argv[3])
