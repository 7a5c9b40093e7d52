"""Fit one cell in a process of its own, compute its figures and its cost, and print them as JSON."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from kinfold.benchmark._process import peak_memory, read_order
from kinfold.benchmark._suite_data import Task, judge, judge_names, judge_space, load_task, texts_of
from kinfold.benchmark._suite_file import PROBE, ZERO_SHOT, BenchmarkEntry, FeatureEntry, MethodEntry
from kinfold.benchmark._suite_results import make_estimator
from kinfold.errors import KinfoldError
from kinfold.storage import hash_json, write_json

_DIGITS = 6  # far below the spread of seeds, and lines of results stay short


def main() -> None:
    """Run the cell that standard input orders, and print its figures."""
    order = read_order()
    try:
        facts = run_cell(order)
    except KinfoldError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write(json.dumps(rounded(facts), ensure_ascii=False, allow_nan=False) + "\n")


def run_cell(order: dict[str, Any]) -> dict[str, Any]:
    """Fit what is ordered and return its figures."""
    features, method, benchmark = (
        _entry(kind, order[name])
        for kind, name in (
            (FeatureEntry, "features"),
            (MethodEntry, "method"),
            (BenchmarkEntry, "benchmark"),
        )
    )
    clock = _Clock()
    task = load_task(features, benchmark, order["seed"])
    clock.note("load")
    facts: dict[str, Any] = {
        "n_train": len(task.train.y),
        "n_test": 0 if task.test is None else len(task.test.y),
        "dim": int(task.train.X.shape[1]),
        "unmatched": task.unmatched,
    }
    if method.method == PROBE:
        facts |= judge_space(task, order["seed"])
        clock.note("fit")
    elif method.method == ZERO_SHOT:
        facts |= _classify(features, benchmark, task)
        clock.note("fit")
    else:
        facts |= _fit(features, method, task, order, clock)
    clock.note("judge")
    return {
        **facts,
        "seconds": clock.seconds,
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak_memory(),
    }


def rounded(content: Any) -> Any:
    """Return JSON values with floats of a few digits, and None for what is no number."""
    if isinstance(content, dict):
        return {str(name): rounded(value) for name, value in content.items()}
    if isinstance(content, list | tuple | np.ndarray):
        return [rounded(value) for value in content]
    if isinstance(content, float | np.floating):
        return round(float(content), _DIGITS) if np.isfinite(content) else None
    return int(content) if isinstance(content, np.integer) else content


class _Clock:
    """Wall seconds of one step after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


def _fit(
    features: FeatureEntry, method: MethodEntry, task: Task, order: dict[str, Any], clock: _Clock
) -> dict[str, Any]:
    words = _read_words(features) if method.method == "tac" else {}
    clock.note("words" if words else "load")
    estimator = make_estimator(method, order["n_clusters"], order["seed"], **words)
    options: dict[str, Any] = {}
    if wanted := estimator.needs(len(task.train.y)).graphs.get(method.method):
        options["graph"], seconds = _graph(wanted, estimator.device, task, order)
        clock.note("graph")
        clock.seconds["neighbors"] = seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # collapse is among the figures
        estimator.fit(task.train.X, **options)
    clock.note("fit")
    return judge(estimator, task, with_ami="ami" in order["metrics"])


def _classify(features: FeatureEntry, benchmark: BenchmarkEntry, task: Task) -> dict[str, Any]:
    from kinfold.language import ZeroShotClassifier, embed_classes, load_text_encoder

    encoder = load_text_encoder(str(features.text_model))
    vectors = embed_classes(encoder, texts_of(task.classes, benchmark.names))
    return judge_names(ZeroShotClassifier(vectors, encoder.logit_scale), task)


def _graph(options: Mapping[str, Any], device: str, task: Task, order: dict[str, Any]) -> tuple[Any, float]:
    """Return the neighbours of the training rows, kept for other cells, and the seconds that they took."""
    from kinfold.neighbors import NeighborGraph, knn_graph

    path = Path(order["work"]) / "graphs" / hash_json([order["data_key"], options])[:16]
    cost = path.with_suffix(".json")
    if cost.exists():
        return NeighborGraph.open(path), float(json.loads(cost.read_text(encoding="utf-8"))["seconds"])
    started = time.perf_counter()
    graph = knn_graph(task.train.X, **options, zero_rows="isolate", device=device)
    seconds = time.perf_counter() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.save(path)
    write_json(cost, {"seconds": seconds})
    return graph, seconds


def _read_words(features: FeatureEntry) -> dict[str, Any]:
    from kinfold.language import embed_nouns, load_text_encoder

    nouns = embed_nouns(load_text_encoder(str(features.text_model)))
    return {"noun_features": nouns.features, "nouns": nouns.nouns}


def _entry(kind: Any, content: dict[str, Any]) -> Any:
    """Return an entry from JSON, where tuples have become lists."""
    known = {one.name for one in fields(kind)}
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in content.items()
            if name in known
        }
    )


if __name__ == "__main__":
    main()
