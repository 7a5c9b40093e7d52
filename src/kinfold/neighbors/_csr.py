"""Rows of neighbours, put together to a graph's three arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold.neighbors._packed import numbers_of, values_of

Csr = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""indptr int64, indices int32, similarities float32."""


class CsrParts:
    """Collects consecutive rows, and lets go of them when they are joined."""

    def __init__(self) -> None:
        self._degrees: list[NDArray[Any]] = []
        self._indices: list[NDArray[Any]] = []
        self._similarities: list[NDArray[Any]] = []

    def add(self, degrees: NDArray[Any], indices: NDArray[Any], similarities: NDArray[Any]) -> None:
        """Add rows by their degrees, and their neighbours one row after another."""
        self._degrees.append(degrees)
        self._indices.append(indices.astype(np.int32, copy=False))
        self._similarities.append(similarities)

    def add_packed(self, best: torch.Tensor, degrees: torch.Tensor) -> None:
        """Add rows by their packed neighbours (rows, width), best first, of which ``degrees`` are kept."""
        kept = best[torch.arange(best.shape[1], device=best.device)[None, :] < degrees[:, None]]
        self.add(degrees.cpu().numpy(), numbers_of(kept).cpu().numpy(), values_of(kept).cpu().numpy())

    def join(self) -> Csr:
        """Return indptr, indices and similarities of all rows."""
        degrees = _join(self._degrees)
        indptr = np.zeros(len(degrees) + 1, dtype=np.int64)
        np.cumsum(degrees, out=indptr[1:])
        return indptr, _join(self._indices), _join(self._similarities)


def replace_rows(whole: Csr, rows: NDArray[Any], part: Csr) -> Csr:
    """Return ``whole`` with the neighbours of some ``rows``, ascending, taken from ``part``."""
    degrees = np.diff(whole[0])
    degrees[rows] = np.diff(part[0])
    indptr = np.zeros(len(degrees) + 1, dtype=np.int64)
    np.cumsum(degrees, out=indptr[1:])
    from_part = np.zeros(len(degrees), dtype=bool)
    from_part[rows] = True
    places, old = np.repeat(from_part, degrees), np.repeat(from_part, np.diff(whole[0]))
    joined = []
    for ours, theirs in zip(whole[1:], part[1:], strict=True):
        array = np.empty(int(indptr[-1]), dtype=ours.dtype)
        array[places], array[~places] = theirs, ours[~old]
        joined.append(array)
    return indptr, joined[0], joined[1]


def spread_rows(part: Csr, rows: NDArray[Any], n_rows: int) -> Csr:
    """Return a graph of ``n_rows`` in which ``rows``, ascending, have the neighbours that ``part`` tells.

    ``part`` counts these rows alone; the others have no neighbours.
    """
    degrees = np.zeros(n_rows, dtype=np.int64)
    degrees[rows] = np.diff(part[0])
    indptr = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(degrees, out=indptr[1:])
    return indptr, rows[part[1]].astype(np.int32), part[2]


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    joined: NDArray[Any] = np.concatenate(parts)
    parts.clear()
    return joined
