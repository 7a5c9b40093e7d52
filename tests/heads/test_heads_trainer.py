import logging

import numpy as np
import pytest
import torch

from kinfold.heads import MultiHeadNetwork, Schedule, StudentTeacher, TemiObjective, Trainer

CPU = torch.device("cpu")
SCHEDULE = Schedule(n_epochs=4, learning_rate=1e-2, warmup_steps=4, frozen_steps=2, momentum=0.9)


class MadeBatches:
    batch_size = 8
    steps_per_epoch = 3

    def __init__(self, stop_before=None):
        self._stop_before = stop_before

    def epoch(self, number):
        if number == self._stop_before:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(number)
        for _ in range(self.steps_per_epoch):
            yield torch.randn(16, 10, generator=generator)


def make_trainer(schedule=SCHEDULE, identity="", dtype=torch.float32):
    network = MultiHeadNetwork(10, 4, 3, generator=torch.Generator().manual_seed(0))
    learner = StudentTeacher(network, TemiObjective(3, 4), schedule, device=CPU, dtype=dtype)
    return Trainer(learner, identity=identity)


def decay_groups(head):
    decayed = [head.weight1, head.weight2, head.direction, head.gain]
    return [
        {"params": decayed, "weight_decay": 1e-4},
        {"params": [head.bias1, head.bias2], "weight_decay": 0.0},
    ]


def naive_training():
    """The same training as the textbook has it: head by head, plain AdamW, float64."""
    objective = TemiObjective(3, 4)
    objective.marginal = objective.marginal.double()
    source = MultiHeadNetwork(10, 4, 3, generator=torch.Generator().manual_seed(0))
    heads = []
    for h in range(3):
        head = MultiHeadNetwork(10, 4, 1, generator=torch.Generator())
        head.load_state_dict(source.head_tensors(h))
        teacher = MultiHeadNetwork(10, 4, 1, generator=torch.Generator())
        teacher.load_state_dict(source.head_tensors(h))
        heads.append((head.double(), teacher.double()))
    optimizers = [torch.optim.AdamW(decay_groups(h), lr=1e-2, foreach=False) for h, _ in heads]
    step = 0
    for epoch in range(4):
        for batch in MadeBatches().epoch(epoch):
            x = batch.double()
            student = torch.cat([h(x) for h, _ in heads])
            with torch.no_grad():
                teacher = torch.cat([t(x) for _, t in heads])
            log_student = torch.log_softmax(student / 0.1, 2)
            log_teacher = torch.log_softmax(teacher / 0.1, 2)
            objective.marginal = 0.9 * objective.marginal + 0.1 * log_teacher.exp().mean(1)
            q_a, q_b = log_teacher.exp().chunk(2, 1)
            p_a, p_b = log_student.exp().chunk(2, 1)
            weight = (q_a * q_b).sum(2).mean(0)
            pmi = sum(
                ((q * p) ** 0.6 / objective.marginal[:, None]).sum(2).log()
                for q, p in ((q_a, p_b), (q_b, p_a))
            )
            (-0.5 * weight * pmi).mean(1).mean().backward()
            for (head, twin), optimizer in zip(heads, optimizers, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = 1e-2 * min(1, (step + 1) / 4)
                if step < 2:
                    head.direction.grad = head.gain.grad = None
                optimizer.step()
                optimizer.zero_grad()
                with torch.no_grad():
                    for t, s in zip(twin.parameters(), head.parameters(), strict=True):
                        t.mul_(0.9).add_(0.1 * s)
            step += 1
    return [teacher.state_dict() for _, teacher in heads]


def test_training_equals_a_naive_loop_over_heads():
    teacher = make_trainer().fit(MadeBatches()).teacher
    for h, expected in enumerate(naive_training()):
        for name, value in teacher.head_tensors(h).items():
            np.testing.assert_allclose(value.numpy(), expected[name].numpy(), atol=3e-4, err_msg=name)


def test_history_is_the_mean_loss_of_every_epoch():
    training = make_trainer().fit(MadeBatches())
    assert training.history.shape == (4, 3)
    np.testing.assert_array_equal(training.head_losses, training.history[-1])
    trainer = make_trainer()
    losses = [
        trainer.learner.step(batch, 8, step, 0.0).numpy() for step, batch in enumerate(MadeBatches().epoch(0))
    ]
    np.testing.assert_allclose(np.mean(losses, axis=0), training.history[0], rtol=1e-6)


def test_the_last_layer_stays_frozen_at_first():
    trainer = make_trainer()
    before = trainer.learner.student.direction.detach().clone()
    batch = next(MadeBatches().epoch(0))
    trainer.learner.step(batch, 8, 0, 0.0)
    assert torch.equal(trainer.learner.student.direction, before)
    trainer.learner.step(batch, 8, 2, 0.0)
    assert not torch.equal(trainer.learner.student.direction, before)


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    expected = make_trainer().fit(MadeBatches())
    path = tmp_path / "checkpoint"
    for stop in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            make_trainer().fit(MadeBatches(stop_before=stop), checkpoint=path)
    resumed = make_trainer().fit(MadeBatches(), checkpoint=path)
    np.testing.assert_array_equal(resumed.history, expected.history)
    torch.testing.assert_close(resumed.teacher.state_dict(), expected.teacher.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_other_data_is_not_continued_from(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        make_trainer(identity="one").fit(MadeBatches(stop_before=3), checkpoint=path)
    with caplog.at_level(logging.WARNING):
        history = make_trainer(identity="two").fit(MadeBatches(), checkpoint=path).history
    np.testing.assert_array_equal(history, make_trainer().fit(MadeBatches()).history)
    assert "other parameters" in caplog.text


def test_a_damaged_checkpoint_is_ignored_and_said(tmp_path, caplog):
    path = tmp_path / "checkpoint"
    path.write_bytes(b"no safetensors")
    with caplog.at_level(logging.WARNING):
        history = make_trainer().fit(MadeBatches(), checkpoint=path).history
    np.testing.assert_array_equal(history, make_trainer().fit(MadeBatches()).history)
    assert "damaged checkpoint" in caplog.text


def test_bfloat16_products_stay_close_to_float32():
    batch = next(MadeBatches().epoch(0))
    exact = make_trainer().learner.step(batch, 8, 0, 0.0).numpy()
    rounded = make_trainer(dtype=torch.bfloat16).learner.step(batch, 8, 0, 0.0).numpy()
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.01)
    assert np.isfinite(make_trainer(dtype=torch.bfloat16).fit(MadeBatches()).history).all()
