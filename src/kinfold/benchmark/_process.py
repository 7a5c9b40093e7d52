"""Work in a process of its own: memory is measured apart, and a crash takes nothing along.

The order is one line of JSON on standard input, the answer the last line of standard output. The pipe stays
open while the work lasts: when it closes, whoever ordered the work is gone, and the work ends too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import kinfold

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_MOST_TEXT = 300


@dataclass(frozen=True)
class Answer:
    """What a process answered to its order.

    Attributes
    ----------
    facts : dict or None
        The answer; None if it failed.
    failed : str or None
        Why it failed.
    seconds : float
        Wall time from start to end of the process.
    """

    facts: dict[str, Any] | None
    failed: str | None
    seconds: float


def run_in_process(
    module: str,
    order: Mapping[str, Any],
    *,
    threads: int,
    timeout: float | None = None,
    paths: Sequence[Path] = (),
) -> Answer:
    """Run ``python -m module`` on an order and return its answer.

    Parameters
    ----------
    module : str
        Its ``main`` takes the order by :func:`read_order` and prints the answer as one line of JSON.
    order : mapping
        JSON-ready.
    threads : int
        Of the numerical libraries.
    timeout : float or None, default None
        Seconds after which the process is ended.
    paths : sequence of Path, default ()
        Further folders that modules are looked for in.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            env=_environment(threads, paths),
        )
        failed = None
        try:
            _send(process, order)
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            failed = f"not done after {timeout:.0f} s"
        finally:
            _end(process)
        seconds = time.monotonic() - started
        if failed is None and process.returncode:
            failed = _why(process.returncode, _read(errors))
        if failed is not None:
            return Answer(None, failed, seconds)
        lines = _read(out).splitlines()
        return Answer(json.loads(lines[-1]), None, seconds)


def read_order() -> dict[str, Any]:
    """Read the order in the process that carries it out; it ends as soon as nobody waits for the answer."""
    line = sys.stdin.readline()
    if line.endswith("\n"):
        threading.Thread(target=_watch, daemon=True).start()
    order: dict[str, Any] = json.loads(line)
    return order


def peak_memory() -> int:
    """Return the most bytes of main memory that this process held."""
    if os.name == "nt":
        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    import resource

    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _watch() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


def _environment(threads: int, paths: Sequence[Path]) -> dict[str, str]:
    places = [*map(str, paths), str(Path(kinfold.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(place for place in places if place)}
    environment |= {name: str(threads) for name in _THREAD_SETTINGS}
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages, as the command line has them
    return environment


def _send(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it ended before it read anything; its exit code says so


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        return


def _read(stream: Any) -> str:
    stream.seek(0)
    text: str = stream.read().decode("utf-8", "replace")
    return text


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"ended by signal {-code}"
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return last[:_MOST_TEXT]
