from __future__ import annotations

import importlib.util
import io
import sys
import types

import pytest
from rich.console import Console

from kinfold.bars import (
    BarProgress,
    LineProgress,
    choose_progress,
    show_figures,
    show_progress,
    show_seconds,
    show_speed,
)
from kinfold.progress import SILENT


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def make_console(**options):
    return Console(file=io.StringIO(), width=160, **options)


def test_lines_tell_the_end_and_every_half_minute():
    console, clock = make_console(), Clock()
    with LineProgress(console, clock=clock).task("embedding", 300, "images") as task:
        for _ in range(3):
            clock.now += 20
            task.advance(100, loss=0.5)
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "Embedding: 200 of 300 images in 40.0 s, 5 images/s, loss 0.5",
        "Embedding: 300 images in 60.0 s, 5 images/s, loss 0.5",
    ]


def test_the_last_line_has_no_word_that_tells_nothing():
    console, clock = make_console(), Clock()
    progress = LineProgress(console, clock=clock)
    with progress.task("combining the heads", 5, "ways") as task:
        for name in ("best head", "alignment"):
            clock.now += 100
            task.advance(2, way=name)
    with progress.task("reading", None):
        clock.now += 4.71
    with progress.task("nothing to do", 0, "images"):
        pass
    assert console.file.getvalue().splitlines() == [
        "Combining the heads: 2 of 5 ways in 100.0 s, way best head",
        "Combining the heads: 4 of 5 ways in 3 min 20 s, way alignment",
        "Combining the heads: 4 ways in 3 min 20 s",
        "Reading: done in 4.7 s",
        "Nothing to do: done in 0.0 s",
    ]


def test_times_read_well():
    assert [show_seconds(one) for one in (0.04, 119.94, 120, 3725, 7260, 86_399)] == [
        "0.0 s",
        "119.9 s",
        "2 min 0 s",
        "62 min 5 s",
        "2 h 1 min",
        "24 h 0 min",
    ]


def test_a_failed_task_is_not_called_done():
    console = make_console()
    with pytest.raises(KeyError), LineProgress(console).task("work", None):
        raise KeyError
    assert console.file.getvalue() == ""


def test_bars_show_counts_figures_and_stay_when_done():
    console = make_console(force_terminal=True)
    progress = BarProgress(console)
    for name in ("embedding", "training"):
        with progress.task(name, 20, "images") as task:
            task.advance(20, loss=1.25)
    text = console.file.getvalue()
    assert "Embedding" in text
    assert "20 / 20 images" in text
    assert "loss 1.25" in text


def test_bars_may_be_nested_and_of_unknown_length():
    console = make_console(force_terminal=True)
    progress = BarProgress(console)
    with progress.task("outer", None, "things") as outer, progress.task("inner", 2) as inner:
        inner.advance()
        outer.advance(3)
    assert "3 things" in console.file.getvalue()


def test_speeds_read_well():
    assert show_speed(1234.5, "images") == "1,234 images/s"
    assert show_speed(0.256, "epochs") == "0.26 epochs/s"


def test_speeds_of_the_work_itself_are_not_repeated():
    assert (
        show_figures({"loss": 1.23456, "rate": "2 epochs/s", "images/s": 12.0, "n": 3}) == "loss 1.235, n 3"
    )


def test_a_call_from_python_is_silent_unless_it_is_asked(monkeypatch):
    given = LineProgress(make_console())
    assert choose_progress(SILENT, False) is SILENT
    assert choose_progress(given, True) is given
    assert isinstance(choose_progress(SILENT, True), LineProgress)  # nobody looks at bars in a log


def test_a_terminal_and_a_notebook_show_bars(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(show_progress(), BarProgress)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(show_progress(), LineProgress)  # bars need ipywidgets there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert isinstance(show_progress(), BarProgress)
