"""The gallery of a run of a million images: how long each answer takes, and what the server holds.

The run is made: 1,000 groups with long-tailed sizes, the first with a tenth of all images, five ranked groups
per image, features of 128 numbers on disk, no images. It is served by ``kinfold explore`` in a process of its
own; times are of whole requests over the loopback, the first one of a kind and the median of those that
follow. ``resident`` counts pages of mapped files too, which the system takes back when it needs them; ``own``
doesn't.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from kinfold.compute import cpu_count
from kinfold.features import open_features
from kinfold.methods import TopClusters
from kinfold.run import write_assignments, write_manifest, write_skipped
from perf.table import Table

N_IMAGES, N_GROUPS, N_TOP, DIM = 1_000_000, 1_000, 5, 128
LARGEST = 0.1  # share of the first group
_BLOCK = 100_000


def main(arguments: list[str] | None = None) -> Table:
    """Measure, and return the table."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="kinfold-perf-") as folder:
        path = Path(folder) / "run"
        make_run(path, options.n_images, options.n_groups)
        table = Table(
            f"The gallery: {options.n_images:,} images, {options.n_groups:,} groups, {cpu_count()} cores",
            ("asked for", "bytes", "first, ms", "then, ms", "resident, MiB", "own, MiB"),
        )
        with serving(path) as server:
            _measure(table, server, options.n_images)
    return table


def make_run(path: Path, n: int, n_groups: int, *, seed: int = 0) -> None:
    """Write a run with features but without images, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    shares = rng.lognormal(0, 0.7, n_groups)
    shares[1:] *= (1 - LARGEST) / shares[1:].sum()
    shares[0] = LARGEST
    labels = rng.choice(n_groups, n, p=shares).astype(np.int32)
    features = np.lib.format.open_memmap(path / "features.npy", "w+", np.float16, (n, DIM))
    centres = rng.standard_normal((n_groups, DIM), np.float32)
    for start in range(0, n, _BLOCK):
        some = labels[start : start + _BLOCK]
        features[start : start + _BLOCK] = centres[some] + rng.standard_normal((len(some), DIM), np.float32)
    features.flush()
    top = np.empty((n, N_TOP), np.int32)
    top[:, 0] = labels
    for k in range(1, N_TOP):  # groups near by, all different
        top[:, k] = (labels + k * (1 + rng.integers(0, 3))) % n_groups
    probabilities = -np.sort(-rng.dirichlet((4, 1, 0.5, 0.3, 0.2), n).astype(np.float32), axis=1)
    keys = pa.array([f"part-{row // 1000:05d}/IMG_{row * 7919 % n:07d}.jpg" for row in range(n)])
    write_assignments(path / "assignments.parquet", np.arange(n), keys, TopClusters(top, probabilities))
    nothing = {"row": pa.array([], pa.int64()), "key": pa.array([], pa.string())}
    write_skipped(path / "skipped.parquet", pa.table({**nothing, "reason": pa.array([], pa.string())}))
    write_manifest(path, _manifest(path, n, n_groups))


def _manifest(path: Path, n: int, n_groups: int) -> dict[str, Any]:
    return {
        "source": {
            "kind": "features",
            "uri": "features.npy",
            "images": None,
            "n_rows": n,
            "fingerprint": "made",
        },
        "parameters": {"n_clusters": n_groups, "method": "made", "random_state": 0},
        "features": {
            "path": "features.npy",
            "variant": "cls",
            "dim": DIM,
            "fingerprint": open_features(path / "features.npy").fingerprint(),
        },
        "stages": {"fit": {}, "assign": {}},
    }


class Server:
    """A gallery in a process of its own.

    Attributes
    ----------
    address : str
        Where it is.
    seconds_to_start : float
        From the start of the process to its address.
    """

    def __init__(self, path: Path) -> None:
        begun = time.perf_counter()
        order = [sys.executable, "-m", "kinfold", "explore", str(path), "--no-browser", "--quiet"]
        self._process = subprocess.Popen(order, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._host = self._process.stdout.readline().strip().removeprefix("http://").rstrip("/")
        self.address = f"http://{self._host}"
        self.seconds_to_start = time.perf_counter() - begun

    def ask(self, path: str, edit: dict[str, Any] | None = None) -> bytes:
        """Return the whole answer; errors raise."""
        name, _, port = self._host.partition(":")
        connection = http.client.HTTPConnection(name, int(port), timeout=120)
        headers = {"Origin": f"http://{self._host}", "Content-Type": "application/json", "X-Client": "perf"}
        body = None if edit is None else json.dumps(edit)
        connection.request("GET" if edit is None else "POST", path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content[:200]!r}")
        return content

    def memory(self) -> tuple[float, float]:
        """Return the process's resident memory in MiB, and what of it is no mapped file."""
        found = psutil.Process(self._process.pid).memory_info()
        status = Path(f"/proc/{self._process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        own = [int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")]
        return found.rss / 2**20, own[0] if own else float("nan")

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def serving(path: Path) -> Iterator[Server]:
    """Serve a run while the context lasts."""
    server = Server(path)
    try:
        yield server
    finally:
        server.stop()


def _measure(table: Table, server: Server, n: int) -> None:
    table.notes.append(f"From the start of the command to its address: {server.seconds_to_start:.1f} s.\n")
    group = "/api/images?group=0&limit=200"
    questions = (
        ("the shell", ["/"]),
        ("the run", ["/api/run"]),
        ("groups, 100 cards", ["/api/groups?limit=100"]),
        ("all groups in brief", ["/api/groups?limit=5000&brief=1"]),
        ("charts", ["/api/charts"]),
        ("one group with borders", ["/api/groups/0"]),
        (
            "group of 100,000 by confidence",
            [f"{group}&sort=confidence&offset={k}" for k in range(0, 90_000, 9_000)],
        ),
        ("… by doubt", [f"{group}&sort=doubt&offset={k}" for k in range(0, 90_000, 9_000)]),
        ("… by file name", [f"{group}&sort=key&offset={k}" for k in range(0, 90_000, 9_000)]),
        ("… by distance", [f"{group}&sort=distance&offset={k}" for k in range(0, 90_000, 9_000)]),
        ("all by confidence", [f"/api/images?offset={k}" for k in range(0, n - 200, n // 10)]),
        ("file names with 0012", ["/api/images?q=0012&limit=200"] * 3),
        ("file names with img_00, in the group", [f"{group}&q=img_00"] * 3),
        ("one image", [f"/api/images/{k}" for k in range(10)]),
        ("groups by similarity", ["/api/groups?sort=similarity&limit=100"] * 3),
        ("24 nearest, exact search", ["/api/images/5/neighbors", "/api/images/6/neighbors"]),
    )
    for title, paths in questions:
        _add(table, server, title, [lambda path=path: server.ask(path) for path in paths])
    edits = [{"kind": "move", "rows": list(range(k, k + 100)), "group": 7} for k in range(0, 1000, 100)]
    _add(
        table,
        server,
        "an edit: move 100 images",
        [lambda edit=edit: server.ask("/api/edits", edit) for edit in edits],
    )
    _add(table, server, "groups after an edit", _after_edits(server, "/api/groups?limit=100"))
    _add(table, server, "the group by doubt after an edit", _after_edits(server, f"{group}&sort=doubt"))
    merge = {"kind": "merge", "groups": [1], "into": 0}
    _add(table, server, "an edit: merge", [lambda: server.ask("/api/edits", merge)])
    _add(table, server, "groups after it", [lambda: server.ask("/api/groups?limit=100")])
    _add(table, server, "the table as CSV", [lambda: server.ask("/api/export/csv")])


def _after_edits(server: Server, path: str) -> Iterator[Any]:
    for k in range(5):
        server.ask("/api/edits", {"kind": "mark", "rows": [50_000 + k], "mark": "wrong"})
        yield lambda: server.ask(path)


def _add(table: Table, server: Server, title: str, questions: Any) -> None:
    times, size = [], 0
    for ask in questions:
        begun = time.perf_counter()
        size = len(ask())
        times.append(1000 * (time.perf_counter() - begun))
    then = f"{median(times[1:]):.1f}" if times[1:] else ""
    resident, own = server.memory()
    table.add(title, f"{size:,}", f"{times[0]:.1f}", then, f"{resident:,.0f}", f"{own:,.0f}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-images", type=int, default=N_IMAGES)
    parser.add_argument("--n-groups", type=int, default=N_GROUPS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(main().markdown())
