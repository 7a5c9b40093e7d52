from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from support.torchrun import run_together


def fit_digits(folder):
    """Fit the digits, as the process of a job or alone; return what was found."""
    from kinfold import SphericalKMeans

    X = load_digits().data.astype(np.float32)
    mapped = np.load(Path(folder) / "x.npy", mmap_mode="r")
    many = SphericalKMeans(n_clusters=80, n_init=2, random_state=0, device="cpu").fit(X)
    few = SphericalKMeans(n_clusters=10, n_init=1, random_state=0, device="cpu").fit(mapped)
    unseeded = SphericalKMeans(n_clusters=10, n_init=1, device="cpu").fit(mapped)
    # mostly copies of one row: clusters run empty and are seeded again from all processes' rows
    hard = np.concatenate([X[:30], np.tile(X[:1], (270, 1))])
    repaired = SphericalKMeans(n_clusters=25, n_init=1, random_state=0, device="cpu").fit(hard)
    return {
        "labels": many.labels_,
        "temperature": many.temperature_,
        "centers": many.cluster_centers_,
        "objective": many.objective_,
        "predicted": many.predict(X),
        "few": few.labels_,
        "unseeded": unseeded.labels_,
        "repaired": repaired.labels_,
    }


def test_two_processes_find_what_one_finds(tmp_path):
    np.save(tmp_path / "x.npy", load_digits().data.astype(np.float32))
    alone = fit_digits(str(tmp_path))
    results = run_together(fit_digits, 2, folder=str(tmp_path))
    for result in results:
        for name in ("labels", "few", "repaired"):
            np.testing.assert_array_equal(result[name], alone[name])
        np.testing.assert_array_equal(result["predicted"], alone["labels"])
        np.testing.assert_allclose(result["centers"], alone["centers"], atol=1e-6)
        assert result["temperature"] == pytest.approx(alone["temperature"], rel=1e-3)
        assert result["objective"] == pytest.approx(alone["objective"], abs=1e-7)
    np.testing.assert_array_equal(results[0]["unseeded"], results[1]["unseeded"])


def fit_two_rows():
    """Fit fewer rows than there are processes."""
    from kinfold import SphericalKMeans

    return {"labels": SphericalKMeans(n_clusters=2, random_state=0, device="cpu").fit(np.eye(3)[:2]).labels_}


def test_processes_without_rows_take_part():
    for result in run_together(fit_two_rows, 3):
        assert sorted(result["labels"].tolist()) == [0, 1]
