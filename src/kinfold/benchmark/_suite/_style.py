"""How figures look, the same everywhere; the same data give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; yellow is too pale for lines.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
_WIDTH, _HEIGHT = 4.2, 3.6
_LEGEND_ROWS = 5.0  # per inch
_HANDLE_WIDTH, _LETTER_WIDTH = 0.55, 0.07
_TITLE_LETTERS = 38  # per panel
_DPI = 160


class Style:
    """Colour, marker and line of every series, by its place among all.

    Parameters
    ----------
    names : sequence
        All series that a suite may show, so that a method looks the same in every figure.
    """

    def __init__(self, names: Sequence[Hashable]) -> None:
        self._places = {name: place for place, name in enumerate(names)}

    def of(self, name: Hashable) -> dict[str, Any]:
        """Return keyword arguments of ``Axes.plot``."""
        place = self._places[name]
        round_ = place // len(_COLORS)
        return {
            "color": _COLORS[place % len(_COLORS)],
            "marker": _MARKERS[(place + round_) % len(_MARKERS)],
            "linestyle": LINES[round_ % len(LINES)],
            "linewidth": 1.6,
            "markersize": 5,
        }


def new_figure(title: str, *, panels: int = 0) -> tuple[Figure, Any]:
    """Return a figure and its axes: one, or with ``panels`` a list of so many."""
    from matplotlib.figure import Figure

    columns = max(1, min(panels, 3))
    title = textwrap.fill(title, _TITLE_LETTERS * columns)  # not over the legend
    rows = max(1, -(-panels // columns))
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    if panels:
        figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    grid: list[Any] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[max(panels, 1) :]:
        axes.set_axis_off()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    if not panels:
        grid[0].set_title(title, loc="left", fontsize="large")
    return figure, grid[:panels] if panels else grid[0]


def put_legend(figure: Figure, *axes: Any) -> None:
    """Put one legend for all axes to their right, in as many columns as it takes, and make room for it."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    width, height = figure.get_size_inches()
    columns = -(-len(found) // max(1, int(height * _LEGEND_ROWS)))
    figure.set_figwidth(width + columns * (_HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, found))))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside right upper",
        ncols=columns,
        frameon=False,
        fontsize="small",
    )


def save_figure(figure: Figure, path: Path) -> None:
    """Write ``path.png`` and ``path.svg``, without the date."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "path"}):
        figure.savefig(path.with_name(f"{path.name}.png"), dpi=_DPI, metadata={"Software": None})
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None, "Creator": None})
