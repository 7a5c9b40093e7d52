"""Rows of the table: what the lines of several seeds say together, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from kinfold.benchmark._results import Line
from kinfold.benchmark._suite._cells import Cell
from kinfold.benchmark._suite._entries import Published, Suite


@dataclass(frozen=True)
class Figure:
    """Mean and standard deviation over seeds.

    Attributes
    ----------
    mean : float
        In the metric's own unit.
    spread : float or None
        Standard deviation (divisor n − 1); None of one seed.
    """

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Summary:
    """One row: features × benchmark × method × K.

    Attributes
    ----------
    features, benchmark, method : str
        Names in the suite.
    titles : mapping
        The same as tables call them.
    n_clusters, n_classes : int
        K, and the classes of the training rows.
    judged : {"test", "train", ""}
        Which rows the figures are of; empty without figures.
    n_judged : int
        How many these are.
    n_seeds, n_failed, n_wanted : int
        Fits with figures, failed ones, and those that the suite asks for.
    figures : mapping
        Metric → mean and spread.
    published : mapping
        Metric → (figure as printed, source).
    seconds, cpu_seconds, gib : float or None
        Mean wall and CPU time of a fit's process, and the largest memory.
    failure : str or None
        Why the last failed cell failed.
    """

    features: str
    benchmark: str
    method: str
    titles: Mapping[str, str]
    n_clusters: int
    n_classes: int
    judged: str
    n_judged: int
    n_seeds: int
    n_failed: int
    n_wanted: int
    figures: Mapping[str, Figure]
    published: Mapping[str, tuple[float, str]]
    seconds: float | None
    cpu_seconds: float | None
    gib: float | None
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "features": self.features,
            "benchmark": self.benchmark,
            "method": self.method,
            "n_clusters": self.n_clusters,
            "n_classes": self.n_classes,
            "judged": self.judged,
            "n_judged": self.n_judged,
            "n_seeds": self.n_seeds,
            "n_failed": self.n_failed,
            "metrics": {name: {"mean": one.mean, "sd": one.spread} for name, one in self.figures.items()},
            "published": {
                name: {"percent": value, "source": source} for name, (value, source) in self.published.items()
            },
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "gib": self.gib,
            "failure": self.failure,
        }


def summarise(
    suite: Suite, cells: Sequence[Cell], lines: Mapping[tuple[str, int], Line]
) -> tuple[Summary, ...]:
    """Return the rows in the order of the suite: benchmark, features, K, method."""
    groups: dict[tuple[str, str, int, str], list[Cell]] = {}
    for cell in cells:
        name = cell.benchmark.name, cell.features.name, cell.n_clusters, cell.method.name
        groups.setdefault(name, []).append(cell)
    orders = [list(suite.benchmarks), list(suite.features), None, list(suite.methods)]

    def place(name: tuple[str, str, int, str]) -> tuple[int, ...]:
        return tuple(
            part if order is None else order.index(part)  # type: ignore[arg-type, misc]
            for part, order in zip(name, orders, strict=True)
        )

    return tuple(_summarise(suite, groups[name], lines) for name in sorted(groups, key=place))


def judged_side(line: Line) -> str:
    """Return which rows a line's figures are of: those of the test set, where there is one."""
    return "test" if line.get("test") else "train"


def _summarise(suite: Suite, cells: Sequence[Cell], lines: Mapping[tuple[str, int], Line]) -> Summary:
    first = cells[0]
    found = [lines[cell.key, cell.seed] for cell in cells if (cell.key, cell.seed) in lines]
    done = [line for line in found if "failed" not in line]
    failed = [str(line["failed"]) for line in found if "failed" in line]
    side = judged_side(done[0]) if done else ""
    figures = {}
    for metric in suite.metrics:
        values = [line[side][metric] for line in done if line[side].get(metric) is not None]
        if values:
            figures[metric] = Figure(mean(values), stdev(values) if len(values) > 1 else None)
    return Summary(
        features=first.features.name,
        benchmark=first.benchmark.name,
        method=first.method.name,
        titles={
            "features": first.features.title,
            "benchmark": first.benchmark.title,
            "method": first.method.title,
        },
        n_clusters=first.n_clusters,
        n_classes=first.n_classes,
        judged=side,
        n_judged=int(done[0][f"n_{side}"]) if done else 0,
        n_seeds=len(done),
        n_failed=len(failed),
        n_wanted=len(cells),
        figures=figures,
        published={
            metric: value for metric in suite.metrics if (value := _published(suite.published, first, metric))
        },
        seconds=mean(line["total_seconds"] for line in done) if done else None,
        cpu_seconds=mean(line["cpu_seconds"] for line in done) if done else None,
        gib=max(line["peak_bytes"] for line in done) / 2**30 if done else None,
        failure=failed[-1] if failed else None,
    )


def _published(known: Sequence[Published], cell: Cell, metric: str) -> tuple[float, str] | None:
    for one in known:
        fits = one.benchmark == cell.benchmark.name and one.metric == metric
        fits &= one.features in (None, cell.features.name)
        fits &= cell.n_clusters == (cell.n_classes if one.k is None else one.k)
        if fits and cell.method.name in one.values:
            return float(one.values[cell.method.name]), one.source
    return None
