"""Functions run by several processes under ``torchrun``, for tests of what must not depend on their number.

A test defines a function at the top of its file, which takes keyword arguments that JSON can hold and
returns a dict of arrays, and compares::

    alone = fit_digits(seed=0)
    for result in run_under_torchrun(fit_digits, 2, seed=0):
        np.testing.assert_array_equal(result["labels"], alone["labels"])
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT = 180
_SHOWN = 12_000  # characters


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


def _main() -> None:
    """Be one process of the job."""
    from torch import distributed

    place, arguments, folder = sys.argv[1:]
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
    _main()
