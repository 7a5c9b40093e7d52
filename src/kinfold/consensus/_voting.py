"""Each head's cluster votes for labels; each sample takes the label with the most votes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinfold.consensus._heads import Labeling

_VOTES_PER_BLOCK = 1 << 20  # what fits the processor's cache: 8 MiB
_MIN_ROWS = 256
_UNIT = 1 << 20  # votes are whole numbers of 2^-20: sums are exact, so ties are ties in any order


@dataclass(frozen=True)
class Ballot:
    """What one head's clusters vote for.

    Attributes
    ----------
    targets : ndarray of int64, shape (n_choices, n_clusters)
        Labels that each cluster votes for; all choices of a cluster differ.
    weights : ndarray of float64, shape (n_choices, n_clusters)
        Weight of each vote, 0 or more and below 2^30; 0 is no vote.
    """

    targets: NDArray[np.int64]
    weights: NDArray[np.float64]


def vote(heads: Sequence[Labeling], ballots: Sequence[Ballot], n_labels: int) -> NDArray[np.int32]:
    """Return the label of the most weighted votes for every sample, the lower one of equals.

    Time grows with samples × heads and not with the number of labels.
    """
    n_samples = heads[0].n_samples
    labels = np.zeros(n_samples, dtype=np.int32)
    rounded = [np.rint(ballot.weights * _UNIT).astype(np.int64) for ballot in ballots]
    urn = np.zeros(_rows_per_block(n_labels, n_samples) * n_labels, dtype=np.int64)
    for block in row_blocks(n_samples, n_labels):
        base = np.arange(block.stop - block.start) * n_labels
        most = np.zeros(len(base), dtype=np.int64)
        winner = np.zeros(len(base), dtype=np.int64)
        used: list[NDArray[np.int64]] = []
        for head, ballot, weights in zip(heads, ballots, rounded, strict=True):
            codes = head.codes[block]
            for targets, weight in zip(ballot.targets, weights, strict=True):
                target = targets[codes]
                places = base + target
                votes = urn[places] + weight[codes]
                urn[places] = votes
                ahead = (votes > most) | ((votes == most) & (target < winner))
                np.copyto(most, votes, where=ahead)
                np.copyto(winner, target, where=ahead)
                used.append(places)
        labels[block] = winner
        for places in used:
            urn[places] = 0
    return labels


def _rows_per_block(n_labels: int, n_samples: int) -> int:
    return min(n_samples, max(_MIN_ROWS, _VOTES_PER_BLOCK // n_labels))


def row_blocks(n_samples: int, n_labels: int) -> Iterator[slice]:
    step = _rows_per_block(n_labels, n_samples)
    return (slice(start, min(start + step, n_samples)) for start in range(0, n_samples, step))
