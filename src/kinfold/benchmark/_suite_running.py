"""Run the pending cells of a suite, then write its tables and figures."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from kinfold import __version__
from kinfold.benchmark._process import run_in_process
from kinfold.benchmark._suite_figures import need_matplotlib, write_figures
from kinfold.benchmark._suite_file import METRICS, FeatureEntry, Suite, read_suite
from kinfold.benchmark._suite_results import (
    Cell,
    Figure,
    Line,
    Results,
    Summary,
    check_methods,
    make_cells,
    resolve_paths,
    select,
    summarize,
)
from kinfold.errors import InputError
from kinfold.locks import LOCK_NAME, lock_directory
from kinfold.progress import SILENT, Progress
from kinfold.storage import (
    PARTIAL_PREFIX,
    atomic_file,
    check_own,
    is_plain_name,
    read_json,
    remove_partials,
    write_json,
)

_STORES = "store"
_FOLDERS_BELOW = 5  # levels of its folders: store/NAME/variants/NAME/00000.npy
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
RESULTS_NAME = "results.jsonl"
_MARK = "suite.json"
_FORMAT = "kinfold-suite"
_FIT = "kinfold.benchmark._suite_fit"
_TIMEOUT = 7 * 24 * 3600.0  # no cell is meant to take so long: it only ends a process that hangs


def check_embeddings(suite: Suite) -> None:
    """Raise :class:`InputError` unless features are there, and images and their backbones can be had."""
    for entry in suite.features.values():
        try:
            for path in (entry.path, entry.test):
                if path is not None and not Path(path).exists():
                    raise InputError(f"there is nothing at {path}; check the path")
            if entry.images is not None:
                if not is_plain_name(entry.name):  # it names a folder below that of the suite
                    raise InputError("the name must be without '/', '\\' and ':', since images are given")
                _check_images(entry)
        except ValueError as error:
            raise InputError(f"{suite.origin} [features.{entry.name}]: {error}") from error


def embed_images(suite: Suite, folder: Path, progress: Progress) -> Suite:
    """Embed what is given as images, or go on with it, and return the suite with the features' paths."""
    features = {
        name: entry if entry.images is None else _embed(entry, folder / _STORES, progress)
        for name, entry in suite.features.items()
    }
    return replace(suite, features=features)


def _check_images(entry: FeatureEntry) -> None:
    from kinfold.backbones import load_backbone
    from kinfold.images import open_source

    for source in (entry.images, entry.test_images):
        if source is not None:
            open_source(source)
    load_backbone(str(entry.backbone)).check_variants([entry.variant or "cls"])


def _embed(entry: FeatureEntry, folder: Path, progress: Progress) -> FeatureEntry:
    from kinfold.backbones import load_backbone
    from kinfold.features import extract_features
    from kinfold.images import open_source

    backbone = load_backbone(str(entry.backbone))
    variants = (entry.variant or "cls",)
    made: list[str | None] = []
    for source, name in ((entry.images, entry.name), (entry.test_images, f"{entry.name}-test")):
        if source is None:
            made.append(None)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / name
        extract_features(open_source(source), backbone, store, variants=variants, progress=progress)
        made.append(str(store.absolute()))
    return replace(entry, path=made[0], test=made[1], images=None, test_images=None, backbone=None)


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


@dataclass(frozen=True)
class SuiteRun:
    """What a run of a suite left.

    Attributes
    ----------
    path : Path
        The folder: ``results.jsonl``, ``table.md``, ``table.tex``, ``table.csv``, ``figures/``.
    n_run, n_done, n_failed, n_left : int
        Cells run now, with figures in all, failed, and neither.
    summaries : tuple of Summary
        The rows of the table.
    figures : tuple of Path
        The figures, without their suffixes.
    """

    path: Path
    n_run: int
    n_done: int
    n_failed: int
    n_left: int
    summaries: tuple[Summary, ...]
    figures: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {
            "path": str(self.path),
            "cells": {
                "run": self.n_run,
                "done": self.n_done,
                "failed": self.n_failed,
                "left": self.n_left,
            },
            "table": [row.as_dict() for row in self.summaries],
            "figures": [str(path) for path in self.figures],
        }


def run_suite(
    suite: str | Path | Suite,
    out: str | Path | None = None,
    *,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    threads: int | None = None,
    minutes: float | None = None,
    retry: bool = False,
    figures: bool = True,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = SILENT,
) -> SuiteRun:
    """Run features × methods × benchmarks × K × seeds, each fit in a process of its own.

    Everything is checked before anything is run. A finished cell is a line of ``results.jsonl``, under a hash
    of all that decides it: what was killed goes on with the same call and repeats nothing that is finished;
    what is changed in the suite runs anew, and nothing else.

    Parameters
    ----------
    suite : str, Path or Suite
        A TOML file, or the name of a suite that comes with Kinfold.
    out : path, optional
        The folder to write; by default ``suite-NAME``.
    only : sequence of str, optional
        Names of features, methods and benchmarks to keep; a kind of which none is named stays whole.
    seeds : sequence of int, optional
        In place of those of the suite.
    threads : int, optional
        Of each fit; by default as many as there are cores.
    minutes : float, optional
        After which no cell is started, nor one before that is expected to end later. 0 runs nothing and
        writes the tables of what there is.
    retry : bool, default False
        Run cells again that failed.
    figures : bool, default True
        Draw figures; needs matplotlib, the extra ``figures``.
    say : callable, optional
        Takes a line for people at every cell.
    progress : Progress
        Shows the embedding of images.

    Returns
    -------
    SuiteRun

    Raises
    ------
    InputError
        The suite can't be run as it is; nothing has been run then.
    MissingExtraError
        ``figures`` without matplotlib; nothing has been run then.
    """
    from kinfold.compute import cpu_count

    if figures:
        need_matplotlib()
    chosen = suite if isinstance(suite, Suite) else read_suite(suite)
    chosen = resolve_paths(select(chosen, only, seeds))
    check_methods(chosen)
    check_embeddings(chosen)
    path = Path(f"suite-{chosen.name}" if out is None else out)
    _check_place(path, chosen)
    with lock_directory(path, create=True):
        _check_place(path, chosen)  # again: another process may have written here before the lock was ours
        remove_partials(path)
        cells = make_cells(embed_images(chosen, path, progress))
        write_json(path / _MARK, {"format": _FORMAT, "format_version": 1, "suite": chosen.name})
        results = Results(path / RESULTS_NAME)
        workshop = _Workshop(path, chosen, results, threads or cpu_count(), minutes, retry, say)
        n_run = workshop.run(cells)
        lines = results.read()
        done = [cell for cell in cells if (cell.key, cell.seed) in lines]
        # Cells of several entries may be the same fit and share its line; each is told under its own names.
        mine = [{**lines[cell.key, cell.seed], **cell.describe()} for cell in done]
        rows = summarize(chosen, cells, lines)
        drawn = write_outputs(path, chosen, rows, mine, figures=figures)
    failed = sum("failed" in line for line in mine)
    left = len({(cell.key, cell.seed) for cell in cells} - set(lines))
    return SuiteRun(path, n_run, len(mine) - failed, failed, left, rows, drawn)


@dataclass(frozen=True)
class _Workshop:
    """Runs cells one after the other."""

    path: Path
    suite: Suite
    results: Results
    threads: int
    minutes: float | None
    retry: bool
    say: Callable[[str], None]

    def run(self, cells: Sequence[Cell]) -> int:
        """Run what is pending; return how many cells were run."""
        started, count = time.monotonic(), 0
        tried: set[tuple[str, int]] = set()
        for number, cell in enumerate(cells, 1):
            lines = self.results.read()
            if (cell.key, cell.seed) in tried or not self._is_open(cell, lines):
                continue
            if not self._is_time(started, estimate(cell, lines)):
                continue
            tried.add((cell.key, cell.seed))
            self.say(f"{number} of {len(cells)}: {cell.title} …")
            line = self._run_one(cell)
            self.results.append(line)
            count += 1
            self.say(f"    {line['failed'] if 'failed' in line else _brief(line)}")
        return count

    def _is_open(self, cell: Cell, lines: Mapping[tuple[str, int], Line]) -> bool:
        line = lines.get((cell.key, cell.seed))
        return line is None or (self.retry and "failed" in line)

    def _is_time(self, started: float, needed: float | None) -> bool:
        if self.minutes is None:
            return True
        return time.monotonic() - started + (needed or 0) < 60 * self.minutes

    def _run_one(self, cell: Cell) -> Line:
        from kinfold.compute import describe_machine, resolve_device

        today = datetime.now(timezone.utc).date().isoformat()
        line: Line = {"suite": self.suite.name, **cell.describe(), "finished": today, "version": __version__}
        answer = run_in_process(
            _FIT, cell.order(self.path.absolute(), self.suite.metrics), threads=self.threads, timeout=_TIMEOUT
        )
        line["total_seconds"] = round(answer.seconds, 2)
        if answer.facts is None:
            return {**line, "failed": answer.failed}
        machine = {**describe_machine(resolve_device("auto")), "threads": self.threads}
        return {**line, "machine": machine, **answer.facts}


def estimate(cell: Cell, lines: Mapping[tuple[str, int], Line]) -> float | None:
    """Return the seconds that a cell may take: as the same fit with other seeds; None if there was none."""
    wanted = cell.describe()
    alike = ("features", "benchmark", "method", "n_clusters")
    known = [
        float(line["total_seconds"])
        for line in lines.values()
        if "failed" not in line and all(line.get(name) == wanted[name] for name in alike)
    ]
    return mean(known) if known else None


def _brief(line: Line) -> str:
    judged = line.get("test") or line.get("train") or {}
    return f"{line['total_seconds']:.0f} s, ACC {100 * judged['acc']:.2f} %"


def _check_place(path: Path, suite: Suite) -> None:
    check_own(path, depth=_FOLDERS_BELOW)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    found = _read_mark(path)
    if found is None:
        begun = path.is_dir() and all(_is_beginning(entry.name) for entry in path.iterdir())
        found = _read_mark(path)  # again: another process may have begun between the two looks
        if found is None and begun:
            return
    if found is None:
        raise InputError(
            f"{path} holds something that no suite wrote; it was left as it is. Choose a new or empty folder "
            "(out=, --out)"
        )
    if found.get("suite") != suite.name:
        raise InputError(
            f"{path} holds the suite {found.get('suite')!r}, not {suite.name!r}; choose another folder"
        )


def _read_mark(path: Path) -> dict[str, Any] | None:
    """Return what marks a folder as that of a suite; None for any other folder."""
    found = read_json(path / _MARK) if (path / _MARK).is_file() else None
    return found if isinstance(found, dict) and found.get("format") == _FORMAT else None


def _is_beginning(name: str) -> bool:
    """Tell whether a file of this name may be in the folder of a suite before its first results."""
    return name in (_STORES, LOCK_NAME) or name.startswith(PARTIAL_PREFIX)
