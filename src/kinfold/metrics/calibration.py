"""Calibration: whether a classifier is right as often as its confidence says, and ranks of values in groups.

By ranks among held-out values conformal prediction calibrates: whatever the values mean, a new one of the
same kind lies below a share α of them with probability α.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kinfold.errors import InputError
from kinfold.validation import check_integer

DEFAULT_BINS = 15  # as in Guo et al. 2017, so that errors can be compared with published ones
ENOUGH = 100  # members by which a group is judged alone; fewer are filled up with those of all groups
_ROUNDING = 1e-5  # of a softmax in float32: its largest entry may lie a little above 1


@dataclass(frozen=True)
class CalibrationCurve:
    """Accuracy against confidence, in bins of equal width.

    Attributes
    ----------
    edges : ndarray (n_bins + 1,) float64
        Bin m holds confidences in ``(edges[m], edges[m + 1]]``; the first one 0 too.
    counts : ndarray (n_bins,) int64
        Predictions per bin: the histogram of confidences.
    accuracies, confidences : ndarray (n_bins,) float64
        Share of right ones and mean confidence per bin; NaN where a bin is empty.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    accuracies: NDArray[np.float64]
    confidences: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: ``Σ counts / N · |accuracy − confidence|``."""
        filled = self.counts > 0
        gaps = np.abs(self.accuracies[filled] - self.confidences[filled])
        return float(np.sum(self.counts[filled] * gaps) / self.counts.sum())


def calibration_curve(
    confidences: ArrayLike, correct: ArrayLike, *, n_bins: int = DEFAULT_BINS
) -> CalibrationCurve:
    """Return accuracy and mean confidence of predictions, by confidence.

    Parameters
    ----------
    confidences : array-like (N,)
        Probability that each prediction was made with, 0 to 1.
    correct : array-like of bool (N,)
        Whether it was right.
    n_bins : int, default 15
        Bins of equal width between 0 and 1.

    Raises
    ------
    InputError
        There are no predictions, the lengths differ, a confidence isn't in 0 … 1, ``correct`` isn't
        boolean, or ``n_bins`` is not an integer of at least 1.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Examples
    --------
    >>> curve = calibration_curve([0.2, 0.8, 0.9], [False, True, False], n_bins=2)
    >>> curve.counts.tolist(), curve.accuracies.tolist()
    ([1, 2], [0.0, 0.5])
    >>> round(curve.error, 4)  # 1/3 · 0.2 + 2/3 · 0.35
    0.3
    """
    sure, right = _check(confidences, correct)
    check_integer(n_bins=n_bins)
    edges: NDArray[np.float64] = np.linspace(0, 1, n_bins + 1, dtype=np.float64)
    bins = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    hits = np.bincount(bins, weights=right, minlength=n_bins)
    sums = np.bincount(bins, weights=sure, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return CalibrationCurve(edges, counts, hits / counts, sums / counts)


def expected_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, *, n_bins: int = DEFAULT_BINS
) -> float:
    """Return how far confidence lies from accuracy on average, 0 (calibrated) to 1.

    Parameters and errors are those of :func:`calibration_curve`.

    Examples
    --------
    >>> expected_calibration_error([1.0, 1.0, 1.0, 1.0], [True, True, False, True])
    0.25
    """
    return calibration_curve(confidences, correct, n_bins=n_bins).error


@dataclass(frozen=True)
class ConfidenceHistogram:
    """How many predictions were made with which confidence.

    Attributes
    ----------
    edges : ndarray (n_bins + 1,) float64
        Bin m holds confidences in ``(edges[m], edges[m + 1]]``; the first one 0 too.
    counts : ndarray (n_bins,) int64
        Predictions per bin.
    mean : float
        Mean confidence.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean: float

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the predictions per bin; they sum to 1."""
        return np.asarray(self.counts / self.counts.sum())


def confidence_histogram(confidences: ArrayLike, *, n_bins: int = 20) -> ConfidenceHistogram:
    """Return the histogram of confidences, for which no truth is needed.

    Parameters
    ----------
    confidences : array-like (N,)
        Probability that each prediction was made with, 0 to 1.
    n_bins : int, default 20
        Bins of equal width between 0 and 1.

    Raises
    ------
    InputError
        There are no predictions, a confidence isn't in 0 … 1, or ``n_bins`` is not an integer of at least 1.

    Examples
    --------
    >>> confidence_histogram([0.2, 0.5, 0.9, 1.0], n_bins=2).counts.tolist()
    [2, 2]
    """
    sure = np.asarray(confidences, dtype=np.float64)
    curve = calibration_curve(sure, np.zeros(sure.shape, dtype=bool), n_bins=n_bins)
    return ConfidenceHistogram(curve.edges, curve.counts, float(np.mean(sure)))


@dataclass(frozen=True)
class GroupRanks:
    """Values of the members of groups, among which values are ranked; made by :meth:`of`.

    Attributes
    ----------
    ordered : ndarray (n,) float32
        The values of all members, ascending within each group, group by group.
    starts : ndarray (G + 1,) int64
        Where each group begins.
    whole : ndarray (n,) float32
        The values of all members, ascending.
    """

    ordered: NDArray[np.float32]
    starts: NDArray[np.int64]
    whole: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        values: NDArray[np.floating],
        groups: NDArray[np.integer],
        *,
        order: NDArray[np.integer] | None = None,
    ) -> GroupRanks:
        """Take the values of all members.

        Parameters
        ----------
        values : ndarray (N,)
            Values; members of NaN are left out.
        groups : ndarray (N,) of int
            The group of each; those of −1 are left out.
        order : ndarray (N,) of int, optional
            ``argsort(values)``, where it is known from other groups of the same values: it takes the longest.
        """
        order = np.argsort(values, kind="stable") if order is None else order
        inside = (groups >= 0) & ~np.isnan(values)
        order = order[inside[order]]
        groups, whole = groups[order], np.asarray(values[order], np.float32)
        # In 16 bits where they fit: NumPy sorts those in linear time.
        narrow = groups.astype(np.uint16) if groups.max(initial=0) < 1 << 16 else groups
        starts = np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=1))]).astype(np.int64)
        return cls(whole[np.argsort(narrow, kind="stable")], starts, whole)

    def shares(
        self, values: NDArray[np.floating], groups: NDArray[np.integer], *, members: bool
    ) -> NDArray[np.float32]:
        """Return the share of each value's group that lies below it, in (0, 1); equals count half.

        The value itself is one of its group, so it counts half too: a member, or a new one as if it had
        joined. For a new value of the same distribution P(share < α) is α, but for steps of one in the size
        of the group. In groups of fewer than 100 the members of all groups fill up what is missing.

        Parameters
        ----------
        values : ndarray (m,)
            Values.
        groups : ndarray (m,) of int
            The group of each; one without members is ranked among all, −1 gives NaN.
        members : bool
            Whether these are members, which stand in their group already.

        References
        ----------
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005: smoothed p-values, with the
        mean in place of the random number.
        """
        values = np.asarray(values, np.float32)
        found = np.full(len(values), np.nan, dtype=np.float32)
        joins = 0 if members else 1
        order = np.argsort(groups, kind="stable")
        numbers, firsts = np.unique(groups[order], return_index=True)
        ends = [*firsts[1:].tolist(), len(order)]
        for number, first, end in zip(numbers.tolist(), firsts.tolist(), ends[: len(numbers)], strict=True):
            if number < 0:
                continue
            rows = order[first:end]
            known = number + 1 < len(self.starts)
            own = self.ordered[slice(*self.starts[number : number + 2])] if known else self.ordered[:0]
            size = len(own) + joins
            missing = max(0, ENOUGH - size)
            below = _count_below(own, values[rows], joins)
            if missing:
                below += missing * _count_below(self.whole, values[rows], joins) / (len(self.whole) + joins)
            found[rows] = below / (size + missing)
        found[np.isnan(values)] = np.nan
        return found


def _count_below(
    ascending: NDArray[np.float32], values: NDArray[np.float32], joins: int
) -> NDArray[np.float64]:
    """Return how many lie below each value, equals and the value itself counted half."""
    below = np.searchsorted(ascending, values, side="left")
    up_to = np.searchsorted(ascending, values, side="right")
    return np.asarray((below + up_to + joins) / 2)


def _check(confidences: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, right = np.asarray(confidences, dtype=np.float64), np.asarray(correct)
    if sure.ndim != 1 or sure.shape != right.shape:
        raise InputError(f"confidences {sure.shape} and correct {right.shape} must be lists of one length")
    if not len(sure):
        raise InputError("there are no predictions; calibration needs one at least")
    if right.dtype != np.bool_:
        raise InputError(f"correct must be booleans, not {right.dtype}")
    wrong = ~((sure >= -_ROUNDING) & (sure <= 1 + _ROUNDING))
    if wrong.any():
        raise InputError(f"confidence {int(wrong.argmax())} is {sure[wrong][0]}; it must lie in 0 … 1")
    return sure.clip(0, 1), right
