"""Training state on disk, complete enough that a resumed run ends in the same bytes."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinfold.storage import atomic_file

if TYPE_CHECKING:
    from kinfold.heads.trainer import Trainer

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 30.0


class Checkpoint:
    """One safetensors file with student, teacher, optimiser, objective and history.

    Parameters
    ----------
    path : Path
        The file; replaced atomically at every save.
    trainer : Trainer
        Whose state is saved and restored, in place.
    """

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self._path, self._trainer = path, trainer
        self._last = time.monotonic()

    def restore(self) -> list[NDArray[np.float32]]:
        """Load the state and return the history so far; empty, with nothing loaded, where no file fits."""
        if not self._path.is_file():
            return []
        try:
            with safe_open(self._path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                described = json.loads((file.metadata() or {}).get("trainer", "null"))
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            logger.warning("ignoring the damaged checkpoint %s: %s", self._path, error)
            return []
        if described != json.loads(json.dumps(self._trainer.describe())):
            logger.warning("ignoring the checkpoint %s: it was made with other parameters", self._path)
            return []
        history = tensors.pop("history")
        live = self._live()
        with torch.no_grad():
            for name, tensor in tensors.items():
                live[name].copy_(tensor)
        logger.info("continuing after epoch %d", len(history))
        return list(history.numpy())

    def save_if_due(self, history: list[NDArray[np.float32]]) -> None:
        """Save when the last save is long enough ago; when it happens changes no result."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self.save(history)

    def save(self, history: list[NDArray[np.float32]]) -> None:
        """Write the state after ``len(history)`` epochs."""
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in self._live().items()}
        tensors["history"] = torch.from_numpy(np.stack(history))
        with atomic_file(self._path) as partial:
            save_file(tensors, partial, metadata={"trainer": json.dumps(self._trainer.describe())})
        self._last = time.monotonic()

    def _live(self) -> dict[str, Tensor]:
        trainer = self._trainer
        named = {f"student.{name}": value for name, value in trainer.student.state_dict().items()}
        named |= {f"teacher.{name}": value for name, value in trainer.teacher.state_dict().items()}
        named |= {f"objective.{name}": value for name, value in trainer.objective.state().items()}
        for index, parameter in enumerate(p for g in trainer.optimizer.param_groups for p in g["params"]):
            moments = trainer.optimizer.state[parameter]
            if not moments:
                moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                moments["exp_avg"] = torch.zeros_like(parameter)
                moments["exp_avg_sq"] = torch.zeros_like(parameter)
            named |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return named
