"""One worker process: a plain new interpreter, its environment, and how Ctrl-C finds it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_log = logging.getLogger(__name__)

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from kinfold.images._worker import main; main()"
)
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def launch_worker(shared: int | None) -> subprocess.Popen[bytes]:
    """Start a process that waits for what :func:`kinfold.images._wire.send` writes to its standard input.

    Parameters
    ----------
    shared : int or None
        Descriptor of the file in memory that it inherits.

    Raises
    ------
    OSError
        The system refuses another process.
    """
    options: dict[str, Any] = {}
    if shared is not None:
        options["pass_fds"] = (shared,)
    if os.name == "nt":
        options["creationflags"] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    paths: Sequence[str] = [os.path.abspath(path) for path in sys.path]
    with _interrupts_held():
        return subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            **options,
        )


def end_worker(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, wait for its end and close the pipes to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:
            _log.debug("a pipe to a dead process can't be flushed")


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let a new process begin with Ctrl-C held back, until it ignores it by itself: the loader ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
