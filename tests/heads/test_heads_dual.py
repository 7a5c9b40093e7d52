"""TAC's losses against loops in float64, and its learner against PyTorch modules, autograd and Adam."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from kinfold.heads import (
    DualBatches,
    DualHeads,
    DualSettings,
    PairSampler,
    Trainer,
    balance_loss,
    confidence_loss,
    distillation_loss,
    dual_loss,
)
from kinfold.heads.dual import dual_loss_gradient
from kinfold.neighbors import NeighborGraph

CPU = torch.device("cpu")
N, D, K, B = 60, 12, 4, 16
ROWS = 7  # of the losses
SETTINGS = DualSettings()
EVERY_SETTING = [
    DualSettings(),
    DualSettings(temperature=5.0, balance_weight=1.5),
    DualSettings(balance_weight=0),
    DualSettings(confidence=False),
    DualSettings(distillation="none"),
    DualSettings(distillation="text_to_image"),
    DualSettings(distillation="image_to_text", balance_weight=0, confidence=False),
]


def made_logits(seed=0, shape=(2, 2, ROWS, K), scale=1.5):
    return scale * np.random.default_rng(seed).normal(size=shape)


def softmax(logits):
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def cosine(a, b):
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def naive_distillation(a, b, temperature):
    n_clusters, total = a.shape[1], 0.0
    for first, second in ((a, b), (b, a)):
        for k in range(n_clusters):
            positive = math.exp(cosine(first[:, k], second[:, k]) / temperature)
            negative = 0.0
            for other in range(n_clusters):
                if other != k:
                    negative += math.exp(cosine(first[:, k], second[:, other]) / temperature)
                    negative += math.exp(cosine(first[:, k], first[:, other]) / temperature)
            total -= math.log(positive / (positive + negative))
    return total / (2 * n_clusters)


def naive_confidence(p, q):
    return -sum(math.log(sum(p[i, c] * q[i, c] for c in range(p.shape[1]))) for i in range(len(p))) / len(p)


def naive_balance(p, q):
    total = 0.0
    for side in (p, q):
        for c in range(side.shape[1]):
            mean = sum(side[i, c] for i in range(len(side))) / len(side)
            total += mean * math.log(mean)
    return total


def naive_loss(logits, settings):
    (p, p_neighbor), (q, q_neighbor) = softmax(logits)
    total = 0.0
    if settings.distillation in ("both", "text_to_image"):
        total += naive_distillation(p, q_neighbor, settings.temperature)
    if settings.distillation in ("both", "image_to_text"):
        total += naive_distillation(q, p_neighbor, settings.temperature)
    if settings.confidence:
        total += naive_confidence(p, q)
    return total + settings.balance_weight * naive_balance(p, q)


def autograd(logits, settings):
    leaf = torch.from_numpy(logits).requires_grad_()
    (p, p_neighbor), (q, q_neighbor) = torch.softmax(leaf, dim=3)
    loss = dual_loss(p, q, p_neighbor, q_neighbor, settings)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient.numpy()


def fused_loss(logits, settings):
    """Return loss and gradient of logits (2, 2, ROWS, K), by way of the layout (2, K, 2B) of training."""
    n_samples, n_clusters = logits.shape[2:]
    turned = np.ascontiguousarray(logits.reshape(2, 2 * n_samples, n_clusters).swapaxes(1, 2))
    loss, gradient = dual_loss_gradient(torch.from_numpy(turned), settings)
    return float(loss), gradient.numpy().swapaxes(1, 2).reshape(logits.shape)


def test_every_term_is_its_formula():
    (p, _), (q, q_neighbor) = softmax(made_logits())
    as_tensors = [torch.from_numpy(part) for part in (p, q, q_neighbor)]
    found = distillation_loss(as_tensors[0], as_tensors[2], temperature=0.5)
    assert float(found) == pytest.approx(naive_distillation(p, q_neighbor, 0.5), rel=1e-12)
    assert float(confidence_loss(*as_tensors[:2])) == pytest.approx(naive_confidence(p, q), rel=1e-12)
    assert float(balance_loss(*as_tensors[:2])) == pytest.approx(naive_balance(p, q), rel=1e-12)


@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_the_loss_is_the_naive_loop_in_value_and_gradient(settings):
    logits = made_logits()
    loss, gradient = autograd(logits, settings)
    assert loss == pytest.approx(naive_loss(logits, settings), rel=1e-12)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        ahead, behind = (naive_loss(logits + sign * step, settings) for sign in (1, -1))
        assert gradient[place] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("settings", EVERY_SETTING)
@pytest.mark.parametrize("shape", [(2, 2, ROWS, K), (2, 2, 3, 9), (2, 2, 5, 1), (2, 2, 1, 3)])
def test_the_fused_loss_is_autograds_in_value_and_gradient(settings, shape):
    logits = made_logits(1, shape)
    loss, gradient = autograd(logits.copy(), settings)
    found, fused = fused_loss(logits, settings)
    assert float(found) == pytest.approx(loss, rel=1e-11, abs=1e-12)
    np.testing.assert_allclose(fused, gradient, rtol=1e-9, atol=1e-12)
    found, fused = fused_loss(logits.astype(np.float32), settings)
    assert float(found) == pytest.approx(loss, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(fused, gradient, atol=1e-5)


def test_certain_and_forbidden_clusters_leave_everything_finite():
    logits = np.zeros((2, 2, ROWS, K), np.float32)
    logits[..., 0] = 400.0  # all in one cluster, the others empty
    for settings in EVERY_SETTING:
        loss, gradient = fused_loss(logits, settings)
        assert np.isfinite(loss), settings
        assert np.isfinite(gradient).all(), settings


def test_disagreeing_certainty_is_finite():
    logits = np.zeros((2, 2, ROWS, K), np.float32)
    logits[0, ..., 0], logits[1, ..., 1] = 300.0, 300.0
    loss, gradient = fused_loss(logits, DualSettings())
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_the_best_there_is_costs_least():
    certain = np.tile(np.eye(K) * 60, (3, 1))
    best, gradient = fused_loss(np.broadcast_to(certain, (2, 2, *certain.shape)), DualSettings())
    assert np.abs(gradient).max() < 1e-6
    exact = math.log(1 + 2 * (K - 1) * math.exp(-2)) * 2 - 5 * 2 * math.log(K)
    assert float(best) == pytest.approx(exact, rel=1e-5)
    for seed in range(5):
        assert fused_loss(made_logits(seed), DualSettings())[0] > best


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


def made_learner(settings=SETTINGS, n_epochs=4, dtype=torch.float32, **options):
    return DualHeads(
        D,
        K,
        settings,
        n_epochs=n_epochs,
        learning_rate=1e-3,
        generator=torch.Generator().manual_seed(0),
        device=CPU,
        dtype=dtype,
        **options,
    )


def module_of(learner, side):
    module = nn.Sequential(nn.Linear(D, D, bias=False), nn.BatchNorm1d(D), nn.ReLU(), nn.Linear(D, K))
    weights = learner.weights
    values = (weights.weight1, weights.gain, weights.shift, weights.weight2, weights.bias2)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value[side])
    return module.double()


def pass_rows(module, rows, apart):
    """Samples and neighbours through a module in one pass, or one after the other."""
    return torch.cat([module(part) for part in rows.chunk(2)]) if apart else module(rows)


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
                torch.softmax(pass_rows(module, rows.double(), learner.separate_moments), dim=1).chunk(2)
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
@pytest.mark.parametrize(
    "options",
    [{}, {"separate_moments": True}, {"separate_moments": True, "initialization": "truncated_normal"}],
)
def test_training_equals_a_naive_loop(settings, options):
    modules, history = naive_training(made_learner(settings, **options), made_batches())
    learner = made_learner(settings, **options)
    training = Trainer(learner).fit(made_batches())
    np.testing.assert_allclose(training.history, history, rtol=1e-4)
    for side, module in enumerate(modules):
        expected = module_of(learner, side).state_dict()
        for name, value in module.state_dict().items():
            if "running" not in name and "num_batches" not in name:
                np.testing.assert_allclose(value, expected[name], atol=2e-4, err_msg=f"{side} {name}")


@pytest.mark.parametrize("apart", [False, True])
def test_prediction_is_the_module_in_evaluation_once_its_averages_have_forgotten_their_start(apart):
    learner = made_learner(n_epochs=60, separate_moments=apart)
    modules, _ = naive_training(made_learner(n_epochs=60, separate_moments=apart), made_batches())
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


def test_initial_weights_are_of_the_distribution_that_was_named():
    deviation = float(stats.truncnorm.std(-2, 2, scale=0.02))
    normal = made_learner(initialization="truncated_normal").weights
    assert float(normal.weight1.abs().max()) <= 0.04
    assert float(normal.weight1.std()) == pytest.approx(deviation, rel=0.1)
    assert not normal.bias2.any()
    uniform = made_learner().weights
    assert 0.04 < float(uniform.weight1.abs().max()) <= D**-0.5
    assert uniform.bias2.all()


@pytest.mark.parametrize("option", [{"separate_moments": True}, {"initialization": "truncated_normal"}])
def test_a_checkpoint_of_another_network_is_not_continued_from(option):
    assert made_learner(**option).describe() != made_learner().describe()


def test_a_resumed_training_ends_in_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("kinfold.heads.trainer.SECONDS_BETWEEN", 0.0)
    expected = Trainer(made_learner()).fit(made_batches())
    whole = DualHeads.step
    path = tmp_path / "checkpoint"
    for stop in (4, 9):

        def step(self, batch, batch_size, number, share_done, stop=stop):
            if number == stop:
                raise KeyboardInterrupt
            return whole(self, batch, batch_size, number, share_done)

        with monkeypatch.context() as patched:
            patched.setattr(DualHeads, "step", step)
            with pytest.raises(KeyboardInterrupt):
                Trainer(made_learner()).fit(made_batches(), checkpoint=path)
    resumed = Trainer(made_learner()).fit(made_batches(), checkpoint=path)
    np.testing.assert_array_equal(resumed.history, expected.history)
    for found, wanted in zip(resumed.image + resumed.text, expected.image + expected.text, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("apart", [False, True])
def test_bfloat16_products_stay_close_to_float32(apart):
    batch = next(made_batches().epoch(0))
    exact = made_learner(separate_moments=apart).step(batch, B, 0, 0.0)
    rounded = made_learner(dtype=torch.bfloat16, separate_moments=apart).step(batch, B, 0, 0.0)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0)
    learner = made_learner(dtype=torch.bfloat16, separate_moments=apart)
    assert np.isfinite(Trainer(learner).fit(made_batches()).history).all()


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
