"""`kinfold evaluate` at the size of ImageNet-21K: labels of 11.06 million images, joined by key, from files.

A run and its labels are written first: real class ids, made class sizes and groups as in `perf.judge`, keys
like `train/n01440764/n01440764_000123.JPEG`; the files of labels are in another order, lack one image in a
hundred and hold as many keys that no image has. Each evaluation is a process of its own, so that its time and
its peak memory are its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kinfold.benchmark import class_list, published_tree
from kinfold.pipeline import evaluate
from perf.judge import N_SAMPLES, make_labels
from perf.table import Table

N_DRAWS = 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one label, Parquet": ("one.parquet", {}),
    "one label, CSV": ("one.csv", {}),
    "names of folders": ("folder", {}),
    "one label and the published tree": ("one.parquet", {"tree": True}),
    "a label and a list of those above it": ("benchmark", {}),
    f"several labels, {N_DRAWS} draws": ("several.parquet", {"n_draws": N_DRAWS}),
}


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    table = Table(
        f"Evaluating a run of {options.n_samples:,} images", ("labels", "s", "CPU s", "peak GiB", "matched")
    )
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), options.n_samples)
        for name in options.case or CASES:
            command = [sys.executable, "-m", "perf.evaluate", "--worker", name, "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            table.add(name, *(f"{found[key]:.1f}" for key in ("s", "cpu", "peak")), f"{found['matched']:,}")
    return table


def make_files(folder: Path, n: int) -> None:
    """Write the run and all files of labels."""
    classes = np.array(class_list("imagenet21k"), dtype=object)
    made = make_labels(n, len(classes), 0.35, 0.35)
    names = pa.DictionaryArray.from_arrays(pa.array(made.y_true), pa.array(classes, pa.string())).cast(
        pa.string()
    )
    numbers = pc.utf8_lpad(pa.array(np.arange(n)).cast(pa.string()), 8, "0")
    keys = pc.binary_join_element_wise("train/", names, "/", names, "_", numbers, ".JPEG", "")
    _write_run(folder / "run", keys, made.top)
    order = np.random.default_rng(0).permutation(n)
    kept = order[n // 100 :]
    strange = pc.binary_join_element_wise("nowhere/", numbers[: n // 100], "")
    rows = pa.array(np.concatenate([kept, order[: n // 100]]))
    labels = names.take(rows)
    every = pa.concat_arrays([keys.take(pa.array(kept)), strange])
    one = pa.table({"key": every, "label": labels})
    pq.write_table(one, folder / "one.parquet")
    pa_csv.write_csv(one, folder / "one.csv")
    tree = published_tree()
    lists = pa.array([[name, *tree.ancestors(name)] for name in classes], pa.list_(pa.string()))
    codes = pa.array(made.y_true[rows.to_numpy()])
    (folder / "benchmark").mkdir()
    _write_pieces(folder / "benchmark" / "labels.parquet", one, codes, lists, "labels")
    _write_pieces(folder / "several.parquet", one.select(["key"]), codes, lists, "label")


def _write_pieces(path: Path, table: pa.Table, codes: pa.Array, lists: pa.Array, name: str) -> None:
    """Write a table with a column of lists, piece by piece."""
    schema = table.schema.append(pa.field(name, lists.type))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(codes), 1 << 18):
            piece = table.slice(start, 1 << 18).combine_chunks()
            writer.write_table(piece.append_column(name, lists.take(codes.slice(start, 1 << 18))))


def _write_run(path: Path, keys: pa.Array, top: np.ndarray) -> None:
    """Write what an evaluation reads of a run."""
    from kinfold.methods import TopClusters
    from kinfold.run import write_assignments, write_manifest

    path.mkdir()
    shares = np.tile(np.array([0.5, 0.2, 0.15, 0.1, 0.05], np.float32), (len(top), 1))
    write_assignments(path / "assignments.parquet", np.arange(len(top)), keys, TopClusters(top, shares))
    stages = {"assign": {"outputs": {"assignments.parquet": ""}}}
    sections = {"source": {}, "parameters": {"n_clusters": int(top.max()) + 1}, "stages": stages}
    write_manifest(path, sections)


def _work(name: str, folder: Path) -> None:
    """Be the process of one evaluation."""
    labels, options = CASES[name]
    if options.get("tree"):
        options = {"tree": published_tree()}
    wall, cpu = time.perf_counter(), time.process_time()
    found = evaluate(folder / "run", labels if labels == "folder" else folder / labels, **options)
    facts = {"s": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "matched": found.n_matched}
    facts["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    write: Callable[[str], Any] = sys.stdout.write
    write(json.dumps(facts))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-samples", type=int, default=N_SAMPLES)
    parser.add_argument("--case", nargs="*", choices=list(CASES), help="these alone")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = _parse(None)
    if options.worker:
        _work(options.worker, options.folder)
    else:
        print(main().markdown())
