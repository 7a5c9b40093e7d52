"""Which moved images a sheet shows: pure counting and ordering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_SECTIONS = 24
N_COLUMNS = 6
N_IMAGES = 6


@dataclass(frozen=True)
class Column:
    """Images that went from one class to the same other one.

    Attributes
    ----------
    after : int
        Where they went; the section's own class for those that stayed.
    size : int
        How many.
    shown : list of int
        Positions of those shown, the surest first: every so many in the order of confidence.
    """

    after: int
    size: int
    shown: list[int]


@dataclass(frozen=True)
class Section:
    """One class before, and where its images went, most first."""

    before: int
    size: int
    n_moved: int
    columns: list[Column]
    n_more: int


def arrange_moves(
    before: NDArray[Any],
    after: NDArray[Any],
    confidences: NDArray[Any],
    *,
    n_sections: int = N_SECTIONS,
    n_columns: int = N_COLUMNS,
    n_images: int = N_IMAGES,
) -> list[Section]:
    """Pick the classes that most images left, where most of those went, and some of them.

    Parameters
    ----------
    before, after : NDArray of int (N,)
        Classes of every row; −1 for none.
    confidences : NDArray (N,)
        Probability of each choice; rows without one (NaN) had none and aren't counted.

    Notes
    -----
    Ties are broken by class and by position, so the same labels always give the same sheet.
    """
    rows = np.flatnonzero((before >= 0) & np.isfinite(confidences))
    old, new, sure = before[rows].astype(np.int64), after[rows].astype(np.int64), confidences[rows]
    n_classes = int(max(old.max(initial=-1), new.max(initial=-1))) + 1
    sizes = np.bincount(old, minlength=n_classes)
    moved = np.bincount(old[old != new], minlength=n_classes)
    ranked = np.argsort(-moved, kind="stable")[:n_sections]
    sections = []
    for node in ranked[moved[ranked] > 0].tolist():
        own = np.flatnonzero(old == node)
        counts = np.bincount(new[own], minlength=n_classes)
        targets = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        columns = [
            Column(int(target), int(counts[target]), _spread(rows, own[new[own] == target], sure, n_images))
            for target in targets[:n_columns]
        ]
        n_more = len(targets) - len(columns)
        sections.append(Section(node, int(sizes[node]), int(moved[node]), columns, n_more))
    return sections


def _spread(rows: NDArray[np.int64], members: NDArray[np.int64], sure: NDArray[Any], n: int) -> list[int]:
    """Return positions of ``n`` members at even distances from the surest to the least sure."""
    order = members[np.argsort(-sure[members], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(np.int64))
    return [int(row) for row in rows[order[places]]]
