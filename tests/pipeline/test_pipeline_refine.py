from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import kinfold
from kinfold.corrections import Accept, Corrections, Move, read_proposals
from kinfold.errors import InputError
from kinfold.pipeline import refine


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    home = tmp_path_factory.mktemp("refine")
    random = np.random.default_rng(0)
    features = np.repeat(np.eye(3, 5), 40, axis=0) + random.normal(0, 0.1, (120, 5))
    np.save(home / "features.npy", features.astype(np.float32))
    kinfold.cluster(home / "features.npy", 3, method="kmeans", out=home / "run", random_state=0, report=False)
    return home / "run"


@pytest.fixture
def path(clustered, tmp_path):
    return Path(shutil.copytree(clustered, tmp_path / "run"))


def misplace(path):
    run = kinfold.Run.open(path)
    wrong = np.flatnonzero(run.labels == 0)[:5]
    with Corrections.open(run) as corrections:
        corrections.apply(Accept(wrong, np.full(5, 2)))
        corrections.apply(Move(np.flatnonzero(run.labels == 0)[5:7], 0))
    return wrong


def test_proposals_are_written_and_nothing_else_changes(path):
    wrong = misplace(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    found = refine(path)
    assert found.path == path / "proposals.parquet"
    assert found.proposals.rows.tolist() == wrong.tolist()
    assert found.n_accepted == 0
    assert found.state.version == 2
    after = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "proposals.parquet"}
    assert after == before
    assert read_proposals(kinfold.Run.open(path)).facts["n_by_hand"] == 2


def test_accepting_is_one_edit_that_can_be_undone(path):
    wrong = misplace(path)
    found = kinfold.refine(path, accept=True)
    assert found.n_accepted == len(wrong)
    run = kinfold.Run.open(path)
    with Corrections.open(run) as corrections:
        assert (corrections.state.labels == run.labels).all()
        newest = corrections.history(limit=1)[0]
        assert (newest.kind, newest.client, newest.text) == (
            "accept",
            "kinfold refine",
            "accepted 5 proposals",
        )
        assert (corrections.undo().labels[wrong] == 2).all()


def test_a_bar_that_nothing_reaches_accepts_nothing(path):
    misplace(path)
    found = refine(path, accept=True, min_confidence=1.0)
    assert found.n_accepted == (found.proposals.confidences >= 1).sum()
    assert found.state.version == 2 + (found.n_accepted > 0)


def test_wrong_values_are_refused_before_anything_is_trained(path):
    with pytest.raises(InputError, match=r"min_confidence must be a number in \[0, 1\]"):
        refine(path, min_confidence=2)
    with pytest.raises(InputError, match="random_state"):
        refine(path, random_state=-1)
    with pytest.raises(InputError, match="moved"):
        refine(path, source=path / "nowhere")
    assert not (path / "proposals.parquet").exists()
