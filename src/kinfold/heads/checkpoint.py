"""Training state on disk, complete enough that a resumed run ends in the same bytes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinfold.distributed import Workers
from kinfold.storage import as_plain, atomic_file

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 30.0


class Checkpoint:
    """One safetensors file with the state of a training and its history; of several processes, one for each.

    All processes save after the same epoch, and continue from the same: a save is written beside the last
    one and takes its place when all processes have come so far, so that whenever they are killed, all have
    one epoch in common.

    Parameters
    ----------
    path : Path
        The file; replaced atomically at every save. Of several processes each adds its rank to the name.
    live : mapping of str to Tensor
        The state itself, which training updates in place and :meth:`restore` overwrites in place.
    description : mapping
        JSON-ready; a file with another description is not continued from.
    workers : Workers, optional
        The processes that train together; by default this one.
    """

    def __init__(
        self,
        path: Path,
        live: Mapping[str, Tensor],
        description: Mapping[str, Any],
        workers: Workers | None = None,
    ) -> None:
        self._workers = workers or Workers()
        self._path = path
        if self._workers.size > 1:
            self._path = path.with_name(f"{path.name}.{self._workers.rank}-of-{self._workers.size}")
        self._next = self._path.with_name(f"{self._path.name}.next")
        self._live, self._description = live, json.dumps(description, default=as_plain)
        self._last = time.monotonic()

    def restore(self) -> list[NDArray[np.float32]]:
        """Load the state and return the history so far; empty, with nothing loaded, where no file fits."""
        mine = {epoch: path for path in (self._next, self._path) if (epoch := self._epochs_of(path))}
        common = set(mine).intersection(
            *(self._workers.broadcast(set(mine), source=rank) for rank in range(self._workers.size))
        )
        if not common:
            return []
        with safe_open(mine[max(common)], framework="pt") as file:
            history = file.get_tensor("history").numpy()
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(file.get_tensor(name))
        logger.info("continuing after epoch %d", len(history))
        return list(history)

    def save_if_due(self, history: list[NDArray[np.float32]]) -> None:
        """Save when the last save is long enough ago; when it happens changes no result."""
        if self._workers.broadcast(time.monotonic() - self._last >= SECONDS_BETWEEN):
            self.save(history)

    def save(self, history: list[NDArray[np.float32]]) -> None:
        """Write the state after ``len(history)`` epochs."""
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self._live.items()}
        tensors["history"] = torch.from_numpy(np.stack(history))
        target = self._path if self._workers.size == 1 else self._next
        with atomic_file(target) as partial:
            save_file(tensors, partial, metadata={"trainer": self._description})
        self._workers.wait()
        if target != self._path:
            os.replace(target, self._path)
        self._last = time.monotonic()

    def _epochs_of(self, path: Path) -> int:
        """Return the number of epochs in a file that fits; 0, and a warning, where it doesn't."""
        if not path.is_file():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                description = (file.metadata() or {}).get("trainer")
                whole = set(file.keys()) == {*self._live, "history"}
                epochs = int(file.get_slice("history").get_shape()[0]) if whole else 0
        except (SafetensorError, OSError) as error:
            logger.warning("ignoring the damaged checkpoint %s: %s", path, error)
            return 0
        if description != self._description or not whole:
            logger.warning("ignoring the checkpoint %s: it was made with other parameters", path)
            return 0
        return epochs
