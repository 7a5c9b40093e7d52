"""What relabelling did: counts alone, no images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.errors import InputError


@dataclass(frozen=True)
class RelabelReport:
    """How labels changed.

    Attributes
    ----------
    rule : str
        "leaf" or "parent".
    n_rows, n_labeled : int
        Rows, and those of them with a label.
    n_inner : int
        Rows whose label had classes below it: those that could move.
    n_moved : int
        Rows whose label changed.
    n_classes_before, n_classes_after : int
        Classes with rows.
    vanished, appeared : tuple of int
        Classes that had rows and have none now, and the other way round.
    n_rows_of_vanished : int
        Rows that had a label of a vanished class; all of them have another one now.
    steps : tuple of int
        How many labeled rows went down 0, 1, 2, … steps.
    before, after : ndarray (m,) int32
        The moves, each pair once: classes before and after.
    counts : ndarray (m,) int64
        How many rows made each, most first, then in the order of the classes.
    """

    rule: str
    n_rows: int
    n_labeled: int
    n_inner: int
    n_moved: int
    n_classes_before: int
    n_classes_after: int
    vanished: tuple[int, ...]
    appeared: tuple[int, ...]
    n_rows_of_vanished: int
    steps: tuple[int, ...]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    counts: NDArray[np.int64]

    @property
    def share_moved(self) -> float:
        """Share of the labeled rows that moved; 0 where there are none."""
        return self.n_moved / max(self.n_labeled, 1)

    @property
    def share_of_inner_moved(self) -> float:
        """Share that moved of those that could; 0 where there are none."""
        return self.n_moved / max(self.n_inner, 1)

    def as_dict(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return it as JSON-ready data without the moves; ``ids`` names the classes."""
        return {
            "rule": self.rule,
            "n_rows": self.n_rows,
            "n_labeled": self.n_labeled,
            "n_inner": self.n_inner,
            "n_moved": self.n_moved,
            "share_moved": self.share_moved,
            "share_of_inner_moved": self.share_of_inner_moved,
            "n_classes_before": self.n_classes_before,
            "n_classes_after": self.n_classes_after,
            "vanished": [ids[number] for number in self.vanished],
            "appeared": [ids[number] for number in self.appeared],
            "n_rows_of_vanished": self.n_rows_of_vanished,
            "steps": list(self.steps),
        }


def make_report(
    rule: str,
    before: NDArray[Any],
    after: NDArray[np.int32],
    steps: NDArray[np.int32],
    is_leaf: NDArray[np.bool_],
) -> RelabelReport:
    """Count what changed between the labels of all rows, −1 for none."""
    labeled = np.flatnonzero(before >= 0)
    old, new = before[labeled].astype(np.int64), after[labeled].astype(np.int64)
    n_classes = len(is_leaf)
    had, has = np.bincount(old, minlength=n_classes), np.bincount(new, minlength=n_classes)
    vanished = np.flatnonzero((had > 0) & (has == 0))
    moved = old != new
    pairs, counts = np.unique(old[moved] * n_classes + new[moved], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return RelabelReport(
        rule=rule,
        n_rows=len(before),
        n_labeled=len(labeled),
        n_inner=int(had[~is_leaf].sum()),
        n_moved=int(moved.sum()),
        n_classes_before=int((had > 0).sum()),
        n_classes_after=int((has > 0).sum()),
        vanished=tuple(vanished.tolist()),
        appeared=tuple(np.flatnonzero((had == 0) & (has > 0)).tolist()),
        n_rows_of_vanished=int(had[vanished].sum()),
        steps=tuple(np.bincount(steps[labeled], minlength=1).tolist()),
        before=(pairs[order] // n_classes).astype(np.int32),
        after=(pairs[order] % n_classes).astype(np.int32),
        counts=counts[order],
    )


def shared_classes(*labels: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[NDArray[np.bool_], ...]]:
    """Find the classes that all of several sets have, and the rows that stay if only these are kept.

    A class may vanish from the training images and stay in the validation images, or the other way round;
    then the rest of its rows has to be left out.

    Parameters
    ----------
    *labels : array of int (N_i,)
        Labels of each set after relabelling; −1 for none.

    Returns
    -------
    classes : ndarray (k,) int64
        Ascending.
    masks : tuple of ndarray (N_i,) bool
        Rows of each set that stay.

    Raises
    ------
    InputError
        No labels are given.

    References
    ----------
    Adaloglou et al., "Scaling Up Deep Clustering Methods Beyond ImageNet-1K", appendix C.1: 37 classes and
    484 training images fewer.

    Examples
    --------
    >>> classes, (train, validation) = shared_classes(np.array([0, 1, 1, 3]), np.array([1, 2, 3]))
    >>> classes.tolist(), train.tolist(), validation.tolist()
    ([1, 3], [False, True, True, True], [True, False, True])
    """
    if not labels:
        raise InputError("classes are shared by one set of labels or more; none is given")
    shared = np.unique(labels[0]).astype(np.int64)
    for other in labels[1:]:
        shared = np.intersect1d(shared, other)
    shared = shared[shared >= 0]
    return shared, tuple(np.isin(one, shared) for one in labels)
