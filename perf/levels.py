"""What levels cost beside the fit of a given number of groups, and how it grows.

Rows are made: groups of uneven size around directions. Each size is measured in a process of its own, whose
peak memory is told; processor seconds of the parts stand beside those of the neighbour search and of fits
with a given number of groups on the same rows.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinfold.levels import build_levels, estimate_levels
from kinfold.methods import ICCE, GraphClustering, SphericalKMeans
from kinfold.neighbors import knn_graph
from perf.table import Table

SIZES = (10_000, 40_000, 160_000, 320_000)
N_FEATURES, N_GROUPS, N_NEIGHBORS = 384, 50, 10
_WITH_GRAPH_METHOD = 40_000  # rows up to which graph clustering is fitted beside
_WITH_DEFAULT_METHOD = 10_000  # rows up to which ICCE is


def main(arguments: Sequence[str] = ()) -> Table:
    """Measure all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help="measure this size alone, and print JSON")
    order = parser.parse_args(arguments)
    if order.one:
        print(json.dumps(measure(order.one)))
        sys.exit()
    table = Table(
        f"Levels: N × {N_FEATURES}, {N_GROUPS} groups, processor seconds",
        (
            "N",
            "neighbours",
            "k-means",
            "graph clustering",
            "ICCE",
            "estimate",
            "tree",
            "with levels: × graph clustering",
            "× ICCE",
            "peak GiB",
        ),
    )
    found = []
    for size in order.sizes:
        command = [sys.executable, "-m", "perf.levels", "--one", str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = json.loads(done.stdout.splitlines()[-1])
        found.append(line)
        extra = line["estimate"] + line["tree"]
        parts = ("neighbours", "kmeans", "graph", "icce", "estimate", "tree")
        cells = [f"{line[name]:.1f}" if line[name] else "–" for name in parts]
        ratios = [f"{1 + extra / line[fit]:.2f}" if line[fit] else "–" for fit in ("graph", "icce")]
        table.add(f"{size:,}", *cells, *ratios, f"{line['peak']:.2f}")
    first, last = found[0], found[-1]
    if last["n"] > first["n"]:
        grown = {name: _exponent(first, last, name) for name in ("neighbours", "kmeans", "estimate", "tree")}
        table.notes.append(
            f"Growth from {first['n']:,} to {last['n']:,}, as a power of N: "
            + ", ".join(f"{name} {value:.2f}" for name, value in grown.items())
        )
    return table


def measure(n_samples: int) -> dict[str, Any]:
    """Return processor seconds and the peak memory of one size."""
    X = make_rows(n_samples)
    found: dict[str, Any] = {"n": n_samples, "graph": 0.0, "icce": 0.0}
    found["neighbours"], graph = _timed(lambda: knn_graph(X, N_NEIGHBORS))
    found["kmeans"], fitted = _timed(lambda: SphericalKMeans(N_GROUPS, random_state=0).fit(X))
    if n_samples <= _WITH_GRAPH_METHOD:
        found["graph"], _ = _timed(lambda: GraphClustering(N_GROUPS, random_state=0).fit(X, graph=graph))
    if n_samples <= _WITH_DEFAULT_METHOD:
        found["icce"], _ = _timed(lambda: ICCE(N_GROUPS, random_state=0).fit(X))
    found["estimate"], _ = _timed(lambda: estimate_levels(X, random_state=0))
    found["tree"], _ = _timed(lambda: build_levels(X, fitted.labels_, N_GROUPS, seed=0))
    found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def make_rows(n_samples: int) -> NDArray[np.float32]:
    """Return rows around directions, of groups whose sizes fall from 10 to 1."""
    random = np.random.default_rng(0)
    shares = 10.0 ** -np.linspace(0, 1, N_GROUPS)
    groups = random.choice(N_GROUPS, n_samples, p=shares / shares.sum())
    centers = random.standard_normal((N_GROUPS, N_FEATURES), dtype=np.float32)
    return centers[groups] + 2 * random.standard_normal((n_samples, N_FEATURES), dtype=np.float32)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _exponent(first: dict[str, Any], last: dict[str, Any], name: str) -> float:
    return math.log(last[name] / first[name]) / math.log(last["n"] / first["n"])


if __name__ == "__main__":
    print(main(sys.argv[1:]).markdown())
