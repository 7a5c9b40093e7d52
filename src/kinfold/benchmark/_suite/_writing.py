"""The table as Markdown, LaTeX and CSV, and the figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kinfold.benchmark._results import Line
from kinfold.benchmark._suite._entries import METRICS, Suite
from kinfold.benchmark._suite._figures import write_figures
from kinfold.benchmark._suite._summary import Figure, Summary
from kinfold.storage import atomic_file

_COUNTS = ("live",)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "×": r"$\times$",
    "≤": r"$\leq$",
}


def write_outputs(
    path: Path, suite: Suite, rows: Sequence[Summary], lines: Sequence[Line], *, figures: bool
) -> tuple[Path, ...]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and the figures; return these without suffix."""
    for name, text in (
        ("table.md", to_markdown(suite, rows)),
        ("table.tex", to_latex(suite, rows)),
        ("table.csv", to_csv(suite, rows)),
    ):
        with atomic_file(path / name) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
    if not figures:
        return ()
    return write_figures(path / "figures", suite, lines)


def to_markdown(suite: Suite, rows: Sequence[Summary]) -> str:
    """Return the table in Markdown, with what it is about, the sources and what failed."""
    heads, cells = _grid(suite, rows)
    parts = [f"# {suite.title}", suite.note] if suite.note else [f"# {suite.title}"]
    parts += [_explain(rows)]
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in (heads, *cells)]
    marks = ["---", *("---:" if number else "---" for number in _is_number(heads[1:]))]
    table = [escaped[0], marks, *escaped[1:]]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    if sources := _sources(rows):
        parts.append("Published: " + "; ".join(sources) + ".")
    if failures := _failures(rows):
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in failures))
    return "\n\n".join(parts) + "\n"


def to_latex(suite: Suite, rows: Sequence[Summary]) -> str:
    """Return the table for LaTeX with the package booktabs."""
    heads, cells = _grid(suite, rows)
    columns = "l" + "".join("r" if number else "l" for number in _is_number(heads[1:]))
    lines = [
        f"% {suite.title}; needs \\usepackage{{booktabs}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]
    lines += [_latex_row(heads), r"\midrule"]
    previous = None
    for row, summary in zip(cells, rows, strict=True):
        if previous not in (None, (summary.benchmark, summary.features)):
            lines.append(r"\addlinespace")
        previous = summary.benchmark, summary.features
        lines.append(_latex_row(row))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [f"% {_explain(rows)}", *(f"% Published: {source}" for source in _sources(rows))]
    lines += [f"% Failed: {failure}" for failure in _failures(rows)]
    return "\n".join(lines) + "\n"


def to_csv(suite: Suite, rows: Sequence[Summary]) -> str:
    """Return the table as CSV: shares as shares, mean and standard deviation in columns of their own."""
    heads = ["benchmark", "features", "method", "n_clusters", "n_classes", "judged", "n_judged"]
    heads += ["n_seeds", "n_failed"]
    for metric in suite.metrics:
        heads += [metric, f"{metric}_sd", f"{metric}_published", f"{metric}_source"]
    heads += ["seconds", "cpu_seconds", "gib", "failure"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        cells: list[object] = [row.benchmark, row.features, row.method, row.n_clusters, row.n_classes]
        cells += [row.judged, row.n_judged, row.n_seeds, row.n_failed]
        for metric in suite.metrics:
            figure, published = row.figures.get(metric), row.published.get(metric)
            cells += (
                ["", ""] if figure is None else [f"{figure.mean:.6f}", _or_empty(figure.spread, "{:.6f}")]
            )
            cells += ["", ""] if published is None else [f"{published[0] / 100:.4f}", published[1]]
        cells += [_or_empty(row.seconds, "{:.2f}"), _or_empty(row.cpu_seconds, "{:.2f}")]
        cells += [_or_empty(row.gib, "{:.3f}"), row.failure or ""]
        writer.writerow(cells)
    return stream.getvalue()


def _grid(suite: Suite, rows: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells as texts; columns that say the same everywhere, or nothing, are left out."""
    known = [metric for metric in suite.metrics if any(metric in row.published for row in rows)]
    columns: list[tuple[str, Callable[[Summary], str]]] = [("benchmark", lambda row: row.titles["benchmark"])]
    if len({row.titles["features"] for row in rows}) > 1:
        columns.append(("features", lambda row: row.titles["features"]))
    columns.append(("method", lambda row: row.titles["method"]))
    columns.append(("K", lambda row: f"{row.n_clusters:,}"))
    for metric in suite.metrics:
        unit = "" if metric in _COUNTS else " (%)"
        columns.append((METRICS[metric] + unit, partial(_show_figure, metric)))
        if metric in known:
            columns.append(("published", partial(_show_published, metric)))
    columns += [
        ("seeds", _show_seeds),
        ("seconds", lambda row: _or_empty(row.seconds, "{:,.1f}")),
        ("CPU s", lambda row: _or_empty(row.cpu_seconds, "{:,.1f}")),
        ("GiB", lambda row: _or_empty(row.gib, "{:.2f}")),
    ]
    return [name for name, _ in columns], [[show(row) for _, show in columns] for row in rows]


def _show_figure(metric: str, row: Summary) -> str:
    figure: Figure | None = row.figures.get(metric)
    if figure is None:
        return "failed" if row.n_failed else ""
    factor, digits = (1, 1) if metric in _COUNTS else (100, 2)
    spread = "" if figure.spread is None else f" ± {factor * figure.spread:.{digits}f}"
    return f"{factor * figure.mean:.{digits}f}{spread}"


def _show_published(metric: str, row: Summary) -> str:
    return f"{row.published[metric][0]:g}" if metric in row.published else ""


def _show_seeds(row: Summary) -> str:
    return str(row.n_seeds) if row.n_seeds == row.n_wanted else f"{row.n_seeds} of {row.n_wanted}"


def _explain(rows: Sequence[Summary]) -> str:
    """Say what the figures are of."""
    texts = ["Mean ± standard deviation over seeds; seconds and memory are those of a whole process."]
    for benchmark, title in dict.fromkeys((row.benchmark, row.titles["benchmark"]) for row in rows):
        sides: dict[tuple[str, int], list[str]] = {}
        for row in rows:
            if row.benchmark == benchmark and row.judged:
                sides.setdefault((row.judged, row.n_judged), []).append(row.titles["method"])
        for (side, n), methods in sides.items():
            who = f" ({', '.join(dict.fromkeys(methods))})" if len(sides) > 1 else ""
            texts.append(f"{title}{who}: judged on {n:,} {'test' if side == 'test' else 'training'} rows.")
    return " ".join(texts)


def _sources(rows: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(source for row in rows for _, source in row.published.values()))


def _failures(rows: Sequence[Summary]) -> list[str]:
    return [f"{row.benchmark}, {row.features}, {row.method}: {row.failure}" for row in rows if row.failure]


def _is_number(heads: Sequence[str]) -> list[bool]:
    return [head not in ("features", "method") for head in heads]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(_SPECIAL.get(one, one) for one in cell) for cell in cells) + r" \\"


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
