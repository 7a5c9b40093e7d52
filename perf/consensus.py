"""Consensus of many heads: ours beside the textbook's dense arrays, and the ImageNet-sized case.

The heads are made: relabeled copies of a truth with noise, half of them also with merged and split classes
that several heads share, and some that are dead. By default the pieces are timed in alternation with naive
ones at a small size. ``--large`` runs the whole consensus once, in a process of its own whose peak memory is
read, at N = 1,280,000, H = 50, K = 1,000.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

from kinfold.consensus import consensus, mean_nmi, pairwise_nmi
from kinfold.metrics import clustering_accuracy
from perf.ceilings import measure_ceilings
from perf.table import Table, median_ratio

Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Case:
    """Heads to be made."""

    n_samples: int = 20_000
    n_clusters: int = 50
    n_heads: int = 20
    noise: float = 0.35
    n_dead: int = 3
    n_views: int = 5
    changed_share: float = 0.05

    @property
    def title(self) -> str:
        """Say what it is."""
        return (
            f"N = {self.n_samples:,}, H = {self.n_heads}, K = {self.n_clusters:,}, "
            f"{self.noise:.0%} noise, {self.n_dead} dead heads"
        )


LARGE = Case(n_samples=1_280_000, n_clusters=1_000, n_heads=50)


def make_heads(case: Case, seed: int = 0) -> tuple[NDArray[np.int32], Labels]:
    """Return heads (H, N) and the truth (N,).

    Every second head sees the truth, the others one of five distorted views of it: in each, 5 % of the
    classes have swallowed another one and 5 % are split into halves.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(0, case.n_clusters, case.n_samples, dtype=np.int32)
    views = [_distort(truth, case, random) for _ in range(case.n_views)]
    heads = np.empty((case.n_heads, case.n_samples), dtype=np.int32)
    for number, head in enumerate(heads):
        seen = views[number // 2 % case.n_views] if number % 2 else truth
        head[:] = random.permutation(case.n_clusters).astype(np.int32)[seen]
        noisy = np.flatnonzero(random.random(case.n_samples) < case.noise)
        head[noisy] = random.integers(0, case.n_clusters, len(noisy))
    heads[random.choice(case.n_heads, case.n_dead, replace=False)] = 0
    return heads, truth


def _distort(truth: Labels, case: Case, random: np.random.Generator) -> Labels:
    n_changed = max(1, int(case.changed_share * case.n_clusters))
    swallowing, swallowed, split = random.permutation(case.n_clusters)[: 3 * n_changed].reshape(3, -1)
    renamed, half = np.arange(case.n_clusters), np.arange(case.n_clusters)
    renamed[swallowed] = swallowing
    half[split] = swallowed  # the second halves take the names that have become free
    moved = (half[truth] != truth) & (random.random(case.n_samples) < 0.5)
    return np.where(moved, half[truth], renamed[truth]).astype(np.int32)


def naive_pairwise_nmi(heads: NDArray[np.int32]) -> None:
    """Compare every two heads with scikit-learn's function."""
    for a in range(len(heads)):
        for b in range(a):
            normalized_mutual_info_score(heads[a], heads[b], average_method="geometric")


def naive_mcla(heads: NDArray[np.int32], n_clusters: int) -> Labels:
    """Make the indicator matrix and the Jaccard similarities of all clusters dense; METIS cuts them."""
    import pymetis

    indicator = np.concatenate([np.eye(n_clusters, dtype=np.float32)[head] for head in heads], axis=1)
    indicator = indicator[:, indicator.any(axis=0)]
    shared = indicator.T @ indicator
    sizes = np.diag(shared)
    weights = np.rint(1000 * shared / (sizes[:, None] + sizes - shared)).astype(np.int32)
    np.fill_diagonal(weights, 0)
    neighbors = [np.flatnonzero(row) for row in weights]
    starts = np.cumsum([0, *map(len, neighbors)])
    edges = np.concatenate([row[kept] for row, kept in zip(weights, neighbors, strict=True)])
    structure = pymetis.CSRAdjacency(starts, np.concatenate(neighbors))
    _, parts = pymetis.part_graph(n_clusters, structure, eweights=edges, options=pymetis.Options(seed=0))
    collapsed = np.eye(n_clusters, dtype=np.float32)[np.asarray(parts)]
    return (indicator @ (collapsed / np.maximum(collapsed.sum(axis=0), 1))).argmax(axis=1).astype(np.int32)


def naive_alignment(heads: NDArray[np.int32], n_clusters: int, rounds: int = 5) -> Labels:
    """Vote with dense one-hot arrays, from the first living head on."""
    one_hot = np.eye(n_clusters, dtype=np.float32)
    labels = next(head for head in heads if head.any())
    for _ in range(rounds):
        votes = np.zeros((len(labels), n_clusters), dtype=np.float32)
        for head in heads:
            _, columns = linear_sum_assignment(one_hot[head].T @ one_hot[labels], maximize=True)
            votes += one_hot[columns][head]
        labels = votes.argmax(axis=1).astype(np.int32)
    return labels


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="the whole consensus at the size of ImageNet")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--heads", type=int)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    standard = LARGE if options.large else Case()
    case = Case(
        options.samples or standard.n_samples,
        options.clusters or standard.n_clusters,
        options.heads or standard.n_heads,
    )
    if options.alone:
        print(json.dumps(run_once(case)))
        return Table("", ())
    return large_table(case) if options.large else small_table(case, options.turns)


def small_table(case: Case, turns: int) -> Table:
    """Time ours and the naive way in alternation."""
    heads, truth = make_heads(case)
    k = case.n_clusters
    ours = partial(consensus, heads, n_clusters=k, random_state=0)
    pieces: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "NMI of all pairs": (lambda: pairwise_nmi(heads), lambda: naive_pairwise_nmi(heads)),
        "MCLA": (lambda: ours(method="mcla").labels, lambda: naive_mcla(heads, k)),
        "alignment": (lambda: ours(method="alignment").labels, lambda: naive_alignment(heads, k)),
    }
    table = Table(
        f"Consensus: {case.title}",
        ("", "s", "CPU time ÷ naive", "accuracy", "naive's accuracy", "best head's accuracy"),
    )
    best_head = max(clustering_accuracy(truth, head) for head in heads)
    for name, (run, naive) in pieces.items():
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(turns):
            found, other = _time(run, times[0]), _time(naive, times[1])
        cells = ["", "", ""]
        if other is not None:
            cells = [f"{clustering_accuracy(truth, labels):.3f}" for labels in (found, other)]
            cells.append(f"{best_head:.3f}")
        table.add(name, f"{np.median(times[0]):.2f}", f"{median_ratio(*times):.2f}", *cells)
    table.note_ceilings([measure_ceilings(torch.device("cpu"), torch.float32)])
    return table


def run_once(case: Case) -> dict[str, Any]:
    """Run the whole consensus once; seconds, peak memory of this process, accuracies."""
    heads, truth = make_heads(case)
    started, worked = time.perf_counter(), time.process_time()
    found = consensus(heads, n_clusters=case.n_clusters, random_state=0)
    facts: dict[str, Any] = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "candidates": [asdict(candidate) for candidate in found.candidates],
        "method": found.method,
        "accuracy": clustering_accuracy(truth, found.labels),
        "best_head_accuracy": max(clustering_accuracy(truth, head) for head in heads),
        "truth_mean_nmi": mean_nmi(heads, truth),
    }
    return facts


def large_table(case: Case) -> Table:
    """Run the case in a process of its own and tell what it took."""
    sizes = ("--samples", case.n_samples, "--clusters", case.n_clusters, "--heads", case.n_heads)
    command = [sys.executable, "-m", "perf.consensus", "--alone", *map(str, sizes)]
    facts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table = Table(f"Consensus: {case.title}", ("", "s", "mean NMI", "live clusters", "note"))
    for each in facts["candidates"]:
        told = each["mean_nmi"] is not None
        value, live = (f"{each['mean_nmi']:.4f}", str(each["n_clusters"])) if told else ("", "")
        table.add(each["name"], f"{each['seconds']:.1f}", value, live, each["note"])
    table.notes += [
        f"{facts['seconds']:.0f} s, {facts['cpu_seconds']:.0f} s of CPU time, "
        f"{facts['peak_bytes'] / 2**30:.1f} GiB at the peak.",
        f"Accuracy {facts['accuracy']:.4f} ({facts['method']}); best head {facts['best_head_accuracy']:.4f}. "
        f"The truth's own mean NMI is {facts['truth_mean_nmi']:.4f}.",
    ]
    return table


def _time(work: Callable[[], Any], seconds: list[float]) -> Any:
    started = time.process_time()
    result = work()
    seconds.append(time.process_time() - started)
    return result


if __name__ == "__main__":
    shown = main(sys.argv[1:])
    if shown.columns:
        print(shown.markdown())
