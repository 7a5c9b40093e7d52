from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kinfold.distributed import Workers
from kinfold.errors import KinfoldError
from kinfold.pipeline import cluster
from kinfold.pipeline._team import Team
from support import text_models
from support.torchrun import run_together, run_under_torchrun

QUICK = {"n_heads": 4, "n_epochs": 6}
PARAMETERS = {
    "icce": {**QUICK, "self_training_iterations": 50},
    "kmeans": {},
    "tac": {"n_epochs": 6},
    "auto": {"parameters": {"temi": QUICK, "icce": QUICK}},
}
slow = pytest.mark.slow


def group(
    features: str,
    out: str,
    method: str,
    n_clusters: int = 3,
    more: dict[str, int] | None = None,
    words: dict[str, str] | None = None,
) -> dict[str, object]:
    """Cluster features; say what came out, or the error that it ended with."""
    try:
        run = cluster(
            features,
            n_clusters,
            method=method,
            out=out,
            random_state=1,
            precision="float32",
            method_parameters={**PARAMETERS[method], **(more or {})},
            **(words or {}),  # type: ignore[arg-type]
        )
    except KinfoldError as error:
        return {"error": str(error)}
    probabilities = np.array(run.assignments["top_probabilities"].to_pylist())
    return {"labels": run.labels, "probabilities": probabilities, "path": str(run.path)}


@pytest.mark.parametrize(
    "method",
    [pytest.param("icce", marks=slow), pytest.param("kmeans", marks=slow), pytest.param("auto", marks=slow)],
)
def test_two_processes_write_one_run_with_the_assignments_of_one(features_file, tmp_path, method):
    alone = group(str(features_file), str(tmp_path / "alone"), method)
    results = run_together(group, 2, features=str(features_file), out=str(tmp_path / "both"), method=method)
    for result in results:
        np.testing.assert_array_equal(result["labels"], alone["labels"])
        np.testing.assert_allclose(result["probabilities"], alone["probabilities"], atol=1e-3)
        assert str(result["path"]) == str(tmp_path / "both")
    one, two = (
        json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("alone", "both")
    )
    assert two["criteria"]["neighbor_agreement"] == one["criteria"]["neighbor_agreement"]
    assert list(two["stages"]) == list(one["stages"])
    assert {file.name for file in (tmp_path / "both").iterdir()} == {
        file.name for file in (tmp_path / "alone").iterdir()
    }


@slow
def test_two_processes_find_the_nouns_that_the_first_one_read(features_file, tmp_path, monkeypatch):
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    text_models.make_clip(tmp_path / "clip", dim=8)
    (tmp_path / "nouns.txt").write_text("\n".join(f"noun {number}" for number in range(30)))
    words = {"text_model": str(tmp_path / "clip"), "nouns": str(tmp_path / "nouns.txt")}
    given = {"features": str(features_file), "method": "tac", "words": words}
    results = run_together(group, 2, out=str(tmp_path / "both"), **given)
    alone = group(out=str(tmp_path / "alone"), **given)
    for result in results:
        np.testing.assert_array_equal(result["labels"], alone["labels"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"n_clusters": 91}, "n_clusters is 91, but there are only 90", marks=slow),
        ({"features": "nowhere"}, "nowhere"),
    ],
)
def test_what_the_first_process_refuses_ends_all_with_its_words(features_file, tmp_path, arguments, words):
    given = {"features": str(features_file), "out": str(tmp_path / "out"), "method": "kmeans"}
    first, second = (str(result["error"]) for result in run_together(group, 2, **given | arguments))
    assert words in first
    assert second == f"the first process of this job stopped: {first}"
    assert not (tmp_path / "out").exists()


@slow
def test_more_processes_than_heads_is_an_error_for_all(features_file, tmp_path):
    given = {"features": str(features_file), "out": str(tmp_path / "out"), "method": "icce"}
    for result in run_together(group, 2, **given, more={"n_heads": 1}):
        assert "1 heads can't be divided among 2 processes" in str(result["error"])


def fail_alone(features: str, out: str) -> dict[str, object]:
    """Cluster in the first process; the other one joins the fit and dies in it."""
    import kinfold.methods._heads as heads

    if os.environ["RANK"] == "1":
        heads.HeadMethod._train = lambda *_: os._exit(7)  # type: ignore[method-assign]
    return group(features, out, "icce")


@slow
def test_a_process_that_dies_in_the_fit_ends_the_others(features_file, tmp_path):
    with pytest.raises(AssertionError, match="exit status") as failure:
        run_under_torchrun(fail_alone, 2, features=str(features_file), out=str(tmp_path / "out"))
    assert "exitcode  : 7" in str(failure.value)


def test_a_lost_process_is_told_in_words():
    class Lost(Workers):
        def broadcast(self, content, source=0):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")

    with pytest.raises(KinfoldError, match="another process of this job has ended"):
        Team(Lost(1, 2)).follow("nowhere")


def test_other_errors_stay_what_they_are():
    class Broken(Workers):
        def broadcast(self, content, source=0):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Team(Broken(1, 2)).follow("nowhere")


def test_the_command_speaks_once_under_torchrun(features_file, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kinfold"]
    words += ["cluster", str(features_file), "-k", "3", "--method", "kmeans", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *words, "--json"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_images"] == 90
    assert done.stderr.count("Expected: about") == 1
