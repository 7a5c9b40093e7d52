"""Training state on disk, complete enough that a resumed run ends in the same bytes."""

from __future__ import annotations

import json
import logging
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

from kinfold.storage import atomic_file

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 30.0


class Checkpoint:
    """One safetensors file with the state of a training and its history.

    Parameters
    ----------
    path : Path
        The file; replaced atomically at every save.
    live : mapping of str to Tensor
        The state itself, which training updates in place and :meth:`restore` overwrites in place.
    description : mapping
        JSON-ready; a file with another description is not continued from.
    """

    def __init__(self, path: Path, live: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
        self._path, self._live = path, live
        self._description = json.dumps(description)
        self._last = time.monotonic()

    def restore(self) -> list[NDArray[np.float32]]:
        """Load the state and return the history so far; empty, with nothing loaded, where no file fits."""
        if not self._path.is_file():
            return []
        try:
            with safe_open(self._path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                description = (file.metadata() or {}).get("trainer")
        except (SafetensorError, OSError) as error:
            logger.warning("ignoring the damaged checkpoint %s: %s", self._path, error)
            return []
        if description != self._description:
            logger.warning("ignoring the checkpoint %s: it was made with other parameters", self._path)
            return []
        history = tensors.pop("history")
        with torch.no_grad():
            for name, tensor in tensors.items():
                self._live[name].copy_(tensor)
        logger.info("continuing after epoch %d", len(history))
        return list(history.numpy())

    def save_if_due(self, history: list[NDArray[np.float32]]) -> None:
        """Save when the last save is long enough ago; when it happens changes no result."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self.save(history)

    def save(self, history: list[NDArray[np.float32]]) -> None:
        """Write the state after ``len(history)`` epochs."""
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self._live.items()}
        tensors["history"] = torch.from_numpy(np.stack(history))
        with atomic_file(self._path) as partial:
            save_file(tensors, partial, metadata={"trainer": self._description})
        self._last = time.monotonic()
