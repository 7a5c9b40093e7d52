"""Small finished runs to serve: real images, features, a model, a graph, and rows that aren't places."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from starlette.testclient import TestClient

import kinfold
from kinfold.backbones import load_backbone
from kinfold.features import open_features
from kinfold.gallery.explore import create_app
from kinfold.images import open_source
from kinfold.levels import open_levels, write_levels
from kinfold.methods import SphericalKMeans, predict_top, save_model
from kinfold.neighbors import knn_graph
from kinfold.run import Run, read_manifest, write_assignments, write_manifest, write_skipped
from kinfold.storage import hash_file

HOST = "http://127.0.0.1"
BROKEN = (4, 9, 21)
"""Rows of the source that are no images; so later rows aren't places."""


def write_images(folder: Path, n: int, seed: int = 0) -> None:
    """Write images of three kinds of colours, and files that are none at :data:`BROKEN`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(n):
        path = folder / f"{number:03d}.png"
        if number in BROKEN:
            path.write_text("this is no image")
            continue
        colour = np.eye(3)[number % 3] * 160 + 40
        pixels = np.clip(rng.normal(colour, 25, (24, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)


def make_gallery_run(home: Path, n: int = 60, k: int = 3, *, graph: bool = True, **sections: Any) -> Run:
    """Write ``home/images`` and the run ``home/run``, as ``kinfold cluster`` would by pixels and k-means."""
    write_images(home / "images", n)
    source, path = open_source(home / "images"), home / "run"
    path.mkdir()
    rows = np.array([row for row in range(n) if row not in BROKEN])
    backbone = load_backbone("pixels", device="cpu")
    images = np.stack([backbone.transform(Image.open(source.path(int(row))).convert("RGB")) for row in rows])
    vectors = np.zeros((n, backbone.variants["cls"]), np.float32)
    vectors[rows] = backbone.embed(images)["cls"]
    np.save(path / "features.npy", vectors)
    model = SphericalKMeans(n_clusters=k, n_init=1, random_state=0, device="cpu").fit(vectors[rows])
    save_model(model, path)
    keys = pa.array([source.keys[int(row)] for row in rows])
    write_assignments(path / "assignments.parquet", rows, keys, predict_top(model, vectors[rows]))
    broken = [row for row in BROKEN if row < n]
    skipped = {
        "row": pa.array(broken, pa.int64()),
        "key": pa.array([source.keys[row] for row in broken]),
        "reason": pa.array(["not an image: text"] * len(broken)),
    }
    write_skipped(path / "skipped.parquet", pa.table(skipped))
    manifest = {
        "source": {"kind": "folder", "uri": source.uri, "images": source.uri, "options": {}, "n_rows": n},
        "parameters": {"n_clusters": k, "method": "kmeans", "random_state": 0},
        "backbone": {**backbone.describe(), "spec": "pixels", "fingerprint": backbone.fingerprint()},
        "features": {"path": "features.npy", "column": None, "variant": "cls", "dim": vectors.shape[1]},
        "stages": {"fit": {}, "assign": {}},
    }
    if graph:
        found = knn_graph(vectors[rows], 10, device="cpu")
        found.save(path / "neighbors" / "made")
        manifest["neighbors"] = found.describe()
    manifest["features"]["fingerprint"] = open_features(path / "features.npy").fingerprint()
    write_manifest(path, {**manifest, **sections})
    return Run.open(path)


@dataclass(frozen=True)
class Tab:
    """A page's requests: from its own origin, under its own name."""

    client: TestClient
    name: str = "tab"

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a GET, which must succeed."""
        answer = self.client.get(path, params=query, headers={"X-Client": self.name})
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    def send(self, path: str, content: Any = None) -> Any:
        """Return the answer of a POST of JSON."""
        headers = {"Origin": HOST, "X-Client": self.name}
        return self.client.post(path, json={} if content is None else content, headers=headers)

    def edit(self, kind: str, **fields: Any) -> Any:
        """Return what an edit, which must succeed, was answered with."""
        answer = self.send("/api/edits", {"kind": kind, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def called(self, name: str) -> Tab:
        """Return another tab of the same server."""
        return replace(self, name=name)


@contextlib.contextmanager
def opened(run: Run, **options: Any) -> Iterator[Tab]:
    """Serve a run inside the test's process."""
    app = create_app(run, n_workers=2, device="cpu", **options)
    with TestClient(app, base_url=HOST, raise_server_exceptions=False) as client:
        yield Tab(client)


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``kinfold explore`` as people do; yields its address and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kinfold", "explore", *arguments, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    timer = threading.Timer(240, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        timer.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


ESTIMATE = {
    "n_groups": [2, 3, 4, 6, 8, 12, 16],
    "separation": [0.4, 0.5, 0.6, 0.9, 0.8, 0.7, 0.5],
    "null_separation": [0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2],
    "stability": [0.9, 0.8, 0.8, 0.95, 0.8, 0.7, 0.6],
    "recommended": 6,
    "candidates": [3, 6, 12],
    "reason": "6 groups: the most separate number <of groups>.",
    "chosen": 6,
}
"""How a number of groups was estimated, as ``levels.json`` has it."""


def make_level_run(home: Path, n: int = 160, k: int = 6) -> Run:
    """Cluster images of ``k`` colours, so that ``home/run`` has levels."""
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 220, (k, 3))
    (home / "images").mkdir(parents=True)
    for number in range(n):
        pixels = rng.normal(colours[number % k], 25, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(home / "images" / f"{number:03d}.png")
    options: dict[str, Any] = {"method": "kmeans", "backbone": "pixels", "random_state": 0, "n_workers": 0}
    kinfold.cluster(home / "images", k, out=home / "run", report=False, **options)
    return Run.open(home / "run")


def set_estimate(run: Run, estimate: dict[str, Any] | None) -> Run:
    """Put an estimate into the levels of a run, and open it again."""
    found = open_levels(run)
    rows, keys = run.assignments["row"].to_numpy(), run.assignments["key"]
    write_levels(run.path, found.levels, rows, keys, found.parts, estimate)
    manifest = read_manifest(run.path)
    outputs = manifest.stages["levels"]["outputs"]
    outputs.update({name: hash_file(run.path / name) for name in outputs})
    write_manifest(run.path, manifest)
    return Run.open(run.path)
