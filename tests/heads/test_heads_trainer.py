import logging

import numpy as np
import pytest
import torch

from kinfold.heads import MultiHeadNetwork, PairSampler, Schedule, StudentTeacher, TemiObjective, Trainer
from kinfold.neighbors import NeighborGraph

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


def made_graph(degrees, n_samples):
    random = np.random.default_rng(0)
    indices = [random.choice(n_samples, size=degree, replace=False) for degree in degrees]
    flat = np.concatenate(indices).astype(np.int32) if sum(degrees) else np.zeros(0, np.int32)
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return NeighborGraph(indptr, flat, np.ones(len(flat), np.float32))


@pytest.fixture
def numbered():
    """Features whose single column is the row number, so that a batch tells who was drawn."""
    degrees = [3, 0, 5, 1] * 10
    return np.arange(40, dtype=np.float32)[:, None], made_graph(degrees, 40)


def drawn(sampler, epoch):
    batches = [batch[:, 0].long().numpy() for batch in sampler.epoch(epoch)]
    half = sampler.batch_size
    return np.concatenate([b[:half] for b in batches]), np.concatenate([b[half:] for b in batches])


def test_every_sample_is_visited_once_and_the_partial_batch_dropped(numbered):
    sampler = PairSampler(*numbered, batch_size=12, seed=0, device=CPU)
    anchors, _ = drawn(sampler, 0)
    assert sampler.steps_per_epoch == 3
    assert len(anchors) == len(set(anchors)) == 36


def test_partners_are_neighbors_and_the_lonely_are_their_own(numbered):
    X, graph = numbered
    sampler = PairSampler(X, graph, batch_size=8, seed=0, device=CPU)
    for epoch in range(20):
        for anchor, partner in zip(*drawn(sampler, epoch), strict=True):
            own = graph.indices[graph.indptr[anchor] : graph.indptr[anchor + 1]]
            assert partner in own if len(own) else partner == anchor


def test_partners_are_drawn_uniformly():
    graph = made_graph([4] + [1] * 9, 10)
    sampler = PairSampler(np.arange(10.0)[:, None], graph, batch_size=10, seed=0, device=CPU)
    counts = np.zeros(10)
    for epoch in range(2000):
        anchors, partners = drawn(sampler, epoch)
        counts[partners[anchors == 0][0]] += 1
    own = counts[graph.indices[:4]]
    assert own.sum() == 2000
    assert np.abs(own - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_an_epoch_depends_on_seed_and_number_alone(numbered):
    first = PairSampler(*numbered, batch_size=8, seed=4, device=CPU)
    expected = drawn(first, 7)
    again = PairSampler(*numbered, batch_size=8, seed=4, device=CPU)
    np.testing.assert_array_equal(drawn(again, 7), expected)
    assert not np.array_equal(drawn(again, 8), expected)
    other = PairSampler(*numbered, batch_size=8, seed=5, device=CPU)
    assert not np.array_equal(drawn(other, 7), expected)


def test_a_memory_map_gives_the_same_batches(numbered, tmp_path):
    X, graph = numbered
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = drawn(PairSampler(X, graph, batch_size=8, seed=4, device=CPU), 0)
    np.testing.assert_array_equal(
        drawn(PairSampler(mapped, graph, batch_size=8, seed=4, device=CPU), 0), expected
    )


def test_integers_arrive_as_floats(numbered):
    X, graph = numbered
    sampler = PairSampler(X.astype(np.uint8), graph, batch_size=8, seed=4, device=CPU)
    assert next(sampler.epoch(0)).dtype is torch.float32


def test_a_graph_without_edges_pairs_everyone_with_themselves():
    sampler = PairSampler(np.arange(5.0)[:, None], made_graph([0] * 5, 5), batch_size=5, seed=0, device=CPU)
    anchors, partners = drawn(sampler, 0)
    np.testing.assert_array_equal(anchors, partners)


def test_further_targets_are_neighbors_of_both_members(numbered):
    X, graph = numbered
    sampler = PairSampler(X, graph, batch_size=8, seed=4, device=CPU, n_targets=3)
    for batch in sampler.epoch(0):
        views = batch[:, 0].long().numpy().reshape(6, 8)
        for origin, further in ((views[0], views[[1, 2, 4]]), (views[1], views[[3, 5]])):
            for i, sample in enumerate(origin):
                own = graph.neighbors(sample)
                assert all(x in own if len(own) else x == sample for x in further[:, i])


def test_the_draws_stay_the_same_from_release_to_release(numbered):
    sampler = PairSampler(*numbered, batch_size=20, seed=4, device=CPU)
    anchors, partners = drawn(sampler, 0)
    assert anchors[:6].tolist() == [9, 24, 14, 27, 39, 5]
    assert partners[:6].tolist() == [9, 10, 17, 31, 19, 5]


def test_rows_that_must_be_read_come_in_order_and_failures_come_through(numbered):
    class Slow:
        shape, dtype = (40, 1), np.dtype(np.float32)
        n_reads = 0

        def __getitem__(self, rows):
            Slow.n_reads += 1
            if Slow.n_reads == 4:
                raise OSError("the disk is gone")
            return numbered[0][rows]

    sampler = PairSampler(Slow(), numbered[1], batch_size=8, seed=4, device=CPU)
    expected = PairSampler(*numbered, batch_size=8, seed=4, device=CPU).epoch(0)
    read = sampler.epoch(0)
    for _ in range(3):
        assert torch.equal(next(read), next(expected))
    with pytest.raises(OSError, match="disk is gone"):
        next(read)
