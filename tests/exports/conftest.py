"""Runs to export; nobody may change those of the session."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kinfold.run import Run, write_assignments, write_manifest, write_skipped
from support.export_runs import HOSTILE, IN_ARCHIVES, Top, draw, make_clustered


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "photos"
    for number, name in enumerate([*HOSTILE, *(f"{number}.png" for number in range(20))]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(number))
    (folder / "broken.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, photos) -> Run:
    """A run of a folder, corrected; nobody may change it."""
    return make_clustered(tmp_path_factory.mktemp("folder"), photos)


@pytest.fixture(scope="session")
def archived(tmp_path_factory) -> Run:
    """A run of a zip archive, corrected; nobody may change it."""
    home = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(home / "photos.zip", "w") as archive:
        for number, name in enumerate([*IN_ARCHIVES, *(f"{number}.png" for number in range(20))]):
            archive.writestr(name, draw(number))
    return make_clustered(home, home / "photos.zip")


@pytest.fixture
def made_run(tmp_path):
    """Return what makes a run of given keys and labels, without images or model."""

    def make(keys, labels, k) -> Run:
        path = tmp_path / "made"
        path.mkdir()
        n = len(labels)
        write_assignments(path / "assignments.parquet", np.arange(n), pa.array(keys), Top(labels))
        empty = {"row": pa.array([], pa.int64()), "key": pa.array([], pa.string())}
        write_skipped(path / "skipped.parquet", pa.table({**empty, "reason": pa.array([], pa.string())}))
        sections = {
            "source": {"kind": "features", "uri": "/features", "images": None, "n_rows": n},
            "parameters": {"n_clusters": k, "method": "kmeans"},
            "stages": {"fit": {}, "assign": {}},
        }
        write_manifest(path, sections)
        return Run.open(path)

    return make
