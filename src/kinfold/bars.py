"""Progress as people see it: bars in a terminal or a notebook, lines in a log."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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
from rich.text import Text

from kinfold.progress import SILENT, Progress

_FEWEST_TIMED = 20  # units; "1.1 tries/s" of five tries tells nothing
_LOG_SECONDS = 30.0  # often enough to see in a log that it lives, two lines a minute at most


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


def choose_progress(progress: Progress, verbose: bool) -> Progress:
    """Return what shows the progress of a call from Python: what is given, else bars if ``verbose``."""
    return show_progress() if verbose and progress is SILENT else progress


def show_progress() -> Progress:
    """Return bars on standard error of a terminal or in a notebook, and lines elsewhere."""
    if "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None:
        return BarProgress(Console(force_jupyter=True, highlight=False))
    console = Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False)
    return BarProgress(console) if console.is_terminal else LineProgress(console)
