"""TAC's learner against PyTorch modules, autograd and Adam in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from kinfold.heads import DualBatches, DualHeads, DualSettings, PairSampler, Trainer, dual_loss
from kinfold.neighbors import NeighborGraph

CPU = torch.device("cpu")
N, D, K, B = 60, 12, 4, 16
SETTINGS = DualSettings()


def made_graph(seed, n=N):
    indices = np.random.default_rng(seed).integers(n, size=5 * n).astype(np.int32)
    return NeighborGraph(np.arange(n + 1) * 5, indices, np.ones(5 * n, np.float32))


def made_rows(seed, n=N):
    rows = torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(rows, dim=1)


def made_batches(batch_size=B):
    samplers = [
        PairSampler(
            made_rows(side).numpy(),
            made_graph(side),
            batch_size=batch_size,
            seed=side,
            device=CPU,
            order_seed=7,
        )
        for side in (0, 1)
    ]
    return DualBatches(*samplers)


def made_learner(settings=SETTINGS, n_epochs=4, dtype=torch.float32):
    return DualHeads(
        D,
        K,
        settings,
        n_epochs=n_epochs,
        learning_rate=1e-3,
        generator=torch.Generator().manual_seed(0),
        device=CPU,
        dtype=dtype,
    )


def module_of(learner, side):
    module = nn.Sequential(nn.Linear(D, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(), nn.Linear(D, K))
    weights = learner.weights
    values = (weights.weight1, weights.gain, weights.shift, weights.weight2, weights.bias2)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value[side])
    return module.double()


def naive_training(learner, batches):
    """Return the modules, and the loss of every epoch, of the same training as the textbook has it."""
    modules = [module_of(learner, side) for side in (0, 1)]
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.99), foreach=False)
    history = []
    for epoch in range(learner.n_epochs):
        losses = []
        for batch in batches.epoch(epoch):
            views = [
                torch.softmax(module(rows.double()), dim=1).chunk(2)
                for module, rows in zip(modules, batch, strict=True)
            ]
            loss = dual_loss(views[0][0], views[1][0], views[0][1], views[1][1], learner.settings)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        history.append(np.mean(losses))
    return modules, history


@pytest.mark.parametrize(
    "settings", [SETTINGS, DualSettings(distillation="image_to_text", confidence=False, temperature=5.0)]
)
def test_training_equals_a_naive_loop(settings):
    modules, history = naive_training(made_learner(settings), made_batches())
    learner = made_learner(settings)
    training = Trainer(learner).fit(made_batches())
    np.testing.assert_allclose(training.history, history, rtol=1e-4)
    for side, module in enumerate(modules):
        expected = module_of(learner, side).state_dict()
        for name, value in module.state_dict().items():
            if "running" not in name and "num_batches" not in name:
                np.testing.assert_allclose(value, expected[name], atol=2e-4, err_msg=f"{side} {name}")


def test_prediction_is_the_module_in_evaluation_once_its_averages_have_forgotten_their_start():
    learner = made_learner(n_epochs=60)
    modules, _ = naive_training(made_learner(n_epochs=60), made_batches())
    training = Trainer(learner).fit(made_batches())
    rows = made_rows(5)
    for head, module in zip((training.image, training.text), modules, strict=True):
        with torch.no_grad():
            expected = torch.softmax(module.eval()(rows.double()), dim=1)
        # PyTorch's running variance is the unbiased one.
        np.testing.assert_allclose(torch.softmax(head.logits(rows), dim=1), expected, atol=0.03)


def test_averages_are_right_after_one_step():
    learner = made_learner(n_epochs=1)
    batches = made_batches(batch_size=N)
    weight1 = learner.weights.weight1.clone()
    ((images, _),) = batches.epoch(0)
    hidden = images @ weight1[0].T
    head = Trainer(learner).fit(batches).image
    scale = learner.weights.gain[0] / (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head.bias1, learner.weights.shift[0] - hidden.mean(dim=0) * scale)
    torch.testing.assert_close(head.weight1, learner.weights.weight1[0] * scale[:, None])


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.heads.checkpoint.SECONDS_BETWEEN", 0.0)
    expected = Trainer(made_learner()).fit(made_batches())
    whole = DualHeads.step
    path = tmp_path / "checkpoint"
    for stop in (4, 9):

        def step(self, batch, batch_size, number, progress, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return whole(self, batch, batch_size, number, progress)

        with monkeypatch.context() as patched:
            patched.setattr(DualHeads, "step", step)
            with pytest.raises(KeyboardInterrupt):
                Trainer(made_learner()).fit(made_batches(), checkpoint=path)
    resumed = Trainer(made_learner()).fit(made_batches(), checkpoint=path)
    np.testing.assert_array_equal(resumed.history, expected.history)
    for found, wanted in zip(resumed.image + resumed.text, expected.image + expected.text, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_bfloat16_products_stay_close_to_float32():
    batch = next(made_batches().epoch(0))
    exact = made_learner().step(batch, B, 0, 0.0)
    rounded = made_learner(dtype=torch.bfloat16).step(batch, B, 0, 0.0)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    assert np.isfinite(Trainer(made_learner(dtype=torch.bfloat16)).fit(made_batches()).history).all()


@pytest.mark.parametrize("rows", ["equal", "zero"])
def test_rows_without_spread_leave_everything_finite(rows):
    X = np.tile(made_rows(0)[:1].numpy(), (N, 1)) if rows == "equal" else np.zeros((N, D), np.float32)
    samplers = [PairSampler(X, made_graph(s), batch_size=B, seed=s, device=CPU, order_seed=0) for s in (0, 1)]
    training = Trainer(made_learner()).fit(DualBatches(*samplers))
    assert np.isfinite(training.history).all()
    assert bool(torch.isfinite(training.image.logits(torch.from_numpy(X))).all())


def test_both_modalities_see_the_same_samples_with_neighbours_of_their_own():
    numbers = np.arange(N, dtype=np.float32)[:, None]
    samplers = [
        PairSampler(numbers, made_graph(s), batch_size=B, seed=s, device=CPU, order_seed=3) for s in (0, 1)
    ]
    seen = []
    for images, texts in DualBatches(*samplers).epoch(2):
        assert torch.equal(images[:B], texts[:B])
        assert not torch.equal(images[B:], texts[B:])
        seen.append(images[:B, 0])
        for side, rows in enumerate((images, texts)):
            graph = made_graph(side)
            for sample, neighbor in rows[:, 0].int().reshape(2, B).T.tolist():
                assert neighbor in graph.neighbors(sample)
    assert len(set(torch.cat(seen).tolist())) == N // B * B
    assert not torch.equal(next(samplers[0].epoch(0))[:B], next(samplers[0].epoch(1))[:B])
