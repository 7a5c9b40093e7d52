"""Claims about ``kinfold cluster`` without a number of groups."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from typer.testing import CliRunner

from kinfold.cli import app


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    home = tmp_path_factory.mktemp("number")
    X, _ = make_blobs(400, centers=5, n_features=16, cluster_std=0.8, random_state=2)
    np.save(home / "features.npy", X.astype(np.float32))
    return [
        "cluster",
        str(home / "features.npy"),
        "-m",
        "kmeans",
        "--no-report",
        "--out",
        str(home / "run"),
    ]


def test_the_command_says_the_number_and_why(arguments):
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "5: groups lie apart" in " ".join(found.output.split())
    summary = json.loads(CliRunner().invoke(app, [*arguments, "-q", "--json"]).stdout)
    assert summary["choice"]["recommended"] == summary["n_clusters"] == 5


def test_what_is_no_number_is_explained(arguments):
    found = CliRunner().invoke(app, [*arguments, "-k", "several"])
    assert found.exit_code == 2
    assert "a range like 5..50" in found.stderr
