"""Which images of each group a report shows, and the bars of its charts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 20
MAX_SHEETS = 1_000

_MOST_BARS = 240


@dataclass(frozen=True)
class SheetPlan:
    """How much of every group a page shows.

    Attributes
    ----------
    n_top, n_least : int
        Most and least confident members shown per group.
    side : int
        Longest side of a thumbnail in pixels.
    max_bytes : int
        Most bytes one encoded thumbnail may take, so that all of them keep within the page's budget.
    """

    n_top: int
    n_least: int
    side: int
    max_bytes: int


def plan_sheets(n_groups: int, *, budget: int = 16_000_000) -> SheetPlan:
    """Choose thumbnails per group and their side, so that all of them fit into ``budget`` bytes of page.

    From 60 thumbnails of 144 pixels for up to ten groups, down to 8 of 64 pixels for a thousand.

    Parameters
    ----------
    n_groups : int
        Groups that get a sheet, at most :data:`MAX_SHEETS`.
    budget : int
        Bytes that all thumbnails together may take on the page, where three bytes become four characters.
    """
    groups = min(max(n_groups, 1), MAX_SHEETS)
    per_group = int(np.clip(round(60 * (10 / groups) ** 0.44), 8, 60))
    n_least = max(2, per_group // 6)
    side = 144 if groups <= 20 else 112 if groups <= 100 else 88 if groups <= 300 else 64
    max_bytes = budget * 3 // 4 // (per_group * groups)
    return SheetPlan(per_group - n_least, n_least, side, min(max_bytes, 24_000))


@dataclass(frozen=True)
class Sheet:
    """One group as it is shown.

    Attributes
    ----------
    group : int
        The cluster's number, as in ``assignments.parquet``.
    size : int
        Its members, at least one.
    mean_confidence : float
        Their mean confidence.
    histogram : NDArray
        Members per confidence bin of width 1/20, int64, shape (20,).
    top, least : NDArray
        Positions in the assignments of the most confident members (falling) and of the least confident
        ones (rising), int64. They never overlap.
    """

    group: int
    size: int
    mean_confidence: float
    histogram: NDArray[np.int64]
    top: NDArray[np.int64]
    least: NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """All groups of a run, counted.

    Attributes
    ----------
    sizes : NDArray
        Members of every group that there is, by number, int64, shape (K,).
    histogram : NDArray
        Rows per confidence bin, int64, shape (20,).
    mean_confidence : float
        Over all rows; 0 where there are none.
    sheets : list of Sheet
        The groups with members, by falling mean confidence, at most :data:`MAX_SHEETS`.
    empty : list of int
        The groups with none.
    n_left_out : int
        Groups with members that get no sheet because there are too many.
    n_outside : int
        Rows that are in no group.
    """

    sizes: NDArray[np.int64]
    histogram: NDArray[np.int64]
    mean_confidence: float
    sheets: list[Sheet]
    empty: list[int]
    n_left_out: int
    n_outside: int


def arrange_groups(
    labels: NDArray[np.integer], confidence: NDArray[np.floating], groups: Collection[int], plan: SheetPlan
) -> Grouping:
    """Count all groups and pick what is shown of them.

    Parameters
    ----------
    labels : NDArray
        Group of every row, −1 for none, shape (N,).
    confidence : NDArray
        Confidence of every row, in [0, 1], shape (N,).
    groups : collection of int
        The numbers of the groups that there are, dead ones too.
    plan : SheetPlan
        How many members a group shows.

    Notes
    -----
    Ties are broken by position, so the same run always gives the same page.
    """
    inside = np.flatnonzero(labels >= 0)
    n_outside = len(labels) - len(inside)
    labels = labels[inside].astype(np.int64)
    confidence = np.nan_to_num(np.asarray(confidence, dtype=np.float64))[inside]
    n_groups = max(groups, default=-1) + 1
    sizes = np.bincount(labels, minlength=n_groups)
    sums = np.bincount(labels, weights=confidence, minlength=n_groups)
    means = sums / np.maximum(sizes, 1)
    bins = np.clip((confidence * N_BINS).astype(np.int64), 0, N_BINS - 1)
    flat = np.bincount(labels * N_BINS + bins, minlength=n_groups * N_BINS)
    histograms = flat.reshape(n_groups, N_BINS)
    order = inside[np.lexsort((-confidence, labels))]  # stable: equal confidence keeps the order of the rows
    ends = np.cumsum(sizes)
    ranked = np.lexsort((np.arange(n_groups), -means))
    alive = [int(group) for group in ranked if sizes[group]]
    known = np.array(sorted(groups), dtype=np.int64)
    sheets = []
    for group in alive[:MAX_SHEETS]:
        members = order[ends[group] - sizes[group] : ends[group]]
        n_least = min(plan.n_least, len(members) // 4)
        n_top = min(plan.n_top, len(members) - n_least)
        least = members[len(members) - n_least :][::-1]
        mean = float(means[group])
        sheets.append(Sheet(group, len(members), mean, histograms[group], members[:n_top], least))
    return Grouping(
        sizes=sizes[known],
        histogram=histograms.sum(axis=0),
        mean_confidence=float(confidence.mean()) if len(confidence) else 0.0,
        sheets=sheets,
        empty=[int(group) for group in known[sizes[known] == 0]],
        n_left_out=max(0, len(alive) - MAX_SHEETS),
        n_outside=n_outside,
    )


@dataclass(frozen=True)
class Bar:
    """One bar, in a drawing that is 100 high and one wide per bar.

    Attributes
    ----------
    x : int
        Its place from the left.
    height : float
        Its height, in [0, 100].
    title : str
        What it stands for; shown when pointed at.
    """

    x: int
    height: float
    title: str


def draw_bars(values: Iterable[int], titles: Iterable[str]) -> list[Bar]:
    """Scale values so that the largest fills the drawing; what is there at all stays visible."""
    numbers = list(values)
    largest = max([*numbers, 1])
    return [
        Bar(place, round(max(100 * value / largest, 1.5 if value else 0.0), 2), title)
        for place, (value, title) in enumerate(zip(numbers, titles, strict=True))
    ]


def draw_sizes(sizes: NDArray[np.integer]) -> list[Bar]:
    """Draw the groups' sizes, falling; of very many groups, an even choice of 240."""
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    if len(order) > _MOST_BARS:
        order = order[np.linspace(0, len(order) - 1, _MOST_BARS).round().astype(int)]
    return draw_bars(
        [int(sizes[group]) for group in order],
        [f"Group {group}: {int(sizes[group]):,}" for group in order],
    )


def draw_confidence(histogram: NDArray[np.integer]) -> list[Bar]:
    """Draw how many images lie in every bin of confidence."""
    width = 1 / len(histogram)
    return draw_bars(
        [int(count) for count in histogram],
        [
            f"{place * width:.2f} to {(place + 1) * width:.2f}: {int(count):,}"
            for place, count in enumerate(histogram)
        ],
    )


def trace(histogram: NDArray[np.integer]) -> str:
    """Return a small histogram as one SVG path, one wide per bin and 100 high."""
    largest = max(int(histogram.max(initial=0)), 1)
    steps = "".join(
        f"M{place} 100v-{height}h.86v{height}"
        for place, count in enumerate(histogram)
        if (height := max(round(100 * int(count) / largest), 3 if count else 0))
    )
    return steps or "M0 100"
