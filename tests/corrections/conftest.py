from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kinfold import Run, cluster
from kinfold.corrections import Corrections

N_GROUPS = 4
PER_GROUP = 30


@pytest.fixture(scope="session")
def clustered(tmp_path_factory):
    """A run of four kinds in six dimensions, 30 images each, and one row (7) that can't be used."""
    home = tmp_path_factory.mktemp("corrections")
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(N_GROUPS, 6), PER_GROUP, axis=0)
    features = (centres + random.normal(0, 0.1, centres.shape)).astype(np.float32)
    features = np.insert(features, 7, np.nan, axis=0)
    np.save(home / "features.npy", features)
    cluster(home / "features.npy", N_GROUPS, method="kmeans", out=home / "run", random_state=0, report=False)
    return home / "run"


@pytest.fixture
def path(clustered, tmp_path):
    """A copy of the run for one test."""
    return Path(shutil.copytree(clustered, tmp_path / "run"))


@pytest.fixture
def run(path):
    return Run.open(path)


@pytest.fixture
def corrections(run):
    with Corrections.open(run) as opened:
        yield opened
