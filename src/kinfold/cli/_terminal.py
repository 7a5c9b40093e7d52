"""Output of commands: results to stdout as tables or JSON; messages and progress to stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table
from rich.text import Text

from kinfold.progress import SILENT, Progress

if TYPE_CHECKING:
    import pyarrow as pa

    from kinfold.pipeline import Estimate
    from kinfold.run import Run

_LOG_SECONDS = 30.0  # often enough to see in a log that it lives, two lines a minute at most
_FEWEST_TIMED = 20  # units; "1.1 tries/s" of five tries tells nothing
_LIBRARY_LOGGERS = ("huggingface_hub", "transformers", "timm", "open_clip", "PIL", "torch")
_MOST_ROWS = 40  # about a screen; --json and the tables on disk have all groups


class BarProgress:
    """Bars with counts, speed, figures and remaining time, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28, complete_style="cyan", finished_style="green"),
            _CountColumn(),
            _SpeedColumn(),
            _FigureColumn(),
            _TimeColumn(),
            console=console,
        )
        self._open = 0

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_BarTask]:
        """Open a bar; the last one to close stops the drawing."""
        bar = self._bars.add_task(_title(description), total=total, unit=unit, figures={})
        if not self._open:
            self._bars.start()
        self._open += 1
        try:
            yield _BarTask(self._bars, bar)
        finally:
            self._bars.stop_task(bar)
            self._open -= 1
            if not self._open:
                self._bars.stop()
                for done in list(self._bars.task_ids):  # it stays on the screen, not in the next drawing
                    self._bars.remove_task(done)


class LineProgress:
    """A line when something is done, and one every half minute before: for logs."""

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, every: float = _LOG_SECONDS
    ) -> None:
        self._console, self._clock, self._every = console, clock, every

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "") -> Iterator[_LineTask]:
        """Open a task; its last line says how much was done in which time."""
        task = _LineTask(self._console, _title(description), total, unit, self._clock, self._every)
        yield task
        task.close()


class _BarTask:
    def __init__(self, bars: Bars, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def advance(self, n: int = 1, **figures: object) -> None:
        if figures:
            self._bars.update(self._bar, figures=figures)
        self._bars.advance(self._bar, n)


class _LineTask:
    def __init__(
        self,
        console: Console,
        title: str,
        total: int | None,
        unit: str,
        clock: Callable[[], float],
        every: float,
    ) -> None:
        self._console, self._title, self._total, self._unit = console, title, total, unit
        self._clock, self._every = clock, every
        self._done = 0
        self._figures: dict[str, object] = {}
        self._started = self._told = clock()

    def advance(self, n: int = 1, **figures: object) -> None:
        self._done += n
        self._figures.update(figures)
        if self._clock() - self._told >= self._every:
            self._told = self._clock()
            self._say(f"{self._done:,}{f' of {self._total:,}' if self._total else ''} {self._unit}".rstrip())

    def close(self) -> None:
        # what was tried last says nothing about the whole
        self._figures = {name: value for name, value in self._figures.items() if not isinstance(value, str)}
        self._say(f"{self._done:,} {self._unit}" if self._unit and self._done else "done")

    def _say(self, count: str) -> None:
        seconds = self._clock() - self._started
        has_speed = seconds > 0 and self._done >= _FEWEST_TIMED and self._unit
        speed = f", {show_speed(self._done / seconds, self._unit)}" if has_speed else ""
        figures = "".join(f", {figure}" for figure in [show_figures(self._figures)] if figure)
        self._console.print(
            f"{self._title}: {count} in {show_seconds(seconds)}{speed}{figures}", markup=False
        )


class _CountColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        total = f" / {int(task.total):,}" if task.total is not None else ""
        return Text(f"{int(task.completed):,}{total} {task.fields['unit']}")


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(show_speed(speed, task.fields["unit"]) if speed else "", style="cyan")


class _FigureColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(show_figures(task.fields["figures"]), style="magenta")


class _TimeColumn(ProgressColumn):
    """Time that remains; when all is done, time that it took."""

    def __init__(self) -> None:
        super().__init__()
        self._remaining = TimeRemainingColumn(compact=True)
        self._elapsed = TimeElapsedColumn()

    def render(self, task: Task) -> Any:
        return (self._elapsed if task.finished else self._remaining).render(task)


def show_seconds(seconds: float) -> str:
    """Return ``4.7 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def show_speed(speed: float, unit: str) -> str:
    """Return ``412 images/s``, or ``0.25 epochs/s``."""
    figure = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
    return f"{figure} {unit}/s"


def show_figures(figures: dict[str, object]) -> str:
    """Return ``loss 1.234, …``; speeds are left out, the bar shows its own."""
    shown = {name: value for name, value in figures.items() if name != "rate" and not name.endswith("/s")}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )


def _title(description: str) -> str:
    return description[:1].upper() + description[1:]


class Terminal:
    """What a command shows, by what was asked for.

    Parameters
    ----------
    as_json : bool
        The result is one JSON value on stdout.
    quiet : bool
        No progress, no tables; warnings and errors only.
    verbose : bool
        Log what is being done, and let libraries warn.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._set_up_logging(verbose)

    @property
    def progress(self) -> Progress:
        """Bars on a terminal, lines elsewhere, nothing if quiet."""
        if self.quiet:
            return SILENT
        return BarProgress(self._err) if self._err.is_terminal else LineProgress(self._err)

    def tell(self, text: str) -> None:
        """Say something on stderr, unless quiet."""
        if not self.quiet:
            self._err.print(text, markup=False)

    def tell_estimate(self, estimate: Estimate) -> None:
        """Say what the work is expected to take."""
        text = str(estimate)
        self.tell(text[:1].upper() + text[1:])

    def show(self, result: Any, *tables: RenderableType) -> None:
        """Show a result: as JSON if that was asked for, else as tables, unless quiet."""
        if self.as_json:
            self._out.file.write(json.dumps(result, ensure_ascii=True, indent=2) + "\n")
        elif not self.quiet:
            for table in tables:
                self._out.print(table, soft_wrap=isinstance(table, Text))

    def _set_up_logging(self, verbose: bool) -> None:
        handler = RichHandler(console=self._err, show_time=False, show_path=False, markup=False)
        logger = logging.getLogger("kinfold")
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.propagate = False
        if self.quiet or self.as_json:
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if not verbose:
            warnings.simplefilter("ignore")
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            for name in _LIBRARY_LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Table:
    """Return a plain table, first column to the left and numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", header_style="dim")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    return table


def make_list(facts: Mapping[str, str]) -> Text:
    """Return names and values below each other; long values are not broken, so that they can be copied."""
    width = max(map(len, facts)) + 3
    text = Text()
    for name, value in facts.items():
        text.append(name.ljust(width), style="dim")
        text.append(f"{value}\n")
    text.right_crop(1)
    return text


def count_reasons(skipped: pa.Table) -> dict[str, int]:
    """Count skipped images by the words that begin their reasons."""
    reasons = skipped.column("reason").to_pylist()
    return dict(Counter(str(reason).split(":", 1)[0] for reason in reasons).most_common())


def count_groups(table: pa.Table, n_clusters: int) -> list[dict[str, Any]]:
    """Return size and mean confidence of every group, empty ones too."""
    import numpy as np

    labels = table.column("cluster").to_numpy()
    sizes = np.bincount(labels, minlength=n_clusters)
    sums = np.bincount(labels, weights=table.column("confidence").to_numpy(), minlength=n_clusters)
    return [
        {
            "cluster": group,
            "size": int(size),
            "mean_confidence": round(float(total / size), 6) if size else None,
        }
        for group, (size, total) in enumerate(zip(sizes, sums, strict=True))
    ]


def show_groups(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return groups as a table, largest first; of very many, the largest."""
    total = max(sum(group["size"] for group in groups), 1)
    ranked = sorted(groups, key=lambda group: (-group["size"], group["cluster"]))
    rows = [
        (
            str(group["cluster"]),
            f"{group['size']:,}",
            f"{100 * group['size'] / total:.1f} %",
            "" if group["mean_confidence"] is None else f"{group['mean_confidence']:.2f}",
        )
        for group in ranked[:_MOST_ROWS]
    ]
    if len(ranked) > _MOST_ROWS:
        rest = ranked[_MOST_ROWS:]
        rows.append((f"{len(rest):,} more", f"{sum(group['size'] for group in rest):,}", "", ""))
    return make_table(("group", "size", "share", "confidence"), rows)


_MOST_CAUSES = 4  # of skipped images, on the terminal; skipped.parquet has them all


def describe_skipped(skipped: pa.Table) -> str:
    """Return ``3 (truncated 2, empty 1)``, or ``none``."""
    reasons = count_reasons(skipped)
    if not reasons:
        return "none"
    return f"{skipped.num_rows:,} ({', '.join(f'{name} {count:,}' for name, count in reasons.items())})"


def explain_skipped(skipped: pa.Table) -> dict[str, str]:
    """Return a line per cause, the most frequent first: what is wrong, how to mend it, and an example.

    Causes are whole reasons with their numbers left out; what begins alike may need different commands.
    """
    causes: dict[str, list[int]] = {}
    reasons, keys = (skipped.column(name).to_pylist() for name in ("reason", "key"))
    for place, reason in enumerate(reasons):
        causes.setdefault(re.sub(r"[0-9][0-9.,]*", "#", reason), []).append(place)
    often = sorted(causes.values(), key=len, reverse=True)[:_MOST_CAUSES]
    lines = [f"{len(places):,} like {keys[places[0]]}: {reasons[places[0]]}" for places in often]
    if len(causes) > len(often):
        lines.append(f"and {len(causes) - len(often):,} more causes")
    return {"why skipped" if not number else " " * number: line for number, line in enumerate(lines)}


def summarise_run(run: Run) -> dict[str, Any]:
    """Return what ``kinfold cluster --json`` prints."""
    return {
        "run": str(run.path),
        "method": run.manifest.parameters.get("method"),
        "n_clusters": run.n_clusters,
        "criteria": run.manifest.criteria or None,
        "chosen": run.manifest.fit.get("chosen"),
        "n_images": run.assignments.num_rows,
        "groups": count_groups(run.assignments, run.n_clusters),
        "skipped": {"total": run.skipped.num_rows, "reasons": count_reasons(run.skipped)},
        "warnings": list(run.manifest.diagnosis.get("messages", [])),
        "report": str(run.report_path) if run.report_path.exists() else None,
        "timings": run.manifest.timings,
    }
