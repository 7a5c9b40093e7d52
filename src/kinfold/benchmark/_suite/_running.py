"""Running what is pending of a suite, and writing what there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean
from typing import Any

from kinfold import __version__
from kinfold.benchmark._process import run_in_process
from kinfold.benchmark._results import Line, Results
from kinfold.benchmark._suite._cells import Cell, check_methods, make_cells, resolve_paths, select
from kinfold.benchmark._suite._embedding import check_embeddings, embed_images
from kinfold.benchmark._suite._entries import Suite
from kinfold.benchmark._suite._figures import need_matplotlib
from kinfold.benchmark._suite._file import read_suite
from kinfold.benchmark._suite._summary import Summary, summarise
from kinfold.benchmark._suite._writing import write_outputs
from kinfold.errors import InputError
from kinfold.locks import lock_directory
from kinfold.progress import SILENT, Progress
from kinfold.storage import read_json, remove_partials, write_json

RESULTS_NAME = "results.jsonl"
_MARK = "suite.json"
_FORMAT = "kinfold-suite"
_FIT = "kinfold.benchmark._suite._fit"
_TIMEOUT = 7 * 24 * 3600.0


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
    path.mkdir(parents=True, exist_ok=True)
    with lock_directory(path):
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
        rows = summarise(chosen, cells, lines)
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
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    found = read_json(path / _MARK) if (path / _MARK).is_file() else {}
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        if path.is_dir() and all(entry.name in ("store", ".lock") for entry in path.iterdir()):
            return
        raise InputError(
            f"{path} holds something that no suite wrote; it was left as it is. Choose a new or empty folder "
            "(out=, --out)"
        )
    if found.get("suite") != suite.name:
        raise InputError(
            f"{path} holds the suite {found.get('suite')!r}, not {suite.name!r}; choose another folder"
        )
