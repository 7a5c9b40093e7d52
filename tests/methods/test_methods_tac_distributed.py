"""TAC by two processes under torchrun against one process."""

import os
from pathlib import Path

import numpy as np
import pytest

from support.torchrun import run_together

N, D, K = 240, 12, 3


def made_space():
    random = np.random.default_rng(0)
    nouns = random.normal(size=(30, D)).astype(np.float32)
    return (nouns[np.arange(N) % K] + 0.5 * random.normal(size=(N, D))).astype(np.float32), nouns


def fit_tac(seed, folder, train, centres):
    """Fit, as a process of a job or alone; return what was found, and how many steps this process made."""
    from kinfold import TAC
    from kinfold.heads import DualHeads, trainer

    steps, whole = [], DualHeads.step

    def step(self, batch, batch_size, number, share_done):
        steps.append(number)
        return whole(self, batch, batch_size, number, share_done)

    X, nouns = made_space()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DualHeads, "step", step)
        patched.setattr(trainer, "SECONDS_BETWEEN", 0.0)
        model = TAC(
            n_clusters=K,
            noun_features=nouns,
            n_epochs=20,
            train=train,
            centres=centres,
            random_state=seed,
            device="cpu",
        )
        model.fit(X, checkpoint=Path(folder) / "checkpoint")
    found = {name: getattr(model, name) for name in ("labels_", "selected_nouns_", "text_counterparts_")}
    found |= {f"tensors/{name}": value for name, value in model.to_model().tensors.items()}
    found["history"] = getattr(model, "history_", np.zeros(1))
    return {**found, "probabilities": model.predict_proba(X), "steps": len(steps)}


@pytest.mark.parametrize("centres", ["kmeans", pytest.param("agglomerative", marks=pytest.mark.slow)])
def test_the_first_process_trains_and_both_end_with_the_same(centres, tmp_path):
    folder = os.fspath(tmp_path)
    first, second = run_together(fit_tac, 2, seed=0, folder=folder, train=True, centres=centres)
    assert (int(first.pop("steps")), int(second.pop("steps"))) == (20, 0)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    (tmp_path / "checkpoint").unlink()
    alone = fit_tac(0, folder, True, centres)
    np.testing.assert_array_equal(set(first["selected_nouns_"]), set(alone["selected_nouns_"]))
    np.testing.assert_allclose(first["history"], alone["history"], atol=1e-3)


@pytest.mark.slow
def test_without_training_or_a_seed_both_end_with_the_same(tmp_path):
    folder = os.fspath(tmp_path)
    first, second = run_together(fit_tac, 2, seed=None, folder=folder, train=False, centres="kmeans")
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
