"""TURTLE by two processes under torchrun against one process."""

import os
from pathlib import Path

import numpy as np
import pytest

from support.torchrun import run_together

N, D, K = 240, 12, 3


def made_rows():
    random = np.random.default_rng(0)
    truth = np.arange(N) % K
    return (random.normal(size=(K, D))[truth] + 0.5 * random.normal(size=(N, D))).astype(np.float32)


def fit_turtle(seed, folder):
    """Fit, as a process of a job or alone; return what was found, and how many steps this process made."""
    from kinfold import TURTLE
    from kinfold.heads import trainer
    from kinfold.methods._turtle_training import TurtleTraining

    steps, whole = [], TurtleTraining.step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            TurtleTraining, "step", lambda self, number: [steps.append(number), whole(self, number)][1]
        )
        patched.setattr(trainer, "SECONDS_BETWEEN", 0.0)
        model = TURTLE(n_clusters=K, space_dims=(8, 4), n_steps=100, random_state=seed, device="cpu")
        model.fit(made_rows(), checkpoint=Path(folder) / "checkpoint")
    found = {
        name: getattr(model, name) for name in ("labels_", "history_", "generalization_score_", "n_clusters_")
    }
    found |= {f"tensors/{name}": value for name, value in model.to_model().tensors.items()}
    return {**found, "probabilities": model.predict_proba(made_rows()), "steps": len(steps)}


def test_the_first_process_trains_and_both_end_with_what_one_finds(tmp_path):
    for name in ("alone", "job"):
        (tmp_path / name).mkdir()
    alone = fit_turtle(0, tmp_path / "alone")
    results = run_together(fit_turtle, 2, seed=0, folder=os.fspath(tmp_path / "job"))
    assert [int(result.pop("steps")) for result in results] == [100, 0]
    assert alone.pop("steps") == 100
    for result in results:
        assert result.keys() == alone.keys()
        for name, value in alone.items():
            np.testing.assert_array_equal(result[name], value, err_msg=name)
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["checkpoint"]
    resumed = run_together(fit_turtle, 2, seed=0, folder=os.fspath(tmp_path / "job"))
    assert [int(result["steps"]) for result in resumed] == [0, 0]
    for result in resumed:
        np.testing.assert_array_equal(result["labels_"], alone["labels_"])


@pytest.mark.slow
def test_without_a_seed_both_end_with_the_same(tmp_path):
    first, second = run_together(fit_turtle, 2, seed=None, folder=os.fspath(tmp_path))
    for name in first.keys() - {"steps"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
