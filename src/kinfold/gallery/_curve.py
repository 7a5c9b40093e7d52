"""The curve from which the number of groups was estimated, as a drawing that both pages show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

WIDTH, HEIGHT = 360, 170
"""Of the drawing, in the units of its coordinates: about the pixels of a narrow phone."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 30.0, 10.0, 20.0, 24.0  # around the plot: numbers of the axes, and of the mark
_TICKS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
_LEAST_GAP = 26.0  # between two numbers below the axis, so that they don't touch
_MOST_CANDIDATES = 20
_MOST_REASON = 400  # characters


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, and its place on that axis."""

    at: float
    text: str


@dataclass(frozen=True)
class CurveMark:
    """A number of groups that stands out: a candidate, or the one that was chosen."""

    n_groups: int
    x: float
    y: float
    chosen: bool


@dataclass(frozen=True)
class Curve:
    """How the number of groups was estimated.

    Attributes
    ----------
    reason : str
        One sentence that says what was chosen and why.
    chosen : int or None
        The number of groups that was taken.
    recommended : int or None
        The number that is meant; None where none is clear.
    candidates : tuple of int
        Numbers that stand out, ascending.
    line, null : str
        Points of the separation, and of that of data without groups, as SVG takes them; "" for none.
    marks : tuple of CurveMark
        Candidates and the chosen number, where they lie on the line.
    ticks, levels : tuple of Tick
        Numbers below the drawing (groups, on a logarithmic axis) and left of it (separation).
    left, right, top, bottom : float
        Edges of the plot.
    width, height : int
        Of the drawing.
    """

    reason: str
    chosen: int | None
    recommended: int | None
    candidates: tuple[int, ...]
    line: str
    null: str
    marks: tuple[CurveMark, ...]
    ticks: tuple[Tick, ...]
    levels: tuple[Tick, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return asdict(self)


def read_curve(estimate: Mapping[str, Any] | None) -> Curve | None:
    """Return the drawing of an estimate as ``levels.json`` holds it; None where there is nothing to show.

    What is missing, or isn't a number, is left out of the drawing: an estimate explains a run, and the pages
    show the run without it too.
    """
    if not isinstance(estimate, Mapping):
        return None
    numbers = [value if _is_count(value) else None for value in _list(estimate, "n_groups")]
    line = _pairs(numbers, _list(estimate, "separation"))
    null = _pairs(numbers, _list(estimate, "null_separation"))
    chosen, recommended = _count(estimate, "chosen"), _count(estimate, "recommended")
    candidates = sorted({n for n in _list(estimate, "candidates") if _is_count(n)})[:_MOST_CANDIDATES]
    reason = estimate.get("reason")
    reason = reason[:_MOST_REASON] if isinstance(reason, str) else ""
    if len(line) < 2 and not reason:
        return None
    frame = _Frame.around([*line, *null]) if len(line) > 1 else None
    marked = sorted({*candidates, *([chosen] if chosen else [])})
    return Curve(
        reason=reason,
        chosen=chosen,
        recommended=recommended,
        candidates=tuple(candidates),
        line=frame.points(line) if frame else "",
        null=frame.points(null) if frame and len(null) > 1 else "",
        marks=tuple(frame.mark(n, line, n == chosen) for n in marked if frame.holds(n)) if frame else (),
        ticks=frame.ticks() if frame else (),
        levels=frame.levels() if frame else (),
    )


@dataclass(frozen=True)
class _Frame:
    """From numbers of groups and separations to places in the drawing."""

    first: float
    last: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[tuple[int, float]]) -> _Frame:
        numbers, values = [n for n, _ in points], [value for _, value in points]
        low, high = min(0.0, *values), max(values)
        return cls(min(numbers), max(max(numbers), min(numbers) + 1), low, high if high > low else low + 1)

    def holds(self, n_groups: int) -> bool:
        return self.first <= n_groups <= self.last

    def x(self, n_groups: float) -> float:
        share = math.log(n_groups / self.first) / math.log(self.last / self.first)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP), 1)

    def points(self, points: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{self.x(n)},{self.y(value)}" for n, value in points)

    def mark(self, n_groups: int, line: Sequence[tuple[int, float]], chosen: bool) -> CurveMark:
        """Return the mark of a number, on the line between the two that were looked at beside it."""
        x = self.x(n_groups)
        before = max((point for point in line if point[0] <= n_groups), default=line[0])
        after = min((point for point in line if point[0] >= n_groups), default=line[-1])
        span = self.x(after[0]) - self.x(before[0])
        share = (x - self.x(before[0])) / span if span else 0.0
        return CurveMark(n_groups, x, self.y(before[1] + share * (after[1] - before[1])), chosen)

    def ticks(self) -> tuple[Tick, ...]:
        found: list[Tick] = []
        for n in _TICKS:
            if self.holds(n) and (not found or self.x(n) - found[-1].at >= _LEAST_GAP):
                found.append(Tick(self.x(n), f"{n:,}"))
        return tuple(found)

    def levels(self) -> tuple[Tick, ...]:
        return tuple(Tick(self.y(value), f"{value:.2g}") for value in (self.low, self.high))


def _list(estimate: Mapping[str, Any], name: str) -> list[Any]:
    found = estimate.get(name)
    return found if isinstance(found, list) else []


def _count(estimate: Mapping[str, Any], name: str) -> int | None:
    found = estimate.get(name)
    return found if isinstance(found, int) and _is_count(found) else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _pairs(numbers: Sequence[Any], values: Sequence[Any]) -> list[tuple[int, float]]:
    """Return (number of groups, value), ascending, where both are there."""
    found = {
        number: float(value)
        for number, value in zip(numbers, values, strict=False)
        if number is not None
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
    return sorted(found.items())
