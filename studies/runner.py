"""Runs pending cells one after the other, each in a process of its own."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean

from kinfold.benchmark import run_in_process
from studies.cells import Cell, Table, make_cells
from studies.data import what_is_missing
from studies.results import Line, Results

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Settings:
    """How cells are run.

    Attributes
    ----------
    folder : Path or None
        Of the CIFAR-10 features; without it their cells stay pending.
    threads : int
        Of each cell.
    timeout : float
        Seconds per cell.
    minutes : float or None
        After which no cell is started, nor one before whose estimate reaches beyond.
    retry : bool
        Run cells again that failed.
    """

    folder: Path | None
    threads: int = 2
    timeout: float = 4 * 3600.0
    minutes: float | None = None
    retry: bool = False


def pending(tables: Sequence[Table], seeds: Sequence[int], results: Results, *, retry: bool) -> list[Cell]:
    """Return the cells that have no line, in the order of priority; failed ones only to ``retry``."""
    lines = results.read()
    return [
        cell
        for cell in make_cells(tables, seeds)
        if cell.key not in lines or (retry and "failed" in lines[cell.key])
    ]


def estimate(cell: Cell, lines: Mapping[tuple[str, int], Line]) -> float | None:
    """Return the seconds that a cell may take: as the same fit with other seeds, else as a similar fit."""
    done = [line for line in lines.values() if "total_seconds" in line]
    same = [line for line in done if line["key"] == cell.row.key]
    alike = [line for line in done if (line["data"], line["method"]) == (cell.row.data, cell.row.method)]
    if not (chosen := same or alike):
        return None
    return mean(float(line["total_seconds"]) * _share_of_heads(cell, line) for line in chosen)


def run(
    tables: Sequence[Table],
    seeds: Sequence[int],
    results: Results,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> int:
    """Run what is pending and append a line for each cell; return how many were run."""
    started, count = time.monotonic(), 0
    tried: set[tuple[str, int]] = set()
    for cell in pending(tables, seeds, results, retry=settings.retry):
        if missing := what_is_missing(cell.row.data, settings.folder):
            say(f"{cell.title}: left out, {missing}")
            continue
        lines = results.read()
        if cell.key in tried or not _is_open(cell, lines, settings):
            continue
        if not _is_time(started, estimate(cell, lines), settings):
            say(f"{cell.title}: no time left")
            continue
        with _claim(cell, results) as mine:
            if not mine or not _is_open(cell, results.read(), settings):
                continue  # another run has it, or had it
            say(f"{cell.title} …")
            line = run_one(cell, settings)
            results.append(line)
        tried.add(cell.key)
        count += 1
        say(f"    {line.get('failed') or _brief(line)}")
    return count


def run_one(cell: Cell, settings: Settings) -> Line:
    """Run one cell in a fresh process and return its line, which says why if it failed."""
    order = {
        **cell.describe(),
        "threads": settings.threads,
        "folder": None if settings.folder is None else str(settings.folder.resolve()),
    }
    today = datetime.now(timezone.utc).date().isoformat()
    line: Line = {**cell.describe(), "finished": today, "commit": _commit()}
    answer = run_in_process(
        "studies.fit", order, threads=settings.threads, timeout=settings.timeout, paths=(ROOT,)
    )
    if answer.facts is None:
        return {**line, "failed": _without_paths(str(answer.failed), settings.folder)}
    return {**line, "total_seconds": round(answer.seconds, 1), **answer.facts}


def _is_open(cell: Cell, lines: Mapping[tuple[str, int], Line], settings: Settings) -> bool:
    return cell.key not in lines or (settings.retry and "failed" in lines[cell.key])


def _is_time(started: float, needed: float | None, settings: Settings) -> bool:
    if settings.minutes is None:
        return True
    return time.monotonic() - started + (needed or 0) < 60 * settings.minutes


def _share_of_heads(cell: Cell, line: Line) -> float:
    """Return how many times the heads of a measured fit this one has, where both say."""
    ours, theirs = cell.row.parameters.get("n_heads"), line["parameters"].get("n_heads")
    return float(ours / theirs) if ours and theirs else 1.0


@contextmanager
def _claim(cell: Cell, results: Results) -> Iterator[bool]:
    """Yield whether no other run works on the cell; a claim ends with its process, however that ends."""
    name = hashlib.sha256(f"{results.path.resolve()}{cell.key}".encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir()) / f"kinfold-study-{name}.lock"
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _without_paths(text: str, folder: Path | None) -> str:
    for path in filter(None, (folder, ROOT)):
        text = text.replace(str(path.resolve()), "…")
    return text[:200]


def _commit() -> str | None:
    """Return the commit of the code, with a mark where files were changed since; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def _brief(line: Line) -> str:
    stages = line["stages"]
    found = ", ".join(
        f"{name} {stage['train']['acc']:.3f}" for name, stage in stages.items() if "train" in stage
    )
    return f"{line['total_seconds']:.0f} s: {found}"
