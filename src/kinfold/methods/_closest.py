"""The closest rows of a few: exact, among all rows, without a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinfold.features.unit_rows import UnitRows

_BLOCK_BYTES = 128 << 20
_NONE = -torch.inf


def closest_rows(
    X: Any, rows: NDArray[np.int64], n_closest: int, device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of given rows and their closest others by cosine similarity, in float32.

    Rows without direction (all zero) have no neighbours and are nobody's.

    Parameters
    ----------
    X : array or row matrix (N, D)
        Checked features, read once in blocks.
    rows : ndarray of int64 (R,)
        The rows whose neighbours are wanted; all of them are kept on the device.
    n_closest : int
        Neighbours of each, or all others where there are fewer.
    device : torch.device
        Where to compute.

    Returns
    -------
    owners, others : ndarray of int64 (P,)
        Row numbers of every pair.
    """
    source = UnitRows(X, device)
    queries, numbers = source.take(rows), torch.from_numpy(rows).to(device)
    count = min(n_closest, source.n_rows - 1)
    best = torch.full((len(rows), count), _NONE, device=device)
    found = torch.full((len(rows), count), -1, dtype=torch.int64, device=device)
    step = max(n_closest, _BLOCK_BYTES // (4 * max(len(rows), source.dim)))
    for start in range(0, source.n_rows if count else 0, step):
        block = source.read(start, min(source.n_rows, start + step))
        similarities = _compare(queries, block, numbers - start)
        values, places = similarities.topk(min(count, len(block)), dim=1)
        best, order = torch.cat([best, values], dim=1).topk(count, dim=1)
        found = torch.cat([found, places + start], dim=1).gather(1, order)
    there = (best > _NONE) & (queries.abs().amax(dim=1, keepdim=True) > 0)
    owners = numbers[:, None].expand_as(found)[there]
    return owners.cpu().numpy(), found[there].cpu().numpy()


def _compare(queries: Tensor, block: Tensor, places: Tensor) -> Tensor:
    """Return similarities (R, B); rows without direction and the query itself, at its place, are out."""
    similarities = queries @ block.T
    similarities[:, block.abs().amax(dim=1) == 0] = _NONE
    inside = torch.nonzero((places >= 0) & (places < len(block)))[:, 0]
    similarities[inside, places[inside]] = _NONE
    return similarities
