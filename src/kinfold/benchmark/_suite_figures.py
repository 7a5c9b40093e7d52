"""The papers' figures, each a pure function of lines of results; the same data give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from kinfold.benchmark._suite_file import PROBE, Suite
from kinfold.benchmark._suite_results import Line, judged_side
from kinfold.errors import MissingExtraError
from kinfold.storage import atomic_directory

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
_MEASURES = {"alignment": "alignment", "davies_bouldin": "Davies–Bouldin index", "silhouette": "silhouette"}
_LEAST_PREDICTIONS = 10  # of a bin of the calibration curve: fewer say nothing
_BESIDE = {"linestyle": (0, (1, 2)), "markerfacecolor": "white"}


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


def need_matplotlib() -> None:
    """Raise :class:`MissingExtraError` where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("Drawing figures", "matplotlib", "figures") from error


def write_figures(folder: Path, suite: Suite, lines: Sequence[Line]) -> tuple[Path, ...]:
    """Draw all figures that there are data for, as PNG and SVG; return their paths without suffix."""
    need_matplotlib()
    done = [line for line in lines if "failed" not in line]
    drawn = dict(draw_figures(suite, done))
    with atomic_directory(folder) as partial:
        for name, figure in drawn.items():
            save_figure(figure, partial / name)
    return tuple(folder / name for name in drawn)


def draw_figures(suite: Suite, lines: Sequence[Line]) -> Iterator[tuple[str, Figure]]:
    """Yield name and figure of every kind that the lines have data for."""
    for name, draw in FIGURES.items():
        figure = draw(suite, lines)
        if figure is not None:
            yield name, figure
    for name, draw in FIGURES_PER_BENCHMARK.items():
        places = dict.fromkeys((line["benchmark"], line["features"]) for line in lines)
        for benchmark, features in places:
            own = [line for line in lines if (line["benchmark"], line["features"]) == (benchmark, features)]
            figure = draw(suite, own)
            if figure is not None:
                yield f"{name}-{benchmark}-{features}", figure


def draw_depth(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy against the deepest level of the classes (scaling paper, Figure 2, left)."""
    return _draw_axis(suite, lines, "depth", "Accuracy against depth", "greatest depth d of Coarse(d)")


def draw_window(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy against the width of the window of class frequencies (scaling paper, Figure 2, right)."""
    title = "Accuracy against the window of class frequencies"
    return _draw_axis(suite, lines, "window", title, "percentiles on either side of the median")


def draw_batch_size(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy against the batch size, which SCANv2's entropy term hangs on (scaling paper, section 6)."""
    points: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for line in _of_classes(lines):
        size = line["parameters"].get("batch_size")
        if size is not None:
            series = line["estimator"], line["benchmark"], line["features"]
            points.setdefault(series, {}).setdefault(float(size), []).append(_accuracy(line))
    points = {series: found for series, found in points.items() if len(found) > 1}
    if not points:
        return None
    figure, axes = new_figure("Accuracy against batch size")
    style = Style(list(points))
    for curve, found in points.items():
        _draw_means(axes, found, style.of(curve), _join_names(suite, curve))
    sizes = sorted({size for found in points.values() for size in found})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.minorticks_off()
    _label(axes, "batch size (samples, logarithmic)", "accuracy (%)")
    put_legend(figure, axes)
    return figure


def draw_clusters(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy against K where it isn't the number of classes (scaling paper, Figure 6; ICCE, Table 8)."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["benchmark"], line["features"]), []).append(line)
    groups = {place: own for place, own in groups.items() if len({line["n_clusters"] for line in own}) > 1}
    if not groups:
        return None
    figure, all_axes = new_figure("Accuracy against the number of clusters", panels=len(groups))
    style = Style(list(suite.methods))
    for axes, ((benchmark, features), own) in zip(all_axes, groups.items(), strict=True):
        for method in _ordered(suite, own):
            mine = [line for line in own if line["method"] == method]
            if len({line["n_clusters"] for line in mine}) < 2:
                continue
            for metric, look, note in (
                ("acc", {}, ""),
                ("acc_majority", {**_BESIDE, "zorder": 1.5}, ", majority"),
            ):
                found: dict[float, list[float]] = {}
                for line in mine:
                    found.setdefault(line["n_clusters"], []).append(_accuracy(line, metric))
                _draw_means(axes, found, {**style.of(method), **look}, suite.methods[method].title + note)
        n_classes = own[0]["n_classes"]
        axes.axvline(
            n_classes, color="0.35", linewidth=1.2, linestyle="--", zorder=1, label="number of classes"
        )
        axes.set_xticks(sorted({line["n_clusters"] for line in own}))
        axes.set_title(_place_title(suite, benchmark, features), fontsize="medium")
        _label(axes, "number of clusters K", "accuracy (%)")
    put_legend(figure, *all_axes)
    return figure


def draw_features(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy by backbone (scaling paper, Figure 3, right)."""
    groups: dict[str, list[Line]] = {}
    for line in _of_classes(lines):
        groups.setdefault(line["benchmark"], []).append(line)
    groups = {name: own for name, own in groups.items() if len({line["features"] for line in own}) > 1}
    if not groups:
        return None
    figure, all_axes = new_figure("Accuracy by features", panels=len(groups))
    style = Style(list(suite.methods))
    for axes, (benchmark, own) in zip(all_axes, groups.items(), strict=True):
        names = [name for name in suite.features if any(line["features"] == name for line in own)]
        methods = _ordered(suite, own)
        for number, method in enumerate(methods):
            shift = 0.5 * ((number + 0.5) / len(methods) - 0.5)
            found: dict[float, list[float]] = {}
            for line in own:
                if line["method"] == method:
                    found.setdefault(names.index(line["features"]) + shift, []).append(_accuracy(line))
            look = {**style.of(method), "linestyle": "none"}
            _draw_means(axes, found, look, suite.methods[method].title)
        titles = [suite.features[name].title for name in names]
        turned = max(map(len, titles)) * len(titles) > 48
        axes.set_xticks(
            range(len(names)), titles, rotation=30 if turned else 0, ha="right" if turned else "center"
        )
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_title(suite.benchmarks[benchmark].title, fontsize="medium")
        _label(axes, "", "accuracy (%)")
    put_legend(figure, *all_axes)
    return figure


def draw_separability(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy of a linear probe against how classes lie apart (scaling paper, Figure 4)."""
    probes: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line["estimator"] == PROBE and line.get("space"):
            probes.setdefault((line["benchmark"], line["features"]), []).append(line)
    if len(probes) < 2:
        return None
    figure, all_axes = new_figure("Linear probe against separability of the classes", panels=len(_MEASURES))
    style = Style(list(probes))
    for axes, (measure, title) in zip(all_axes, _MEASURES.items(), strict=True):
        for place, own in probes.items():
            values = [line["space"][measure] for line in own if line["space"].get(measure) is not None]
            if values:
                look = {**style.of(place), "linestyle": "none"}
                axes.plot(
                    [mean(values)],
                    [mean(_accuracy(line) for line in own)],
                    **look,
                    label=_place_title(suite, *place),
                )
        _label(axes, title, "accuracy of the probe (%)")
        axes.margins(0.15)
    put_legend(figure, *all_axes)
    return figure


def draw_calibration(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """Accuracy against confidence (scaling paper, Figure 3, left)."""
    own = _with(lines, "calibration")
    if not own:
        return None
    figure, axes = new_figure(f"Calibration: {_judged_title(suite, own, lines)}")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    style = Style(list(suite.methods))
    for method in _ordered(suite, own):
        mine = [line for line in own if line["method"] == method]
        counts, accuracies, confidences = _pooled(mine)
        errors = [line[judged_side(line)]["ece"] for line in mine]
        label = f"{suite.methods[method].title} (ECE {100 * mean(errors):.1f} %)"
        filled = counts >= _LEAST_PREDICTIONS
        axes.plot(confidences[filled], accuracies[filled], **style.of(method), label=label)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    _label(
        axes,
        f"confidence (bins of {_LEAST_PREDICTIONS} predictions or more)",
        "accuracy (share of right ones)",
    )
    put_legend(figure, axes)
    return figure


def draw_confidence(suite: Suite, lines: Sequence[Line]) -> Figure | None:
    """How many predictions are made with which confidence (scaling paper, Figure 8)."""
    own = _with(lines, "confidence")
    if not own:
        return None
    figure, axes = new_figure(f"Confidence: {_judged_title(suite, own, lines)}")
    style = Style(list(suite.methods))
    for method in _ordered(suite, own):
        mine = [line["confidence"] for line in own if line["method"] == method]
        counts = np.sum([one["counts"] for one in mine], axis=0)
        look = style.of(method)
        label = f"{suite.methods[method].title} (mean {mean(one['mean'] for one in mine):.2f})"
        axes.stairs(
            100 * counts / counts.sum(),
            mine[0]["edges"],
            color=look["color"],
            linestyle=look["linestyle"],
            linewidth=1.6,
            label=label,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _label(axes, "confidence (highest probability)", "share of predictions (%)")
    put_legend(figure, axes)
    return figure


FIGURES: Mapping[str, Callable[[Suite, Sequence[Line]], Any]] = {
    "depth": draw_depth,
    "window": draw_window,
    "batch-size": draw_batch_size,
    "clusters": draw_clusters,
    "features": draw_features,
    "separability": draw_separability,
}
FIGURES_PER_BENCHMARK: Mapping[str, Callable[[Suite, Sequence[Line]], Any]] = {
    "calibration": draw_calibration,
    "confidence": draw_confidence,
}


def _draw_axis(suite: Suite, lines: Sequence[Line], name: str, title: str, label: str) -> Figure | None:
    """Draw accuracy against what benchmarks say of themselves, and the published figures beside."""
    points: dict[tuple[str, str], dict[float, list[float]]] = {}
    for line in _of_classes(lines):
        if line.get(name) is not None:
            own = points.setdefault((line["method"], line["features"]), {})
            own.setdefault(float(line[name]), []).append(_accuracy(line))
    places = sorted({place for found in points.values() for place in found})
    if len(places) < 2:
        return None
    figure, axes = new_figure(title)
    style, published = Style(list(suite.methods)), _published(suite, name)
    features = [one for one in suite.features if any(one == shown for _, shown in points)]
    for method, entry in suite.methods.items():
        for number, one in enumerate(features):
            if (method, one) in points:
                look = {**style.of(method), "linestyle": LINES[number % len(LINES)]}
                more = f", {suite.features[one].title}" if len(features) > 1 else ""
                _draw_means(axes, points[method, one], look, entry.title + more)
        found = published.get(method, {})
        if found and any(method == shown for shown, _ in points):
            look = {**style.of(method), **_BESIDE}
            axes.plot(list(found), list(found.values()), **look, label=f"{entry.title}, published")
    axes.set_xticks(places)
    _label(axes, label, "accuracy (%)")
    put_legend(figure, axes)
    return figure


def _published(suite: Suite, name: str) -> dict[str, dict[float, float]]:
    found: dict[str, dict[float, float]] = {}
    for one in suite.published:
        place = getattr(suite.benchmarks.get(one.benchmark), name, None)
        if place is not None and one.metric == "acc" and one.k is None:
            for method, value in one.values.items():
                found.setdefault(method, {})[float(place)] = float(value)
    return {method: dict(sorted(own.items())) for method, own in found.items()}


def _draw_means(
    axes: Any, points: Mapping[float, Sequence[float]], look: Mapping[str, Any], label: str
) -> None:
    """Draw means, and standard deviations where there are several seeds."""
    places = sorted(points)
    spreads = [stdev(points[place]) if len(points[place]) > 1 else 0.0 for place in places]
    means = [mean(points[place]) for place in places]
    axes.plot(places, means, **look, label=label)
    if any(spreads):
        axes.errorbar(places, means, yerr=spreads, fmt="none", ecolor=look["color"], elinewidth=1, capsize=3)


def _pooled(lines: Sequence[Line]) -> tuple[Any, Any, Any]:
    """Return the curve of all predictions of several seeds."""
    counts = np.array([line["calibration"]["counts"] for line in lines], dtype=float)
    total = counts.sum(axis=0)
    means = []
    for name in ("accuracies", "confidences"):
        values = np.array(
            [[value or 0.0 for value in line["calibration"][name]] for line in lines], dtype=float
        )
        means.append((counts * values).sum(axis=0) / np.maximum(total, 1))
    return total, means[0], means[1]


def _with(lines: Sequence[Line], name: str) -> list[Line]:
    return [line for line in _of_classes(lines) if line.get(name)]


def _of_classes(lines: Sequence[Line]) -> list[Line]:
    """Return the lines whose K is the number of classes."""
    return [line for line in lines if line["n_clusters"] == line["n_classes"]]


def _ordered(suite: Suite, lines: Sequence[Line]) -> list[str]:
    there = {line["method"] for line in lines}
    return [method for method in suite.methods if method in there]


def _accuracy(line: Line, metric: str = "acc") -> float:
    return 100 * float(line[judged_side(line)][metric])


def _place_title(suite: Suite, benchmark: str, features: str) -> str:
    title = suite.benchmarks[benchmark].title
    titles = {entry.title for entry in suite.features.values()}
    return title if len(titles) == 1 else f"{title}, {suite.features[features].title}"


def _judged_title(suite: Suite, shown: Sequence[Line], lines: Sequence[Line]) -> str:
    """Return the title of a place, and K where others were tried there too."""
    title = _place_title(suite, shown[0]["benchmark"], shown[0]["features"])
    several = len({line["n_clusters"] for line in lines}) > 1
    return f"{title}, K = {shown[0]['n_clusters']:,}" if several else title


def _join_names(suite: Suite, series: Sequence[str]) -> str:
    estimator, benchmark, features = series
    names = {"scan": "SCANv2", "temi": "TEMI", "icce": "ICCE", "tac": "TAC", "turtle": "TURTLE"}
    parts = [names.get(estimator, estimator)]
    parts += [suite.benchmarks[benchmark].title] if len(suite.benchmarks) > 1 else []
    parts += [suite.features[features].title] if len(suite.features) > 1 else []
    return ", ".join(parts)


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
