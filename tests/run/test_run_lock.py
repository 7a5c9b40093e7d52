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
from kinfold.locks import lock_output
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


def test_a_thread_locks_what_it_holds_again_if_it_says_so(tmp_path):
    with lock_directory(tmp_path):
        with lock_directory(tmp_path, again=True):
            pass
        assert (tmp_path / ".lock").exists()
        with pytest.raises(InputError, match="another thread"), lock_directory(tmp_path):
            pass


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_lock_that_is_no_file_of_its_own_is_refused_and_what_it_leads_to_stays(tmp_path, kind):
    (tmp_path / "precious").write_text("precious")
    home = tmp_path / "home"
    home.mkdir()
    lock = home / ".lock"
    if kind == "link":
        lock.symlink_to(tmp_path / "precious")
    elif kind == "dangling link":
        lock.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        os.link(tmp_path / "precious", lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InputError, match=r"\.lock is a link or no regular file"), lock_directory(home):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["home", "precious"]
    assert os.path.lexists(lock)


def test_a_folder_that_is_made_for_a_lock_goes_again_if_nothing_was_written(tmp_path):
    for name in ("a/b", "a/b"):
        with lock_directory(tmp_path / name, create=True):
            assert (tmp_path / name).is_dir()
        assert not (tmp_path / name).exists()
    with lock_directory(tmp_path / "a", create=True):
        assert os.listdir(tmp_path / "a") == [".lock"]
    assert (tmp_path / "a").is_dir()  # it was there before
    with lock_directory(tmp_path / "c", create=True):
        (tmp_path / "c" / "file").write_text("")
    assert os.listdir(tmp_path / "c") == ["file"]


def test_a_folder_that_its_last_owner_removes_is_made_anew(tmp_path, monkeypatch):
    taken = []

    def take(path):
        if not taken:
            taken.append(path)
            path.parent.rmdir()
        return real(path)

    real = locks._take
    monkeypatch.setattr(locks, "_take", take)
    with lock_directory(tmp_path / "new", create=True):
        assert taken
        assert (tmp_path / "new" / ".lock").exists()


@pytest.mark.parametrize("name", ["out", "out.csv", "x" * 250])
def test_an_output_is_held_by_a_file_beside_it(tmp_path, name):
    with lock_output(tmp_path / "new" / name), lock_output(tmp_path / "new" / name):
        (lock,) = os.listdir(tmp_path / "new")
        assert lock.startswith(".lock-")
        with lock_output(tmp_path / "new" / "another"):
            pass
    assert os.listdir(tmp_path / "new") == []


def test_an_output_that_another_process_writes_is_refused(tmp_path):
    script = HOLDER.replace("lock_directory(Path(sys.argv[1]))", "lock_output(Path(sys.argv[1]))")
    script = script.replace("from kinfold.run import lock_directory", "from kinfold.locks import lock_output")
    words = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"out is being written by process {process.pid}"):
            lock_output(tmp_path / "out").__enter__()
        process.kill()
    with lock_output(tmp_path / "out"):
        pass


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

    def test_an_owner_that_has_not_written_yet_is_respected(self, tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(InputError, match="another process"), lock_directory(tmp_path):
            pass

    @pytest.mark.parametrize(
        "content", ['{"pid": 1e999, "started": 1}', '{"pid": "1", "started": 1}', "[" * 9999]
    )
    def test_an_owner_that_is_nonsense_is_no_owner(self, tmp_path, content):
        (tmp_path / ".lock").write_text(content)
        os.utime(tmp_path / ".lock", (1, 1))
        with lock_directory(tmp_path):
            pass

    def test_a_process_id_that_was_given_to_another_process_is_no_owner(self, tmp_path):
        parent = psutil.Process(os.getppid())
        (tmp_path / ".lock").write_text(
            json.dumps({"pid": parent.pid, "started": parent.create_time() - 100})
        )
        with lock_directory(tmp_path):
            pass
