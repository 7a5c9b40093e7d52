"""A pool of worker processes that may die: the image that killed one is found and set aside."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kinfold.errors import InputError, KinfoldError
from kinfold.images._source import SkipReason, UnusableImage
from kinfold.images._worker import (
    Item,
    Outcome,
    Recipe,
    Task,
    create_shared_file,
    pack_message,
    receive_message,
    send_message,
    unpack_message,
)

_log = logging.getLogger(__name__)

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from kinfold.images._worker import main; main()"
)
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def launch_worker(shared: int | None) -> subprocess.Popen[bytes]:
    """Start a process that waits for messages (:func:`send_message`) on its standard input.

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


_log = logging.getLogger(__name__)

_IN_FLIGHT = 2  # tasks at a worker: one in work, one waiting for it
_DEATHS = 2  # so often may a process die over one image alone before the image is to blame
_FAILED_STARTS = 3
_PAUSE = 0.5  # seconds, after the system refused a process

_ADVICE = "define it in a module that can be imported, or use n_workers=0"
DIED = str(UnusableImage(SkipReason.UNREADABLE, "the decoder process died"))


class WorkerPool:
    """Processes that prepare images, started on the first task.

    The processes are plain new interpreters, neither forked (the parent may run threads of PyTorch) nor
    started by :mod:`multiprocessing` (which would run the user's main script again in each).

    Parameters
    ----------
    recipe : Recipe
        How to prepare an image.
    n_workers : int
        Number of processes.
    niceness : int
        How much their priority is lowered.
    timeout : float or None
        Seconds that one image may take.

    Attributes
    ----------
    shared : int or None
        Descriptor of the file in memory that all processes share; None on Windows.

    Raises
    ------
    InputError
        The recipe can't be sent to another process.
    """

    def __init__(self, recipe: Recipe, n_workers: int, *, niceness: int, timeout: float | None) -> None:
        packed = _pack_recipe(recipe)
        self.shared = create_shared_file()
        self._hello = pack_message((niceness, self.shared, packed))
        self._timeout = timeout
        self._waiting: deque[Task] = deque()
        self._change = threading.Condition()
        self._done: queue.SimpleQueue[list[tuple[Item, Outcome]] | KinfoldError] = queue.SimpleQueue()
        self._deaths: Counter[int] = Counter()
        self._closed = False
        self.n_workers = n_workers
        self._minders = [_Minder(self) for _ in range(n_workers)]
        self._started = False
        self._able = n_workers  # minders that haven't given up

    def submit(self, task: Task) -> None:
        """Queue a task."""
        with self._change:
            if not self._started:
                self._started = True
                for minder in self._minders:
                    minder.thread.start()
            self._waiting.append(task)
            self._change.notify()

    def collect(self) -> list[tuple[Item, Outcome]]:
        """Wait for some items to be finished and return them with their outcomes.

        Raises
        ------
        InputError
            The workers can't be started with this transform.
        """
        while True:
            try:
                finished = self._done.get(timeout=1.0)
            except queue.Empty:
                self._end_hanging()
                continue
            if isinstance(finished, KinfoldError):
                raise finished
            return finished

    def clear(self) -> list[Item]:
        """Forget the tasks that no worker has, and return their items; those begun are still collected."""
        with self._change:
            forgotten = [item for task in self._waiting for item in task.items]
            self._waiting.clear()
            return forgotten

    def wake(self) -> None:
        """Let :meth:`collect` return nothing, once: for a thread that waits there when the pool closes."""
        self._done.put([])

    def close(self) -> None:
        """End the processes at once."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()
            for minder in self._minders:
                minder.kill()
        for minder in self._minders:
            if minder.thread.is_alive() and minder.thread is not threading.current_thread():
                minder.thread.join(10)
        if self.shared is not None:
            os.close(self.shared)

    def _end_hanging(self) -> None:
        if self._timeout is None:
            return
        for minder in self._minders:
            begun = minder.begun
            if begun is not None and time.monotonic() - begun > self._timeout:
                _log.warning("a decoder process hangs and is ended")
                minder.hung = True
                minder.kill()


class _Minder:
    """The thread that starts a process, feeds it, and starts another when it dies."""

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool
        self.process: subprocess.Popen[bytes] | None = None
        self.begun: float | None = None
        self.hung = False
        self.thread = threading.Thread(target=self._run, name="kinfold-images", daemon=True)
        self._sent: deque[Task] = deque()

    def kill(self) -> None:
        """End the process; the thread notices by itself."""
        process = self.process
        if process is not None:
            process.kill()

    def _run(self) -> None:
        try:
            self._tend()
        except Exception as error:  # whoever waits for results must hear of it
            _log.exception("a thread of the image loader failed")
            self.pool._done.put(KinfoldError(f"the image loader failed: {error}"))

    def _tend(self) -> None:
        failed = 0
        while failed < _FAILED_STARTS and self._wait_for_work():
            ready = self._start()
            failed = 0 if ready else failed + 1
            if ready:
                self._serve()
            self._end()
        with self.pool._change:
            self.pool._able -= 1
            if self.pool._able == 0 and not self.pool._closed:
                self.pool._done.put(KinfoldError("no decoder process can be started: they end at once"))

    def _wait_for_work(self) -> bool:
        pool = self.pool
        with pool._change:
            while not pool._closed and not pool._waiting:
                pool._change.wait()
            return not pool._closed

    def _start(self) -> bool:
        pool = self.pool
        try:
            process = launch_worker(pool.shared)
        except OSError as error:
            _log.warning("a decoder process can't be started: %s", error)
            time.sleep(_PAUSE)
            return False
        with pool._change:
            self.process = process
            if pool._closed:
                process.kill()
        answer = None
        if self._send(pool._hello) and process.stdout is not None:
            answer = receive_message(process.stdout)
        if answer is None:
            return False
        trouble = unpack_message(answer)
        if trouble is not None:
            pool._done.put(
                InputError(f"a worker process can't load the source or the transform ({trouble}): {_ADVICE}")
            )
            return False
        return True

    def _serve(self) -> None:
        """Feed the process until it dies or the pool closes."""
        assert self.process is not None
        assert self.process.stdout is not None
        while self._fill():
            answer = receive_message(self.process.stdout)
            if answer is None:
                return
            task = self._sent.popleft()
            self.begun, self.hung = (time.monotonic() if self._sent else None), False
            self.pool._done.put(list(zip(task.items, unpack_message(answer), strict=True)))

    def _fill(self) -> bool:
        """Send tasks until enough are in flight, waiting for the first; False if there can be no more."""
        pool = self.pool
        while len(self._sent) < _IN_FLIGHT:
            with pool._change:
                while not self._sent and not pool._waiting and not pool._closed:
                    pool._change.wait()
                if pool._closed:
                    return False
                if not pool._waiting:
                    return True
                task = pool._waiting.popleft()
            self._sent.append(task)
            self.begun = self.begun or time.monotonic()
            if not self._send(pack_message(task)):
                return False
        return True

    def _send(self, packed: bytes) -> bool:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            send_message(self.process.stdin, packed)
        except OSError:
            return False
        return True

    def _end(self) -> None:
        """Bury the process and give its tasks to others, the first in pieces: one of them killed it."""
        process, pool = self.process, self.pool
        if process is not None:
            end_worker(process)
        with pool._change:
            self.process, self.begun = None, None
            left, hung = list(self._sent), self.hung
            self._sent.clear()
            self.hung = False
            if pool._closed or not left:
                return
            _log.warning("a decoder process died; what it was working on is tried again")
            pool._waiting.extendleft(reversed([*self._in_pieces(left[0], hung=hung), *left[1:]]))
            pool._change.notify_all()

    def _in_pieces(self, task: Task, *, hung: bool) -> Iterator[Task]:
        pool = self.pool
        if len(task.items) > 1:
            yield from (Task((item,), task.spec) for item in task.items)
            return
        (item,) = task.items
        pool._deaths[item.number] += 1
        if hung:
            reason = f"decoding took longer than {pool._timeout:g} seconds"
            pool._done.put([(item, str(UnusableImage(SkipReason.UNREADABLE, reason)))])
        elif pool._deaths[item.number] >= _DEATHS:
            pool._done.put([(item, DIED)])
        else:
            yield task


def _pack_recipe(recipe: Recipe) -> bytes:
    try:
        return pack_message(recipe)
    except Exception as error:  # objects that can't be serialised raise what they like
        text = f"the source or the transform can't be sent to a worker process ({error}): {_ADVICE}"
        raise InputError(text) from error
