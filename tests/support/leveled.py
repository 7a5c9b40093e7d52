"""Runs of scikit-learn's digits, which have groups within groups, for tests of levels."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import kinfold
from kinfold.corrections import Corrections, Edit, State
from kinfold.language import ClusterName, ClusterNames, Name
from kinfold.run import Run, open_run_stages, write_named_assignments, write_names

N_ROWS = 600
K = 8


def make_run(home: Path, method: str = "kmeans", **options) -> Run:
    """Cluster 600 digits of 64 values in ``home/digits.npy`` into 8 groups."""
    file = home / "digits.npy"
    np.save(file, load_digits().data[:N_ROWS].astype(np.float32))
    return kinfold.cluster(file, K, method=method, out=home / "run", **{"report": False, **options})


def correct(run: Run, *edits: Edit, client: str = "somebody") -> State:
    """Make edits at the level that a run shows."""
    with Corrections.open(Run.open(run.path)) as corrections:
        for edit in edits:
            corrections.apply(edit, client=client)
        return corrections.state


def state_of(run: Run) -> State:
    """Read the groups of a run as corrected, at the level that it shows."""
    with Corrections.open(Run.open(run.path), write=False) as corrections:
        return corrections.state


def name_groups(run: Run, n_names: int = 1) -> ClusterNames:
    """Name every group by its number and the level, as ``kinfold name`` would."""
    run = Run.open(run.path)
    names = ClusterNames(
        tuple(
            ClusterName(group, (Name(f"noun {group} of {run.n_clusters}", -1.0, 0.5, 0.75),))
            for group in range(run.n_clusters)
        ),
        {"n_names": n_names},
    )
    with open_run_stages(run.path) as stages:
        writers = {
            "assignments.parquet": partial(
                write_named_assignments, assignments=run.assignments, nouns=names.nouns
            ),
            "names.parquet": partial(write_names, names=names),
        }
        naming = {"n_named": run.n_clusters, "parameters": {"n_names": n_names}}
        stages.replace("name", {"level": run.level}, writers, time.monotonic(), naming=naming)
    return names
