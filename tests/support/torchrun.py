"""Functions run by several processes of one job, for tests of what must not depend on their number.

A test defines a function at the top of its file, which takes keyword arguments that JSON can hold and
returns a dict of arrays, and compares::

    alone = fit_digits(seed=0)
    for result in run_together(fit_digits, 2, seed=0):
        np.testing.assert_array_equal(result["labels"], alone["labels"])

``run_under_torchrun`` does the same by the real command, whose three interpreters each import PyTorch first:
some twelve seconds of processor time, for what is about ``torchrun`` itself.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT = 180
_SHOWN = 12_000  # characters
_IMPORTED = ["pytest", "torch", "torch.distributed", "sklearn.utils", "kinfold", "kinfold.pipeline"]


def run_together(
    function: Callable[..., dict[str, Any]], n_processes: int = 2, /, **arguments: Any
) -> list[dict[str, np.ndarray]]:
    """Do what :func:`run_under_torchrun` does, by forks of one process that has imported everything.

    They find one another as under ``torchrun``: by its variables, through a store that the starter keeps.
    """
    from torch.distributed import TCPStore

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    place = f"{function.__code__.co_filename}::{function.__name__}"
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(n_processes)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    with tempfile.TemporaryDirectory() as folder:
        members = []
        for rank in map(str, range(n_processes)):
            settings = {**shared, "RANK": rank, "LOCAL_RANK": rank}
            order = (place, json.dumps(arguments), folder, settings)
            members.append(context.Process(target=_be_member, args=order, daemon=True))
        for member in members:
            member.start()
        _wait(members, Path(folder))
        return [_load(Path(folder) / f"{rank}.npz") for rank in range(n_processes)]


def _wait(members: list[Any], folder: Path) -> None:
    """Wait for all processes; end them where one fails or all take too long."""
    end = time.monotonic() + TIMEOUT
    while any(member.exitcode is None for member in members) and time.monotonic() < end:
        if any(member.exitcode for member in members):
            break
        time.sleep(0.02)
    codes = [member.exitcode for member in members]
    for member in members:
        member.kill()
        member.join()
    printed = "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.log")))
    assert codes == [0] * len(members), f"exit status of each {codes}:\n{printed[-_SHOWN:]}"


def _be_member(place: str, arguments: str, folder: str, settings: dict[str, str]) -> None:
    """Be one process of :func:`run_together`."""
    import torch

    os.environ.clear()
    os.environ.update(settings)
    torch.set_num_threads(1)
    log = os.open(Path(folder) / f"{settings['RANK']}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        _call(place, arguments, folder)
    except BaseException:
        traceback.print_exc()
        raise


def run_under_torchrun(
    function: Callable[..., dict[str, Any]], n_processes: int = 2, /, **arguments: Any
) -> list[dict[str, np.ndarray]]:
    """Call ``function(**arguments)`` in every process of one job; return what each returned, by rank.

    Parameters
    ----------
    function : function at the top level of a module
        Returns a dict of arrays and numbers. Its module is imported anew in every process, so a test's
        file must be importable on its own.
    n_processes : int, default 2
        Processes of the job, each with one thread.
    **arguments
        What JSON can hold.

    Raises
    ------
    AssertionError
        A process failed or took more than three minutes; the message ends with what they printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = f"{function.__code__.co_filename}::{function.__name__}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(n_processes), __file__, place, json.dumps(arguments), folder]
        _run(command)
        return [_load(Path(folder) / f"{rank}.npz") for rank in range(n_processes)]


def _run(command: list[str]) -> None:
    search_path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search_path.rstrip(os.pathsep)}
    process = subprocess.Popen(
        command,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise AssertionError(f"no end after {TIMEOUT} s; printed so far:\n{printed[-_SHOWN:]}") from None
    assert process.returncode == 0, f"exit status {process.returncode}:\n{printed[-_SHOWN:]}"


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def _call(place: str, arguments: str, folder: str) -> None:
    """Call the function, as one process of a job, and keep what it returns."""
    from torch import distributed

    file, name = place.rsplit("::", 1)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    result = getattr(module, name)(**json.loads(arguments))
    np.savez(Path(folder) / f"{os.environ['RANK']}.npz", **result)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    _call(*sys.argv[1:])
