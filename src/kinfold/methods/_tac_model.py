"""What a fitted TAC predicts with: the image head, or centroids of images and text counterparts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kinfold.heads import PlainHead
from kinfold.language.space import retrieve
from kinfold.methods._tac_rows import unit_matrix

_BLOCK_BYTES = 8 << 20
_KMEANS_TEMPERATURE = 0.1
_HEAD = "image."


@dataclass(frozen=True)
class TacModel:
    """The part of TAC that new images need, on a device.

    Attributes
    ----------
    n_clusters : int
        K.
    nouns : Tensor (M, D)
        Features of the kept nouns at unit length; the head does without.
    temperature : float
        Of the softmax over nouns.
    head : PlainHead or None
        The image head, where one was trained.
    centroids : Tensor (K, 2D) or None
        Else the unit-length centroids of images beside their counterparts.
    """

    n_clusters: int
    nouns: Tensor
    temperature: float
    head: PlainHead | None = None
    centroids: Tensor | None = None

    @classmethod
    def from_tensors(
        cls,
        n_clusters: int,
        nouns: NDArray[np.float32],
        temperature: float,
        tensors: Mapping[str, NDArray[Any]],
        device: torch.device,
    ) -> TacModel:
        """Return what :meth:`tensors` described, on a device."""
        placed = {name: torch.from_numpy(value).to(device) for name, value in tensors.items()}
        head = None
        if "centroids" not in placed:
            head = PlainHead(*(placed[_HEAD + name] for name in PlainHead._fields))
        of_nouns = torch.from_numpy(nouns).to(device)
        return cls(n_clusters, of_nouns, float(temperature), head, placed.get("centroids"))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return head or centroids by name."""
        if self.head is not None:
            return name_head(self.head)
        assert self.centroids is not None
        return {"centroids": self.centroids.cpu().numpy()}

    def probabilities(self, X: Any) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities (n, K) of blocks of rows that were checked already."""
        widest = max(self.n_clusters, X.shape[1], 0 if self.head is not None else len(self.nouns))
        size = max(1, _BLOCK_BYTES // (4 * widest))
        rows = unit_matrix(X)
        for start in range(0, rows.shape[0], size):
            block = torch.from_numpy(np.ascontiguousarray(rows[start : start + size]))
            with torch.inference_mode():
                logits = self._logits(block.to(self.nouns.device))
                yield torch.softmax(logits, dim=1).cpu().numpy()

    def _logits(self, unit: Tensor) -> Tensor:
        if self.head is not None:
            return self.head.logits(unit)
        assert self.centroids is not None
        joint = torch.cat([unit, retrieve(unit, self.nouns, self.temperature)], dim=1)
        return functional.normalize(joint, dim=1) @ self.centroids.T / _KMEANS_TEMPERATURE


def name_head(head: PlainHead) -> dict[str, NDArray[Any]]:
    """Return the tensors of an image head as a model names them."""
    return {_HEAD + name: value.cpu().numpy() for name, value in head._asdict().items()}
