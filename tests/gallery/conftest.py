from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from kinfold.images import SkipReason, UnusableImage
from kinfold.run import Run, write_assignments, write_manifest, write_skipped


@dataclass
class Top:
    clusters: np.ndarray
    probabilities: np.ndarray


@dataclass
class Images:
    """Images made from their row's number; those in ``gone`` can't be read."""

    gone: frozenset[int] = frozenset()
    noisy: bool = False
    read_rows: list[int] = field(default_factory=list)

    def read(self, row: int) -> bytes:
        self.read_rows.append(row)
        if row in self.gone:
            raise UnusableImage(SkipReason.MISSING, "the file is gone")
        return draw(row % 16, self.noisy)


@cache
def draw(seed: int, noisy: bool) -> bytes:
    rng = np.random.default_rng(seed)
    shape = (48, 64, 3) if noisy else (1, 1, 3)
    image = Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).resize((320, 240))
    stream = io.BytesIO()
    image.save(stream, format="JPEG")
    return stream.getvalue()


def build_run(path: Path, keys: list[str], k: int, skipped: list[tuple[str, str]], **sections: Any) -> Run:
    n = len(keys)
    rng = np.random.default_rng(0)
    first = rng.integers(0, k, n).astype(np.int32)
    sure = rng.uniform(0.5, 1, n).astype(np.float32)
    top = Top(np.stack([first, (first + 1) % k], 1), np.stack([sure, 1 - sure], 1))
    path.mkdir(parents=True, exist_ok=True)
    write_assignments(path / "assignments.parquet", np.arange(n), pa.array(keys), top)
    rows = pa.array(range(n, n + len(skipped)), pa.int64())
    names, reasons = [name for name, _ in skipped], [reason for _, reason in skipped]
    table = {"row": rows, "key": pa.array(names, pa.string()), "reason": pa.array(reasons, pa.string())}
    write_skipped(path / "skipped.parquet", pa.table(table))
    manifest = {
        "source": {"kind": "folder", "uri": "/photos", "images": "/photos", "n_rows": n + len(skipped)},
        "backbone": {"card": {"name": "hog", "family": "descriptor"}, "precision": "float32"},
        "parameters": {"n_clusters": k, "method": "temi", "random_state": 3},
        "stages": {"fit": {}, "assign": {}},
        "timings": {"fit_seconds": 75.2},
        **sections,
    }
    write_manifest(path, manifest)
    return Run.open(path)


@pytest.fixture
def make_run(tmp_path):
    def make(keys=None, *, n=60, k=3, skipped=(), name="run", **sections):
        keys = [f"a/{i:03d}.jpg" for i in range(n)] if keys is None else keys
        return build_run(tmp_path / name, keys, k, list(skipped), **sections)

    return make


@pytest.fixture
def make_images():
    return Images
