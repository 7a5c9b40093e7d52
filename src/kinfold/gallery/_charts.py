"""Drawings of a page as numbers: the template turns them into inline SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MOST_BARS = 240


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
