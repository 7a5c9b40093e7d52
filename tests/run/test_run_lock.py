from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from kinfold import locks
from kinfold.errors import InputError
from kinfold.run import lock_directory

HOLDER = """
import sys, time
from pathlib import Path
from kinfold.run import lock_directory
with lock_directory(Path(sys.argv[1])):
    if len(sys.argv) > 2:
        import multiprocessing
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start processes that hold the lock, and end what is left of them."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_lock_is_free_again_when_the_context_ends(tmp_path):
    for _ in range(3):
        with lock_directory(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path, holder):
    process = holder()
    with pytest.raises(InputError, match=f"being written by process {process.pid}"), lock_directory(tmp_path):
        pass


def test_a_killed_owner_leaves_no_lock(tmp_path, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock_directory(tmp_path):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_that_outlive_a_killed_owner_do_not_hold_its_lock(tmp_path, holder):
    process = holder("with a worker")
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        assert workers
        assert all(worker.is_running() for worker in workers)
        with lock_directory(tmp_path):
            pass
    finally:
        for worker in workers:
            worker.kill()


def test_another_thread_is_refused_without_freeing_the_lock_for_others(tmp_path):
    seen = []

    def enter():
        try:
            with lock_directory(tmp_path):
                seen.append("entered")
        except InputError as error:
            seen.append(str(error))

    with lock_directory(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        refused = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], capture_output=True, text=True, timeout=60
        )
    assert "another thread of this process" in seen[0]
    assert f"process {os.getpid()}" in refused.stderr


def test_a_waiting_owner_gets_its_turn(tmp_path):
    order = []
    with lock_directory(tmp_path):
        thread = threading.Thread(target=lambda: order.append(_enter_waiting(tmp_path)))
        thread.start()
        order.append("first")
    thread.join(timeout=30)
    assert order == ["first", "second"]


def _enter_waiting(directory):
    with lock_directory(directory, wait=True):
        return "second"


class TestWithoutSystemLocks:
    @pytest.fixture(autouse=True)
    def _no_system_locks(self, monkeypatch):
        monkeypatch.setattr(locks, "fcntl", None)

    def test_a_living_owner_is_respected(self, tmp_path):
        parent = psutil.Process(os.getppid())
        (tmp_path / ".lock").write_text(json.dumps({"pid": parent.pid, "started": parent.create_time()}))
        with pytest.raises(InputError, match=f"process {parent.pid}"), lock_directory(tmp_path):
            pass

    @pytest.mark.parametrize("content", ['{"pid": 999999999, "started": 1.0}', "", "nonsense"])
    def test_a_dead_or_unreadable_owner_is_replaced(self, tmp_path, content):
        (tmp_path / ".lock").write_text(content)
        os.utime(tmp_path / ".lock", (1, 1))  # a new one may be that of an owner who hasn't written yet
        with lock_directory(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
        assert list(tmp_path.iterdir()) == []

    def test_a_process_id_that_was_given_to_another_process_is_no_owner(self, tmp_path):
        parent = psutil.Process(os.getppid())
        (tmp_path / ".lock").write_text(
            json.dumps({"pid": parent.pid, "started": parent.create_time() - 100})
        )
        with lock_directory(tmp_path):
            pass
