"""Tables of measurements, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from perf.ceilings import Ceilings


@dataclass
class Table:
    """One comparison.

    Attributes
    ----------
    title : str
        What was measured, with shapes.
    columns : tuple of str
        Headings.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def note_ceilings(self, rates: Sequence[Ceilings]) -> None:
        """Say what the machine reached in the same run."""
        product, copy = median(r.matmul for r in rates), median(r.copy for r in rates)
        self.notes.append(f"Machine in this run: {product / 1e9:,.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s.")

    def markdown(self) -> str:
        """Return the table."""
        lines = [f"### {self.title}", "", _row(self.columns), _row(["---"] * len(self.columns))]
        lines += [_row(row) for row in self.rows]
        return "\n".join([*lines, "", *self.notes, ""])


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of runs that were taken side by side."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
