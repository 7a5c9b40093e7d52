"""Exchange between processes, and that one process alone is the identity."""

import itertools

import numpy as np
import pytest
import torch

from kinfold.distributed import Workers, current_workers
from support.torchrun import run_together, run_under_torchrun


def exchange():
    """Use everything, and return what this process holds after it."""
    workers = current_workers()
    workers.wait()
    part = np.arange(3 * workers.rank, 3 * workers.rank + workers.rank + 1)
    return {
        "rank": workers.rank,
        "size": workers.size,
        "first": workers.is_first,
        "again": current_workers() is workers,
        "sum": workers.sum_(torch.full((3,), float(workers.rank + 1))).numpy(),
        "gathered": workers.gather(part),
        "broadcast": workers.broadcast(f"from {workers.rank}", source=workers.size - 1),
    }


def test_one_process_alone_exchanges_nothing():
    result = exchange()
    assert (result["rank"], result["size"], result["first"]) == (0, 1, True)
    np.testing.assert_array_equal(result["sum"], [1, 1, 1])
    np.testing.assert_array_equal(result["gathered"], [0])
    assert result["broadcast"] == "from 0"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("run", "n_processes"),
    [(run_together, 2), (run_together, 3), pytest.param(run_under_torchrun, 2, marks=pytest.mark.slow)],
)
def test_processes_agree_on_sums_parts_and_messages(run, n_processes):
    results = run(exchange, n_processes)
    assert [int(result["rank"]) for result in results] == list(range(n_processes))
    expected = np.concatenate([np.arange(3 * rank, 3 * rank + rank + 1) for rank in range(n_processes)])
    for rank, result in enumerate(results):
        assert int(result["size"]) == n_processes
        assert bool(result["first"]) == (rank == 0)
        assert bool(result["again"])
        np.testing.assert_array_equal(result["sum"], [n_processes * (n_processes + 1) / 2] * 3)
        np.testing.assert_array_equal(result["gathered"], expected)
        assert str(result["broadcast"]) == f"from {n_processes - 1}"


@pytest.mark.parametrize(("n_items", "size"), [(0, 3), (2, 3), (3, 3), (10, 3), (1_000_003, 7)])
def test_shares_are_even_and_cover_everything_in_order(n_items, size):
    shares = [Workers(rank, size).share(n_items) for rank in range(size)]
    assert shares[0].start == 0
    assert shares[-1].stop == n_items
    assert all(left.stop == right.start for left, right in itertools.pairwise(shares))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert [Workers(0, size).share(n_items, rank) for rank in range(size)] == shares
