"""Corrections of a run of a million rows: edits, undo, and opening the file again."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from kinfold import Run
from kinfold.corrections import CORRECTIONS_NAME, Corrections, Mark, Move, corrected_table
from kinfold.methods import TopClusters
from kinfold.run import write_assignments, write_manifest, write_skipped
from perf.table import Table

N_GROUPS = 100


def make_run(path: Path, n_rows: int) -> Run:
    """Make a finished run of random groups, in which one row in a thousand was skipped."""
    path.mkdir()
    random = np.random.default_rng(0)
    clusters = random.integers(0, N_GROUPS, (n_rows, 2)).astype(np.int32)
    rows = np.arange(n_rows) + np.arange(n_rows) // 999
    keys = pa.array([f"{row:07d}.jpg" for row in rows.tolist()])
    top = TopClusters(clusters, np.full((n_rows, 2), 0.5, np.float32))
    write_assignments(path / "assignments.parquet", rows, keys, top)
    empty = {"row": pa.array([], pa.int64()), "key": pa.array([], pa.string())}
    write_skipped(path / "skipped.parquet", pa.table({**empty, "reason": empty["key"]}))
    (path / "model.json").write_text("{}")
    outputs = {"fit": {"model.json": ""}, "assign": {"assignments.parquet": "", "skipped.parquet": ""}}
    stages = {name: {"inputs": "", "outputs": files} for name, files in outputs.items()}
    write_manifest(path, {"parameters": {"n_clusters": N_GROUPS, "method": "kmeans"}, "stages": stages})
    return Run.open(path)


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--edits", type=int, default=1000, help="one in ten of 100,000 rows, the others of 1,000"
    )
    options = parser.parse_args(arguments)
    table = Table(f"Corrections: {options.rows:,} rows", ("", "wall s", "processor s"))

    def measure(what: str, work: Callable[[], Any], times: int = 5) -> Any:
        walls, cpus, result = [], [], None
        for _ in range(times):
            wall, cpu = time.perf_counter(), time.process_time()
            result = work()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        table.add(what, f"{median(walls):.3f}", f"{median(cpus):.3f}")
        return result

    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        run = make_run(Path(folder) / "run", options.rows)
        rows, random = run.assignments["row"].to_numpy(), np.random.default_rng(1)
        many, few = options.rows // 10, options.rows // 1000

        def draw(n: int) -> Any:
            return random.choice(rows, n, replace=False)

        with Corrections.open(run) as corrections:
            measure(f"move {many:,} images", lambda: corrections.apply(Move(draw(many), 3)))
            measure(f"mark {many:,} images", lambda: corrections.apply(Mark(draw(many), "noise")))
            for number in range(options.edits):
                edit = Move(draw(few if number % 10 else many), number % N_GROUPS)
                corrections.apply(edit, client="ab"[number % 2])
            measure("undo the last edit", lambda: corrections.undo())
            for _ in range(options.edits // 5):
                corrections.undo("b")
            measure(f"undo, {2 * (options.edits // 5):,} edits back", lambda: corrections.undo("b"))
            n_edits = len(corrections.history(10**9))
        size = (run.path / CORRECTIONS_NAME).stat().st_size
        measure(f"open with {n_edits:,} edits", lambda: Corrections.open(run).close())
        with Corrections.open(run) as corrections:
            measure("corrected table", lambda: corrected_table(run, corrections.state))
    table.notes.append(f"The file has {size / 1e6:.1f} MB. Drawing the rows is within the times of edits.")
    return table


if __name__ == "__main__":
    print(main().markdown())
