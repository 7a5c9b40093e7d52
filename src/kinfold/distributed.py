"""Processes that work on one fit: rank, share of the samples, and sums over all of them.

Started by ``torchrun``, the processes of one job find each other here. Started alone, there is one worker,
and every exchange is the identity, so that callers need no second code path.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

# How long an exchange waits for the others: they may stand still while the first process embeds all images.
# A lost connection ends the wait at once, so a long limit costs nothing.
PATIENCE = timedelta(days=30)


class Workers:
    """The processes that work on one fit.

    Parameters
    ----------
    rank : int, default 0
        Number of this process, in 0 … size − 1.
    size : int, default 1
        Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def share(self, n_items: int, rank: int | None = None) -> slice:
        """Return the slice of ``n_items`` that one process (by default this one) works on."""
        rank = self.rank if rank is None else rank
        return slice(rank * n_items // self.size, (rank + 1) * n_items // self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return the parts of all processes joined along the first axis, in the order of their ranks."""
        if self.size == 1:
            return part
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, np.ascontiguousarray(part))
        return np.concatenate(parts)

    def broadcast(self, content: Any, source: int = 0) -> Any:
        """Return the ``content`` of the process ``source``: any small object that can be pickled."""
        if self.size == 1:
            return content
        box = [content]
        dist.broadcast_object_list(box, src=source)
        return box[0]

    def wait(self) -> None:
        """Block until all processes have called this."""
        if self.size > 1:
            dist.barrier()


@lru_cache(maxsize=1)
def current_workers() -> Workers:
    """Return the processes that ``torchrun`` started, joined on first use; one worker where it didn't."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return Workers()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    return Workers(dist.get_rank(), dist.get_world_size())
