"""Training by several processes under torchrun against one process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kinfold.distributed import current_workers
from kinfold.errors import InputError
from kinfold.heads import (
    MultiHeadNetwork,
    PairSampler,
    ScanObjective,
    Schedule,
    StudentTeacher,
    TemiObjective,
    Trainer,
)
from kinfold.heads import trainer as trainer_module
from kinfold.neighbors import NeighborGraph
from support.torchrun import run_together

H, D, K, N, B = 3, 10, 4, 48, 8
CPU = torch.device("cpu")
NAMES = ("temi", "scan", "icce")


def made_objective(name):
    if name == "scan":
        return ScanObjective()
    if name == "icce":
        return TemiObjective(H, K, balanced=True, cross_entropy_weight=1.0, teacher_temperature=0.07)
    return TemiObjective(H, K)


class Interrupted(PairSampler):
    """Batches that end in the middle of everything."""

    stop_before = None

    def epoch(self, number):
        if number == self.stop_before:
            raise KeyboardInterrupt
        return super().epoch(number)


def made_data():
    random = np.random.default_rng(0)
    X = random.normal(size=(N, D)).astype(np.float32)
    indices = random.integers(N, size=(N, 5)).astype(np.int32)
    graph = NeighborGraph(np.arange(N + 1) * 5, indices.ravel(), np.ones(5 * N, np.float32))
    return X, graph


def train(name="temi", stop=None, checkpoint=None, stop_before=None):
    """Train, and return all that a method can ask for."""
    X, graph = made_data()
    network = MultiHeadNetwork(D, K, H, generator=torch.Generator().manual_seed(0), batch_norm=name == "icce")
    schedule = Schedule(n_epochs=4, learning_rate=1e-3, warmup_steps=4, frozen_steps=2, momentum=0.9)
    learner = StudentTeacher(network, made_objective(name), schedule, device=CPU, dtype=torch.float32)
    batches = Interrupted(X, graph, batch_size=B, seed=1, device=CPU, n_targets=2 if name == "icce" else 1)
    batches.stop_before = stop_before
    try:
        training = Trainer(learner).fit(batches, checkpoint=checkpoint, stop=stop)
    except KeyboardInterrupt:
        return {}
    result = {
        "history": training.history,
        "stopped": training.stopped_early,
        "labels": training.predict_labels(X[start : start + 20] for start in range(0, N, 20)),
        "own": training.teacher.n_heads,
    }
    for head in range(H):
        result[f"probabilities.{head}"] = training.predict_probabilities(head, [X[:30], X[30:]])
        for key, value in training.head_tensors(head).items():
            result[f"head.{head}.{key}"] = value.numpy()
    return result


def after_two_epochs(history):
    return len(history) >= 2


def resume(folder):
    """Be killed twice, the second time between the renaming of one process's file and the other's."""
    trainer_module.SECONDS_BETWEEN = 0.0
    path = Path(folder) / "checkpoint"
    train(checkpoint=path, stop_before=2)
    second = Path(folder) / "checkpoint.1-of-2"
    older = second.read_bytes()
    train(checkpoint=path, stop_before=3)
    current_workers().wait()
    if current_workers().rank == 1:
        second.rename(second.with_name(f"{second.name}.next"))
        second.write_bytes(older)
    current_workers().wait()
    return train(checkpoint=path)


def refuse():
    """Return what is said to more processes than heads."""
    network = MultiHeadNetwork(D, K, 1, generator=torch.Generator())
    schedule = Schedule(n_epochs=1, learning_rate=1e-3, warmup_steps=0, frozen_steps=0)
    try:
        StudentTeacher(network, ScanObjective(), schedule, device=CPU, dtype=torch.float32)
    except InputError as error:
        return {"message": str(error)}
    return {"message": "none"}


def everything(folder):
    """Do all that these tests look at, in one job."""
    jobs = {name: train(name) for name in NAMES}
    jobs["stopped"] = train(stop=after_two_epochs)
    jobs["refused"] = refuse()
    jobs["resumed"] = resume(folder)
    return {f"{job}/{key}": value for job, result in jobs.items() for key, value in result.items()}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Results of a job, of both its processes."""
    results = run_together(everything, 2, folder=str(tmp_path_factory.mktemp("parallel")))
    return lambda job: [
        {key.split("/", 1)[1]: value for key, value in result.items() if key.startswith(f"{job}/")}
        for result in results
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_does(jobs, name):
    alone = train(name)
    assert sorted(int(result["own"]) for result in jobs(name)) == [1, 2]
    for result in jobs(name):
        for key in set(alone) - {"own", "labels"}:
            np.testing.assert_allclose(result[key], alone[key], atol=2e-4, rtol=1e-3, err_msg=key)
        assert result["labels"].shape == (H, N)
        assert (result["labels"] == alone["labels"]).mean() > 0.98


def test_labels_are_the_arg_max_of_probabilities():
    alone = train()
    for head in range(H):
        np.testing.assert_array_equal(alone["labels"][head], alone[f"probabilities.{head}"].argmax(axis=1))
        np.testing.assert_allclose(alone[f"probabilities.{head}"].sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_every_process_stops_by_the_rule_and_says_so(jobs):
    alone = train(stop=after_two_epochs)
    assert alone["stopped"]
    assert not train()["stopped"]
    assert alone["history"].shape == (2, H)
    for result in jobs("stopped"):
        assert result["stopped"]
        np.testing.assert_allclose(result["history"], alone["history"], atol=1e-5)


@pytest.mark.slow
def test_processes_resume_from_the_same_epoch_and_end_in_the_same_bytes(jobs):
    for resumed, whole in zip(jobs("resumed"), jobs("temi"), strict=True):
        assert set(resumed) == set(whole)
        for key, value in whole.items():
            np.testing.assert_array_equal(resumed[key], value, err_msg=key)


@pytest.mark.slow
def test_more_processes_than_heads_are_refused(jobs):
    for result in jobs("refused"):
        assert "1 heads can't be divided among 2 processes" in str(result["message"])


@pytest.mark.parametrize("stop_before", [1, 3])
def test_a_resumed_training_stops_where_the_whole_one_does(tmp_path, monkeypatch, stop_before):
    monkeypatch.setattr(trainer_module, "SECONDS_BETWEEN", 0.0)
    expected = train(stop=lambda history: len(history) >= 3)
    train(checkpoint=tmp_path / "checkpoint", stop_before=stop_before)
    resumed = train(checkpoint=tmp_path / "checkpoint", stop=lambda history: len(history) >= 3)
    np.testing.assert_array_equal(resumed["labels"], expected["labels"])
    np.testing.assert_array_equal(resumed["history"][: len(expected["history"])], expected["history"])
