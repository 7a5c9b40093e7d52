"""How much of the exact neighbourhood an approximate search has found, measured on a sample."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import torch

from kinfold.features.unit_rows import UnitRows
from kinfold.neighbors._csr import Csr
from kinfold.neighbors._exact import neighbors_of
from kinfold.neighbors._rule import Rule

logger = logging.getLogger(__name__)

SAMPLE = 512
WARN_BELOW = 0.9
_TIE = 1e-6  # similarities closer than this may stand in for each other
_SEED = 1


def measure_recall(
    rows: UnitRows, found: Csr, rule: Rule, budget: int, device: torch.device
) -> dict[str, Any]:
    """Return ``recall`` and ``recall_sample``: the share found of the exact neighbours of 512 fixed rows.

    A neighbour counts as found where another stands in its place that is as similar up to rounding. The
    figure is logged; one below 0.9 is also a :class:`UserWarning`.
    """
    n = rows.n_rows
    sample = np.sort(np.random.default_rng(_SEED).choice(n, min(n, SAMPLE), replace=False)).astype(np.int64)
    indptr, _, similarities = neighbors_of(rows, sample, rule, budget, device)
    wanted = hits = 0
    for place, row in enumerate(sample):
        exact = similarities[indptr[place] : indptr[place + 1]]
        ours = found[2][found[0][row] : found[0][row + 1]]
        wanted += len(exact)
        hits += min(len(exact), int(np.count_nonzero(ours >= exact[-1] - _TIE)))
    recall = round(hits / wanted, 4)
    logger.info(
        "the approximate search found %.1f %% of the neighbours of %d rows", 100 * recall, len(sample)
    )
    if recall < WARN_BELOW:
        warnings.warn(
            f"the approximate search found only {recall:.1%} of the neighbours; backend='exact' finds all",
            UserWarning,
            stacklevel=4,
        )
    return {"recall": recall, "recall_sample": len(sample)}
