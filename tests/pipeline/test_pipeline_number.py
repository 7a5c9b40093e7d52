"""Claims about runs whose number of groups is found."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.datasets import make_blobs

import kinfold
from kinfold.corrections import Corrections, Rename
from kinfold.errors import InputError
from kinfold.levels import open_levels
from kinfold.pipeline import _cluster
from kinfold.run import Run

FILES = ("assignments.parquet", "levels.json", "levels.parquet", "levels.safetensors", "model.safetensors")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    X, _ = make_blobs(400, centers=5, n_features=16, cluster_std=0.8, random_state=2)
    path = tmp_path_factory.mktemp("number") / "features.npy"
    np.save(path, X.astype(np.float32))
    return path


def cluster(features, out, n_clusters=None, **more) -> Run:
    return kinfold.cluster(features, n_clusters, method="kmeans", out=out, report=False, **more)


def hashes(run: Run) -> dict[str, str]:
    return {name: hashlib.sha256((run.path / name).read_bytes()).hexdigest() for name in FILES}


@pytest.fixture(scope="module")
def found(features, tmp_path_factory):
    return cluster(features, tmp_path_factory.mktemp("found") / "run")


def test_the_number_is_found_where_none_is_asked_for(found):
    assert found.n_clusters == found.manifest.choice["chosen"] == 5
    assert found.manifest.parameters["n_clusters"] == 5
    assert "lie apart" in found.manifest.choice["reason"]
    assert open_levels(found).estimate == found.manifest.choice


def test_a_second_call_estimates_nothing_again(found, features, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("estimated again")

    monkeypatch.setattr(_cluster, "estimate_levels", refuse)
    before = hashes(found)
    assert hashes(cluster(features, found.path, "auto")) == before


def test_a_stop_while_it_is_found_changes_nothing(found, features, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_cluster, "estimate_levels", stop)
        with pytest.raises(KeyboardInterrupt):
            cluster(features, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(_cluster, "build_levels", stop)
        with pytest.raises(KeyboardInterrupt):
            cluster(features, tmp_path / "run")
    assert hashes(cluster(features, tmp_path / "run")) == hashes(found)


def test_a_range_bounds_it_and_a_number_settles_it(features, tmp_path):
    ranged = cluster(features, tmp_path / "run", "7..9")
    assert 7 <= ranged.n_clusters <= 9
    assert (ranged.manifest.choice["least"], ranged.manifest.choice["most"]) == (7, 9)
    settled = cluster(features, tmp_path / "run", "4")
    assert settled.n_clusters == 4
    assert settled.manifest.choice is None
    assert open_levels(settled).estimate is None


def test_a_corrected_run_keeps_its_groups(features, tmp_path):
    run = cluster(features, tmp_path / "run")
    with Corrections.open(run) as corrections:
        corrections.apply(Rename(0, "cats"))
    before = hashes(run)
    assert hashes(cluster(features, run.path)) == before
    with pytest.raises(InputError, match="corrected by hand"):
        cluster(features, run.path, "7..9")
    assert hashes(run) == before


@pytest.mark.parametrize("wrong", ["many", "5..", "9..5", "0", "-3", "1.5", ""])
def test_what_is_no_number_is_refused_before_anything_is_written(features, tmp_path, wrong):
    with pytest.raises(InputError, match=r"12, a range like 5\.\.50, or auto"):
        cluster(features, tmp_path / "run", wrong)
    assert not (tmp_path / "run").exists()


def test_more_groups_than_images_are_refused(features, tmp_path):
    with pytest.raises(InputError, match="ask for at most 400 groups"):
        cluster(features, tmp_path / "run", "500..600")


@pytest.mark.parametrize("n_images", [1, 3])
def test_few_images_get_few_groups(tmp_path, n_images):
    run = kinfold.cluster(np.eye(n_images, 8, dtype=np.float32), method="kmeans", out=tmp_path / "run")
    assert 1 <= run.n_clusters <= n_images
    assert "too few" in run.manifest.choice["reason"]


def test_the_estimate_of_the_work_has_the_stage(features):
    assert "choose" in [stage.name for stage in kinfold.estimate(features, method="kmeans").stages]
    assert "choose" not in [stage.name for stage in kinfold.estimate(features, 5, method="kmeans").stages]
