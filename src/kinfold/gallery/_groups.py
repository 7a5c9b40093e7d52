"""Which images of each group a report shows, and the bars of its charts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 20  # of confidence, each 0.05 wide: as fine as a histogram on a card can show
MAX_SHEETS = 1_000  # groups with images on the page: that leaves each of 8 thumbnails 1.5 kB of the budget

_MOST_BARS = 240  # more would be thinner than a pixel or two on the page


@dataclass(frozen=True)
class SheetPlan:
    """How many images of each group a page shows, and how large.

    Attributes
    ----------
    n_top, n_least : int
        Number of most and of least confident members shown for each group.
    side : int
        Longest side of a thumbnail in pixels.
    max_bytes : int
        Largest size of an encoded thumbnail, so that all of them stay within the page's budget.
    """

    n_top: int
    n_least: int
    side: int
    max_bytes: int


def plan_sheets(n_groups: int, *, budget: int = 16_000_000) -> SheetPlan:
    """Choose number and size of thumbnails for each group, so that all fit into ``budget`` bytes of page.

    From 60 thumbnails of 144 pixels for up to ten groups, down to 8 of 64 pixels for a thousand.

    Parameters
    ----------
    n_groups : int
        Number of groups that get a sheet, at most :data:`MAX_SHEETS`.
    budget : int
        Bytes of all thumbnails on the page, where base64 makes four characters of three bytes.
    """
    groups = min(max(n_groups, 1), MAX_SHEETS)
    # The exponent joins the two ends: 60 for ten groups, 60 · (10 / 1000) ** 0.44 ≈ 8 for a thousand.
    per_group = int(np.clip(round(60 * (10 / groups) ** 0.44), 8, 60))
    n_least = max(2, per_group // 6)
    side = 144 if groups <= 20 else 112 if groups <= 100 else 88 if groups <= 300 else 64
    max_bytes = budget * 3 // 4 // (per_group * groups)
    return SheetPlan(
        per_group - n_least, n_least, side, min(max_bytes, 24_000)
    )  # even where few groups leave room


@dataclass(frozen=True)
class Sheet:
    """One group as a page shows it.

    Attributes
    ----------
    group : int
        The cluster's number, as in ``assignments.parquet``.
    size : int
        Number of members, at least one.
    mean_confidence : float
        Mean confidence of the members.
    histogram : NDArray
        Number of members for each confidence bin of width 1/20, int64, shape (20,).
    top, least : NDArray
        Positions in the assignments of the most confident members (descending) and of the least
        confident ones (ascending), int64. They never overlap.
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
        Number of members of every group, by number, int64, shape (K,).
    histogram : NDArray
        Number of rows for each confidence bin, int64, shape (20,).
    mean_confidence : float
        Over all rows; 0 where there are none.
    sheets : list of Sheet
        The groups with members, by descending mean confidence, at most :data:`MAX_SHEETS`.
    empty : list of int
        Groups without members.
    n_left_out : int
        Number of groups with members that get no sheet, because there are too many.
    n_outside : int
        Number of rows that are in no group.
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
    """Count all groups, and choose the members that are shown.

    Parameters
    ----------
    labels : NDArray
        Group of every row, −1 for none, shape (N,).
    confidence : NDArray
        Confidence of every row, in [0, 1], shape (N,).
    groups : collection of int
        Numbers of all groups, also those without members.
    plan : SheetPlan
        How many members of a group are shown.

    Notes
    -----
    Ties are broken by position, so that the same run always gives the same page.
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
        # In a small group at most a quarter counts as least confident, or the two rows would be alike.
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
    """One bar of a chart that is 100 high and one wide for each bar.

    Attributes
    ----------
    x : int
        Position from the left.
    height : float
        Height, in [0, 100].
    title : str
        Text that is shown when the pointer is on the bar.
    """

    x: int
    height: float
    title: str


def draw_bars(values: Iterable[int], titles: Iterable[str]) -> list[Bar]:
    """Scale values so that the largest fills the chart, and all above 0 stay visible."""
    numbers = list(values)
    largest = max([*numbers, 1])
    return [
        Bar(place, round(max(100 * value / largest, 1.5 if value else 0.0), 2), title)
        for place, (value, title) in enumerate(zip(numbers, titles, strict=True))
    ]


def draw_sizes(sizes: NDArray[np.integer]) -> list[Bar]:
    """Return bars of the groups' sizes, descending; of more than 240 groups, 240 at even distances."""
    order = np.lexsort((np.arange(len(sizes)), -sizes))
    if len(order) > _MOST_BARS:
        order = order[np.linspace(0, len(order) - 1, _MOST_BARS).round().astype(int)]
    return draw_bars(
        [int(sizes[group]) for group in order],
        [f"Group {group}: {int(sizes[group]):,}" for group in order],
    )


def draw_confidence(histogram: NDArray[np.integer]) -> list[Bar]:
    """Return bars of the number of images in every bin of confidence."""
    width = 1 / len(histogram)
    return draw_bars(
        [int(count) for count in histogram],
        [
            f"{place * width:.2f} to {(place + 1) * width:.2f}: {int(count):,}"
            for place, count in enumerate(histogram)
        ],
    )


def trace(histogram: NDArray[np.integer]) -> str:
    """Return a small histogram as one SVG path, 1 wide for each bin and 100 high.

    One path instead of 20 elements: a page has up to a thousand of these.
    """
    largest = max(int(histogram.max(initial=0)), 1)
    steps = "".join(
        f"M{place} 100v-{height}h.86v{height}"
        for place, count in enumerate(histogram)
        if (height := max(round(100 * int(count) / largest), 3 if count else 0))
    )
    return steps or "M0 100"
