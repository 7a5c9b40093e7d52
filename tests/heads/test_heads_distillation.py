"""TAC's losses against loops over columns and samples in float64."""

import math

import numpy as np
import pytest
import torch

from kinfold.heads import DualSettings, balance_loss, confidence_loss, distillation_loss, dual_loss
from kinfold.heads._dual_loss import dual_loss_gradient

B, K = 7, 4
SETTINGS = [
    DualSettings(),
    DualSettings(temperature=5.0, balance_weight=1.5),
    DualSettings(balance_weight=0),
    DualSettings(confidence=False),
    DualSettings(distillation="none"),
    DualSettings(distillation="text_to_image"),
    DualSettings(distillation="image_to_text", balance_weight=0, confidence=False),
]


def made_logits(seed=0, shape=(2, 2, B, K), scale=1.5):
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
    """Return loss and gradient of logits (2, 2, B, K), by way of the layout (2, K, 2B) of training."""
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


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loss_is_the_naive_loop_in_value_and_gradient(settings):
    logits = made_logits()
    loss, gradient = autograd(logits, settings)
    assert loss == pytest.approx(naive_loss(logits, settings), rel=1e-12)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-6
        ahead, behind = (naive_loss(logits + sign * step, settings) for sign in (1, -1))
        assert gradient[place] == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("shape", [(2, 2, B, K), (2, 2, 3, 9), (2, 2, 5, 1), (2, 2, 1, 3)])
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
    logits = np.zeros((2, 2, B, K), np.float32)
    logits[..., 0] = 400.0  # all in one cluster, the others empty
    for settings in SETTINGS:
        loss, gradient = fused_loss(logits, settings)
        assert np.isfinite(loss), settings
        assert np.isfinite(gradient).all(), settings


def test_disagreeing_certainty_is_finite():
    logits = np.zeros((2, 2, B, K), np.float32)
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
