"""One cell: fit, judge, say everything that a table might want. Runs in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kinfold import __version__
from kinfold.benchmark import read_order
from kinfold.compute import describe_machine, has_bfloat16_units, resolve_device
from kinfold.heads import Training
from kinfold.neighbors import NeighborGraph, knn_graph, same_label_graph
from studies.cells import Row
from studies.criteria import purity
from studies.data import Data, Split, load_data
from studies.judge import judge
from studies.words import judge_words

_SAMPLE = 1024
_DIGITS = 5


@dataclass
class Fitted:
    """A fit with what it cost.

    Attributes
    ----------
    training : Training or None
        All heads, where the method has some.
    graph : NeighborGraph or None
        What it was fitted on.
    seconds : dict
        ``wall`` and ``cpu`` of everything, and ``neighbors``, the wall seconds of the graph.
    """

    estimator: Any
    training: Training | None
    graph: NeighborGraph | None
    seconds: dict[str, float]
    peak_mib: float


def run_cell(row: Row, seed: int, folder: Path | None) -> dict[str, Any]:
    """Fit one cell and return its figures, JSON-ready."""
    data = load_data(row.data, seed, folder)
    fitted = _fit(row, data, seed)
    facts: dict[str, Any] = {
        "seconds": fitted.seconds,
        "peak_mib": fitted.peak_mib,
        "version": __version__,
        "machine": _describe_machine(),
    }
    graph = fitted.graph
    if graph is not None:
        facts["graph"] = {"mean_degree": graph.mean_degree, "purity": purity(data.train.y, graph)}
        facts["graph"]["threshold"] = graph.parameters.get("threshold")
    if data.words is not None:
        facts["words"] = judge_words(fitted.estimator, data.train.X, data.train.y, data.words)
    rounded: dict[str, Any] = _rounded(
        {**facts, **judge(fitted.estimator, fitted.training, fitted.graph, data, seed)}
    )
    return rounded


def main() -> None:
    """Run the cell that standard input describes, and write its figures: ``python -m studies.fit``."""
    cell = read_order()
    row = Row(cell["row"], cell["data"], cell["method"], cell["parameters"], cell["graph_from"])
    torch.set_num_threads(cell["threads"])
    folder = cell["folder"]
    facts = run_cell(row, cell["seed"], None if folder is None else Path(folder))
    print(json.dumps(facts, ensure_ascii=False, allow_nan=False))


def _fit(row: Row, data: Data, seed: int) -> Fitted:
    estimator = row.make_estimator(seed, data.words)
    trainings: list[Training] = []
    if hasattr(estimator, "n_heads"):
        _keep_training(estimator, trainings)
    wall, cpu = time.perf_counter(), time.process_time()
    graph = _make_graph(row, estimator, data.train, seed)
    seconds = {"neighbors": time.perf_counter() - wall}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # collapse is among the figures
        estimator.fit(data.train.X, **({"graph": graph} if graph is not None else {}))
    seconds |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    unit = 1 << (20 if sys.platform == "darwin" else 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return Fitted(estimator, trainings[0] if trainings else None, graph, seconds, peak)


def _keep_training(estimator: Any, kept: list[Training]) -> None:
    """Make the estimator leave all its heads, which label the test set later; it keeps the best one only."""
    train = estimator._train

    def train_and_keep(*arguments: Any) -> Training:
        kept.append(train(*arguments))
        return kept[-1]

    estimator._train = train_and_keep


def _make_graph(row: Row, estimator: Any, train: Split, seed: int) -> NeighborGraph | None:
    graphs = estimator.needs(len(train.X)).graphs
    if not graphs:
        return None
    if "purity" in row.graph:
        return mixed_graph(train, row.graph["same_label"], row.graph["purity"], seed)
    if "same_label" in row.graph:
        return same_label_graph(train.y, row.graph["same_label"], random_state=seed)
    options = dict(graphs[estimator.name])
    if "similar_share" in row.graph:
        options["threshold"] = threshold_of_share(train.X, row.graph["similar_share"], seed)
        most = estimator.max_neighbors or len(train.X) - 1
        options["max_neighbors"] = min(most, len(train.X) - 1)
    return knn_graph(train.X, **options, zero_rows="isolate")


def mixed_graph(train: Split, n_neighbors: int, purity: float, seed: int) -> NeighborGraph:
    """Return neighbours of which a share is of the sample's class; this reads the classes.

    Those of the class are drawn at random; the others are the most similar samples of other classes.
    """
    n_same = round(purity * n_neighbors)
    same = same_label_graph(train.y, n_same, random_state=seed)
    if n_same == n_neighbors:
        return same
    unit = _unit(train.X)
    lists = []
    for row, own in enumerate(np.split(same.indices, same.indptr[1:-1])):
        similarities = unit @ unit[row]
        similarities[train.y == train.y[row]] = -np.inf
        others = np.argpartition(-similarities, n_neighbors - n_same)[: n_neighbors - n_same]
        lists.append(np.concatenate([own, others]))
    indptr = np.concatenate([[0], np.cumsum([len(found) for found in lists])])
    return NeighborGraph.from_lists(indptr, np.concatenate(lists))


def threshold_of_share(X: NDArray[np.float32], share: float, seed: int) -> float:
    """Return the cosine similarity that a share of all pairs exceeds, measured on 1,024 samples and all."""
    drawn = np.random.default_rng(seed).choice(len(X), min(_SAMPLE, len(X)), replace=False)
    unit = _unit(X)
    similarities = unit[drawn] @ unit.T
    similarities[np.arange(len(drawn)), drawn] = np.nan
    return float(np.nanquantile(similarities, 1 - share))


def _unit(X: NDArray[np.float32]) -> NDArray[np.float32]:
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _describe_machine() -> dict[str, Any]:
    device = resolve_device("auto")
    facts = describe_machine(device)
    kept: dict[str, Any] = {
        name: facts[name] for name in ("cores", "torch", "device", "gpu") if name in facts
    }
    return {**kept, "threads": torch.get_num_threads(), "bfloat16": has_bfloat16_units(device)}


def _rounded(content: Any) -> Any:
    """Return JSON values with floats of a few digits: figures, not bits."""
    if isinstance(content, dict):
        return {str(name): _rounded(value) for name, value in content.items()}
    if isinstance(content, list | tuple | np.ndarray):
        return [_rounded(value) for value in content]
    if isinstance(content, float | np.floating):
        return round(float(content), _DIGITS) if np.isfinite(content) else None
    return int(content) if isinstance(content, np.integer) else content


if __name__ == "__main__":
    main()
