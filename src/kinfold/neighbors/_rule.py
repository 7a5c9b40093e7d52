"""Which neighbours a sample keeps: the fixed rule, and the adaptive one of ICCE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rule:
    """How many neighbours a row keeps, by their similarities.

    ``at_least`` most similar ones always; with a ``threshold``, all that reach it, up to ``at_most``.
    """

    at_least: int
    at_most: int
    threshold: float | None = None

    @classmethod
    def fixed(cls, n_neighbors: int) -> Rule:
        """Keep the ``n_neighbors`` most similar."""
        return cls(n_neighbors, n_neighbors)

    def degrees(self, similarities: NDArray[Any]) -> NDArray[Any]:
        """Return how many of the descending similarities ``(rows, width)`` each row keeps."""
        width = similarities.shape[1]
        if self.threshold is None:
            return np.full(len(similarities), min(self.at_least, width), dtype=np.int64)
        reached = np.count_nonzero(similarities >= np.float32(self.threshold), axis=1)
        degrees: NDArray[Any] = np.minimum(np.clip(reached, self.at_least, self.at_most), width)
        return degrees

    def describe(self) -> dict[str, Any]:
        """Return the rule as JSON values."""
        cap = None if self.threshold is None else self.at_most
        return {"n_neighbors": self.at_least, "threshold": self.threshold, "max_neighbors": cap}


def threshold_for_degree(
    similarities: NDArray[Any], at_least: int, at_most: int, target_degree: float
) -> float:
    """Return the threshold whose mean degree over sampled rows comes closest to a target.

    Parameters
    ----------
    similarities : float32 array of shape (rows, width)
        The ``at_most`` highest similarities of every sampled row, descending.
    at_least, at_most : int
        The rule's floor and cap; they are part of the mean degree.
    target_degree : float
        The mean degree wished for.

    Notes
    -----
    The mean degree falls as the threshold rises, by steps at the similarities themselves, so a bisection
    over the sorted similarities finds the last one that still reaches the target.
    """
    candidates = np.unique(similarities)
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high + 1) // 2
        degrees = Rule(at_least, at_most, float(candidates[middle])).degrees(similarities)
        if degrees.mean() >= target_degree:
            low = middle
        else:
            high = middle - 1
    return float(candidates[low])
